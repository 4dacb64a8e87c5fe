"""The direct effect against literal interventions at the consumer's input."""

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.filter_graph import trace
from causal_prune.filter_moments import observe
from causal_prune.importance import score


def structural(net: nn.Module, images: Tensor) -> dict[str, Tensor]:
    graph = trace(net, images[:1])
    groups = score(graph, observe(net, graph, images.split(17)), method="structural").groups
    return dict(groups)


def network(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers).eval()


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def intervened(reader: nn.Module, read: Tensor, unit: Tensor) -> float:
    """E||Y - Y(do unit = its mean)||^2 / tr Cov(Y), with the layer itself as the equation."""
    reader = copy.deepcopy(reader).double()
    read, replaced = read.double(), read.double().clone()
    replaced[:, unit] = read[:, unit].mean(dim=0, keepdim=True)  # its mean at every place
    if read.dim() > 2:  # every tap reads the same places of a circularly padded map: one mean for all
        replaced[:, unit] = read[:, unit].mean(dim=(0, *range(2, read.dim())), keepdim=True)
    with torch.no_grad():
        y, other = reader(read).movedim(1, -1).flatten(0, -2), reader(replaced).movedim(1, -1).flatten(0, -2)
    return float((y - other).square().sum(1).mean() / y.var(dim=0, correction=0).sum())


def test_a_convolution_is_intervened_on_literally() -> None:
    torch.manual_seed(1)
    net = network(
        nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
        nn.Conv2d(5, 6, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Conv2d(6, 2, 1),
    )  # fmt: skip
    images = torch.randn(40, 2, 6, 6) + torch.linspace(-1, 2, 40).reshape(-1, 1, 1, 1)
    found = structural(net, images)
    with torch.no_grad():
        first = net[:3](images)
        second = net[:5](images)
    for unit in range(5):
        assert float(found["0"][unit]) == pytest.approx(
            intervened(net[3], first, torch.tensor([unit])), rel=1e-5
        )
    for unit in range(6):
        assert float(found["3"][unit]) == pytest.approx(
            intervened(net[5], second, torch.tensor([unit])), rel=1e-5
        )


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_without_padding_every_tap_has_its_own_mean(stride: int, dilation: int) -> None:
    torch.manual_seed(2)
    net = network(
        nn.Conv2d(2, 4, 1),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, stride=stride, dilation=dilation),
        nn.Flatten(),
        nn.LazyLinear(2),
    )
    images = torch.randn(30, 2, 7, 7) * torch.linspace(
        0.2, 2, 7
    )  # taps see different places: different means
    net(images)
    found = structural(net, images)["0"]
    with torch.no_grad():
        read, reader = net[:2](images).double(), net[2]
        taps = F.unfold(read, 3, dilation=dilation, stride=stride).reshape(len(images), 4, 9, -1)
        weight = reader.weight.double().flatten(2)
        y = torch.einsum("ncap,oca->npo", taps, weight).flatten(0, 1)
    for unit in range(4):
        replaced = taps.clone()
        replaced[:, unit] = taps[:, unit].mean(dim=(0, 2), keepdim=True)
        with torch.no_grad():
            other = torch.einsum("ncap,oca->npo", replaced, weight).flatten(0, 1)
        expected = (y - other).square().sum(1).mean() / y.var(dim=0, correction=0).sum()
        assert float(found[unit]) == pytest.approx(float(expected), rel=1e-5)


def test_a_linear_layer_after_flatten_loses_the_whole_map_of_a_unit() -> None:
    torch.manual_seed(3)
    net = network(
        nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 9, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    images = torch.randn(50, 2, 4, 4)
    found = structural(net, images)
    with torch.no_grad():
        maps, hidden = net[:3](images), net[:5](images)
    for unit in range(4):
        columns = torch.arange(9) + 9 * unit
        assert float(found["0"][unit]) == pytest.approx(intervened(net[3], maps, columns), rel=1e-5)
    for unit in range(5):
        assert float(found["3"][unit]) == pytest.approx(
            intervened(net[5], hidden, torch.tensor([unit])), rel=1e-5
        )


@pytest.mark.parametrize("groups", [2, 4])
def test_a_grouped_convolution_loses_all_channels_of_a_unit(groups: int) -> None:
    torch.manual_seed(4)
    net = network(
        nn.Conv2d(2, 8, 1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", groups=groups), nn.ReLU(), nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    images = torch.randn(40, 2, 5, 5)
    graph = trace(net, images[:1])
    group = next(g for g in graph.prunable if g.name == "0")
    (member,) = (m for m in group.of_role("consumer") if m.layer == "2")
    found = structural(net, images)["0"]
    with torch.no_grad():
        read, rest = net[:2](images), net[:4](images)
    for unit in range(group.size):
        expected = intervened(net[2], read, torch.tensor(member.positions_of([unit])))
        for later in group.of_role("consumer"):
            if (
                later.layer == "4"
            ):  # whole blocks go with their filters: the unit's effect on who reads those counts too
                expected += intervened(net[4], rest, torch.tensor(later.positions_of([unit])))
        assert float(found[unit]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_transposed_convolution_is_intervened_on_literally(stride: int) -> None:
    torch.manual_seed(5)
    reader = nn.ConvTranspose2d(3, 4, 2, stride=stride)
    net = network(nn.Conv2d(2, 3, 1), nn.ReLU(), reader, nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        reader.weight[1] -= reader.weight[1].mean(
            dim=(-1, -2), keepdim=True
        )  # taps that sum to 0 still have an effect
    images = torch.randn(40, 2, 4, 4)
    found = structural(net, images)["0"]
    with torch.no_grad():
        read, y = net[:2](images).double(), net[:3](images).double()
        place = reader.weight.double()
    for unit in range(3):
        centred = F.conv_transpose2d(read[:, unit : unit + 1], place[unit : unit + 1], stride=stride)
        taps = [(i, j) for i in range(2) for j in range(2)]
        spread = []  # what each tap contributes, less its mean over all output positions
        for i, j in taps:
            one = torch.zeros_like(place[unit : unit + 1])
            one[..., i, j] = place[unit, :, i, j]
            part = F.conv_transpose2d(read[:, unit : unit + 1], one, stride=stride)
            spread.append(part - part.mean(dim=(0, 2, 3), keepdim=True))
        effect = sum(spread)
        torch.testing.assert_close(effect, centred - centred.mean(dim=(0, 2, 3), keepdim=True))
        expected = (
            effect.square().sum(1).mean() / y.movedim(1, -1).flatten(0, -2).var(dim=0, correction=0).sum()
        )
        assert float(found[unit]) == pytest.approx(float(expected), rel=1e-5)
        assert float(found[unit]) > 0.01


def test_consumers_of_a_group_add_up(traced) -> None:
    found = score(traced.graph, traced.moments, method="structural").groups["stem"]
    consumers = {m.layer for m in traced.graph.prunable[0].of_role("consumer")}
    assert consumers == {"a", "c"}
    total = torch.zeros(6, dtype=torch.float64)
    with torch.no_grad():
        net, x = traced.net, traced.images
        first = F.relu(net.norm(net.stem(x)))
        stream = F.relu(first + net.b(F.relu(net.a(first))))
        for reader, read in ((net.a, first), (net.c, stream)):
            taps = F.unfold(read.double(), reader.kernel_size, padding=reader.padding, stride=reader.stride)
            taps = taps.reshape(len(x), 6, -1, taps.shape[-1])
            weight = reader.weight.double().flatten(2)
            y = torch.einsum("ncap,oca->npo", taps, weight).flatten(0, 1)
            for unit in range(6):
                centred = taps[:, unit] - taps[:, unit].mean(dim=(0, 2), keepdim=True)
                effect = torch.einsum("nap,oa->npo", centred, weight[:, unit]).square().sum(2).mean()
                total[unit] += effect / y.var(dim=0, correction=0).sum()
    np.testing.assert_allclose(found, total, rtol=1e-5)


def test_rescaling_that_keeps_the_function_keeps_the_score() -> None:
    torch.manual_seed(6)
    net = network(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 2, 1))
    images = torch.randn(40, 2, 6, 6)
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        scaled[0].weight[1] *= 8
        scaled[0].bias[1] *= 8
        scaled[2].weight[:, 1] /= 8
        assert torch.equal(net(images), scaled(images))
    before, after = structural(net, images), structural(scaled, images)
    for name, values in before.items():
        torch.testing.assert_close(after[name], values, rtol=1e-12, atol=0)
    graph = trace(net, images[:1])
    documented = [
        score(graph, observe(each, graph, [images]), method="documented").groups["0"]
        for each in (net, scaled)
    ]
    assert float((documented[0] - documented[1]).abs().max()) > 0.05, "unlike the documented score"


def test_units_without_effect_score_zero() -> None:
    torch.manual_seed(7)
    net = network(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        net[0].weight[0] = net[0].bias[0] = 0  # dead
        net[0].weight[1], net[0].bias[1] = 0, 3  # constant
        net[2].weight[:, 2] = 0  # read by nobody
    found = structural(net, torch.randn(30, 2, 6, 6))["0"]
    assert found[0] == 0 and found[2] == 0
    assert float(found[1]) < 1e-15
    assert bool((found[3:] > 1e-3).all())
