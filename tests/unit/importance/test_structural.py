"""Direct and unique effects of every kind of consumer against interventions and fits on the layers themselves."""

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.importance.scoring import score
from causal_prune.importance.structural import direct_effects, effects, unique_effects, worth_of_channels
from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace


@pytest.fixture(autouse=True)
def _random_state() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        yield


def unshrunk(moments: FilterMoments) -> FilterMoments:
    """Moments as they were counted: what few images leave open is no matter where fits are on the same images."""
    return replace(
        moments, reads={name: replace(read, shrinkage=0.0) for name, read in moments.reads.items()}
    )


def observed(net: nn.Module, images: Tensor) -> tuple[FilterGraph, FilterMoments]:
    graph = trace(net, images[:1])
    return graph, unshrunk(observe(net, graph, images.split(17)))


def impulses(reader: nn.Module, read: Tensor) -> Tensor:
    """What each (channel, tap) of the input adds to the output, by running the layer with all other weights at zero.

    Shape (parameters of one filter's reach, rows, filters); of a linear layer one entry per feature.
    """
    reader, read = copy.deepcopy(reader).double(), read.double()
    parts = []
    weight = reader.weight.detach().clone()
    transposed, linear = isinstance(reader, nn.ConvTranspose2d), isinstance(reader, nn.Linear)
    channels = read.shape[-1] if linear else read.shape[1]
    taps = 1 if linear else weight[0, 0].numel()
    groups = 1 if linear else reader.groups
    reader.bias = None
    for channel in range(channels):
        for tap in range(taps):
            only = torch.zeros_like(weight)
            if linear:
                only[:, channel] = weight[:, channel]
            elif transposed:
                only[channel].flatten(1)[:, tap] = weight[channel].flatten(1)[:, tap]
            else:
                block, inside = divmod(channel, weight.shape[1])
                own = slice(block * len(weight) // groups, (block + 1) * len(weight) // groups)
                only[own, inside].flatten(1)[:, tap] = weight[own, inside].flatten(1)[:, tap]
            with torch.no_grad():
                reader.weight.copy_(only)
                parts.append(reader(read).movedim(1, -1).flatten(0, -2))
    found = torch.stack(parts)
    return found - found.mean(dim=1, keepdim=True)


def literal(reader: nn.Module, read: Tensor, channels: list[int], counts: Tensor) -> tuple[float, float]:
    """Direct and unique effect on a layer of losing some input channels; `counts` weighs the squares of each filter."""
    parts = impulses(reader, read)
    taps = len(parts) // (read.shape[-1] if isinstance(reader, nn.Linear) else read.shape[1])
    gone = [channel * taps + tap for channel in channels for tap in range(taps)]
    kept = [k for k in range(len(parts)) if k not in gone]
    lost = parts[gone].sum(dim=0)
    direct = float(lost.square().mean(dim=0) @ counts)
    unique = 0.0
    for filter_ in range(parts.shape[2]):  # each filter fits what it lost from whatever it still reads
        x, y = parts[kept, :, filter_].numpy().T, lost[:, filter_].numpy()
        live = x.std(axis=0) > 0
        fit = x[:, live] @ np.linalg.lstsq(x[:, live], y, rcond=None)[0] if live.any() else 0.0
        unique += float(((y - fit) ** 2).mean() * counts[filter_])
    return direct, unique


def share(observed: tuple[FilterGraph, FilterMoments], layer: str, state: Tensor) -> Tensor:
    """What a square of each filter of a layer counts: its share of its channel's variance, by the channel's worth."""
    worth = worth_of_channels(observed[1])[layer]
    variance = state.double().movedim(1, -1).flatten(0, -2).var(dim=0, correction=0)
    return worth / worth.sum() / variance


READERS = {
    "plain": nn.Conv2d(6, 5, 3),
    "circular": nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"),
    "stride, dilation, zeros": nn.Conv2d(6, 5, (3, 2), stride=2, dilation=(1, 2), padding=1),
    "grouped": nn.Conv2d(6, 4, 2, groups=2),
    "transposed": nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1),
    "transposed, grouped": nn.ConvTranspose2d(6, 4, 2, groups=2),
}


@pytest.mark.parametrize("name", READERS)
def test_effects_on_every_kind_of_convolution(name: str) -> None:
    reader = copy.deepcopy(READERS[name])
    torch.nn.init.normal_(reader.weight)
    net = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), reader, nn.ReLU(), nn.Conv2d(reader.out_channels, 2, 1)
    ).eval()
    images = torch.randn(60, 2, 5, 5) + torch.linspace(-1, 2, 60).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        read, written = net[:2](images), net[:3](images)
    assert written[0, 0].numel() <= 64 or "transposed" in name, "all positions are read"
    if written[0, 0].numel() > 64:
        net[2] = reader = nn.ConvTranspose2d(6, 4, 3, stride=2, padding=2)
        written = net[:3](images).detach()
    graph, moments = observed(net, images)
    (member,) = (m for g in graph.prunable if g.name == "0" for m in g.of_role("consumer") if m.layer == "2")
    direct, unique = (effects(graph, moments, each)["0"] for each in (direct_effects, unique_effects))
    for unit in range(len(direct)):
        expected = literal(reader, read, member.positions_of([unit]), share((graph, moments), "2", written))
        assert float(direct[unit]) == pytest.approx(expected[0], rel=1e-5)
        assert float(unique[unit]) == pytest.approx(expected[1], rel=1e-4)


def test_effects_on_a_linear_layer_after_flatten() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    images = torch.randn(80, 2, 3, 3)
    graph, moments = observed(net.eval(), images)
    with torch.no_grad():
        maps, hidden = net[:3](images), net[:5](images)
        states = share((graph, moments), "3", net[:4](images)), share((graph, moments), "5", net(images))
    direct, unique = (effects(graph, moments, each) for each in (direct_effects, unique_effects))
    for unit in range(4):
        expected = literal(net[3], maps, [4 * unit + k for k in range(4)], states[0])
        assert float(direct["0"][unit]) == pytest.approx(expected[0], rel=1e-5)
        assert float(unique["0"][unit]) == pytest.approx(expected[1], rel=1e-5)
    for unit in range(5):
        expected = literal(net[5], hidden, [unit], states[1])
        assert float(direct["3"][unit]) == pytest.approx(expected[0], rel=1e-5)
        assert float(unique["3"][unit]) == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3])
def test_effects_in_one_and_three_dimensions(rank: int) -> None:
    kind = {1: nn.Conv1d, 3: nn.Conv3d}[rank]
    net = nn.Sequential(kind(2, 4, 1), nn.ReLU(), kind(4, 3, 2), nn.ReLU(), kind(3, 2, 1)).eval()
    images = torch.randn(70, 2, *([4] * rank))
    graph, moments = observed(net, images)
    with torch.no_grad():
        read, written = net[:2](images), net[:3](images)
    direct, unique = (effects(graph, moments, each)["0"] for each in (direct_effects, unique_effects))
    for unit in range(4):
        expected = literal(net[2], read, [unit], share((graph, moments), "2", written))
        assert float(direct[unit]) == pytest.approx(expected[0], rel=1e-5)
        assert float(unique[unit]) == pytest.approx(expected[1], rel=1e-4)


def test_a_depthwise_convolution_only_passes_on() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 3, 1), nn.ReLU(),
        nn.Conv2d(3, 2, 1),
    ).eval()  # fmt: skip
    images = torch.randn(60, 2, 6, 6)
    graph, moments = observed(net, images)
    with torch.no_grad():
        read, written = net[:4](images), net[:5](images)
    assert "2" not in moments.reads
    found = effects(graph, moments, unique_effects)["0"]
    for unit in range(6):
        assert float(found[unit]) == pytest.approx(
            literal(net[4], read, [unit], share((graph, moments), "4", written))[1], rel=1e-4
        )


def test_blocks_that_go_whole_are_judged_by_who_reads_their_outputs() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)
    ).eval()
    images = torch.randn(60, 2, 5, 5)
    graph, moments = observed(net, images)
    (group,) = (group for group in graph.prunable if group.name == "0")
    (later,) = (m for m in group.of_role("consumer") if m.layer == "4")
    with torch.no_grad():
        rest, out = net[:4](images), net(images)
    found = effects(graph, moments, unique_effects)["0"]
    assert group.size == 4
    for unit in range(4):
        expected = literal(net[4], rest, later.positions_of([unit]), share((graph, moments), "4", out))[1]
        assert float(found[unit]) == pytest.approx(expected, rel=1e-4)


def test_consumers_of_a_stream_add_up_in_units_of_the_states_they_join(traced) -> None:
    net, x, moments = traced.net, traced.images, unshrunk(traced.moments)
    known = traced.graph, moments
    with torch.no_grad():
        first = F.relu(net.norm(net.stem(x)))
        inner = net.a(first)
        stream = F.relu(first + net.b(F.relu(inner)))
        out = net.c(stream)
        joined = first + net.b(F.relu(inner))
    found = {each: effects(traced.graph, moments, each) for each in (direct_effects, unique_effects)}
    for unit in range(6):
        a = literal(net.a, first, [unit], share(known, "a", inner))
        c = literal(net.c, stream, [unit], share(known, "c", out))
        assert float(found[direct_effects]["stem"][unit]) == pytest.approx(a[0] + c[0], rel=1e-5)
        assert float(found[unique_effects]["stem"][unit]) == pytest.approx(a[1] + c[1], rel=1e-4)
    for unit in range(5):  # b is added to the stream: its own variance is not what counts
        expected = literal(net.b, F.relu(inner), [unit], share(known, "b", joined))
        assert float(found[direct_effects]["a"][unit]) == pytest.approx(expected[0], rel=1e-5)


def test_batch_norm_behind_a_consumer_sets_the_units() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).eval()
    nn.init.uniform_(net[3].weight, 0.1, 4)
    nn.init.uniform_(net[3].running_var, 0.1, 4)
    images = torch.randn(60, 2, 5, 5)
    graph, moments = observed(net, images)
    folded = copy.deepcopy(net[2])
    with torch.no_grad():
        folded.weight *= (net[3].weight / (net[3].running_var + net[3].eps).sqrt()).reshape(-1, 1, 1, 1)
        read, state = net[:2](images), net[:4](images)
    found = effects(graph, moments, unique_effects)["0"]
    for unit in range(5):
        assert float(found[unit]) == pytest.approx(
            literal(folded, read, [unit], share((graph, moments), "2", state))[1], rel=1e-4
        )


def test_a_channel_counts_by_what_the_outputs_lose_with_it() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 6, 2)
    ).eval()
    nn.init.uniform_(net[3].weight, 0.5, 2)
    with torch.no_grad():
        net[5].weight[:, 3] = 0  # nobody reads it
    images = torch.randn(4000, 2, 5, 5)
    _, moments = observed(net, images)
    state = net[:4](images).detach().requires_grad_()
    squares = torch.zeros(5, dtype=torch.float64)
    for row in net[4:](state).sum(dim=0).flatten():  # an image's outputs depend on its own state alone
        (gradient,) = torch.autograd.grad(row, state, retain_graph=True)
        squares += gradient.double().square().sum(dim=(0, 2, 3)) / len(images)
    expected = squares * state.detach().double().movedim(1, -1).flatten(0, -2).var(dim=0, correction=0)
    worth = worth_of_channels(moments)
    assert worth["2"][3] == 0
    torch.testing.assert_close(worth["2"] / worth["2"].sum(), expected / expected.sum(), rtol=0.15, atol=1e-3)
    out = net(images).detach().double().movedim(1, -1).flatten(0, -2).var(dim=0, correction=0)
    torch.testing.assert_close(worth["5"] / worth["5"].sum(), out / out.sum(), rtol=1e-5, atol=0)


def test_channels_count_alike_where_the_outputs_have_no_derivative() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.relu(self.first(x))).round().detach()

    graph, moments = observed(Net().eval(), torch.randn(60, 2, 5, 5))
    assert moments.effects == {} and any(
        "all channels of a state count alike" in note for note in moments.notes
    )
    assert torch.equal(worth_of_channels(moments)["last"], torch.ones(3, dtype=torch.float64))
    assert bool((score(graph, moments, method="structural").groups["first"] > 0).all())


def test_scores_rise_along_the_order_of_elimination_and_the_curve_adds_them_up(traced) -> None:
    scores = score(traced.graph, traced.moments, method="structural")
    assert scores.curves.keys() == scores.groups.keys()
    unique = effects(traced.graph, traced.moments, unique_effects)
    for name, curve in scores.curves.items():
        values = scores.groups[name][curve.order]
        assert bool((values.diff() >= 0).all()) and bool((curve.unexplained.diff() >= 0).all())
        assert float(curve.unexplained[0]) == 0
        first = int(curve.order[0])
        assert first == int(unique[name].argmin())
        assert float(curve.unexplained[1]) == pytest.approx(float(unique[name][first]), rel=1e-9)
        torch.testing.assert_close(values, curve.unexplained.diff().cummax(0).values)
        readers = {m.layer for g in traced.graph.prunable if g.name == name for m in g.of_role("consumer")}
        assert bool((curve.price >= curve.unexplained * (1 - 1e-12)).all())
        assert bool((curve.price <= curve.unexplained * (1 + 1e-12) * len(readers)).all())
        if len(readers) == 1:
            torch.testing.assert_close(curve.price, curve.unexplained)


def residual() -> nn.Module:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(2, 5, 1), nn.BatchNorm2d(5)
            self.inner, self.outer = nn.Conv2d(5, 6, 3, padding=1), nn.Conv2d(6, 5, 1)
            self.head = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.norm(self.stem(x)))
            x = F.relu(x + self.outer(F.relu(self.inner(x))))
            return self.head(x.mean((2, 3)))

    return Net().eval()


def test_rescaling_that_keeps_the_function_keeps_scores_and_curves() -> None:
    net, images = residual(), torch.randn(60, 2, 6, 6)
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        for filter_, factor in ((1, 8.0), (4, 1 / 64)):
            scaled.inner.weight[filter_] *= factor
            scaled.inner.bias[filter_] *= factor
            scaled.outer.weight[:, filter_] /= factor
        assert torch.equal(net(images), scaled(images))
    (graph, one), (_, other) = observed(net, images), observed(scaled, images)
    before, after = (score(graph, each, method="structural") for each in (one, other))
    for name, values in before.groups.items():
        torch.testing.assert_close(after.groups[name], values, rtol=1e-8, atol=0)
        assert torch.equal(after.curves[name].order, before.curves[name].order)
        torch.testing.assert_close(
            after.curves[name].unexplained, before.curves[name].unexplained, rtol=1e-8, atol=0
        )
    documented = [score(graph, each, method="documented").groups["inner"] for each in (one, other)]
    assert float((documented[0] - documented[1]).abs().max()) > 0.05, "unlike the documented score"


def test_units_without_effect_score_zero_and_go_first() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).eval()
    with torch.no_grad():
        net[0].weight[0] = net[0].bias[0] = 0  # dead
        net[0].weight[1], net[0].bias[1] = 0, 3  # constant
        net[2].weight[:, 2] = 0  # read by nobody
    graph, moments = observed(net, torch.randn(60, 2, 6, 6))
    scores = score(graph, moments, method="structural")
    assert scores.groups["0"][0] == 0 and scores.groups["0"][2] == 0
    assert float(scores.groups["0"][1]) < 1e-15
    assert set(scores.curves["0"].order[:3].tolist()) == {0, 1, 2}
    assert bool((scores.groups["0"][3:] > 1e-4).all())


def test_one_of_two_duplicated_filters_is_free_to_remove() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).eval()
    with torch.no_grad():
        net[0].weight[4], net[0].bias[4] = 3 * net[0].weight[1], 3 * net[0].bias[1]
    graph, moments = observed(net, torch.randn(100, 2, 6, 6))
    scores, direct = score(graph, moments, method="structural"), effects(graph, moments, direct_effects)
    first, last = scores.curves["0"].order[0], scores.curves["0"].unexplained
    assert int(first) in (1, 4) and float(last[1]) < 1e-5 * float(last[-1])
    twin = 5 - int(first)
    assert float(scores.groups["0"][twin]) > 1e3 * float(scores.groups["0"][first]), "the other one stays"
    assert float(direct["0"][first]) > 1e-3, "its own effect is not small"


def test_kept_inputs_of_another_group_may_stand_in() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(8, 3, 1)
            self.d = nn.Conv2d(3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.d(F.relu(self.c(torch.cat((F.relu(self.a(x)), F.relu(self.b(x))), dim=1))))

    net = Net().eval()
    with torch.no_grad():
        net.a.weight[2], net.a.bias[2] = net.b.weight[3], net.b.bias[3]
    graph, moments = observed(net, torch.randn(100, 2, 5, 5))
    found = score(graph, moments, method="structural").groups
    direct = effects(graph, moments, direct_effects)
    assert float(found["a"][2] / direct["a"][2]) < 1e-5 and float(found["b"][3] / direct["b"][3]) < 1e-5
    assert bool((found["a"] / direct["a"])[[0, 1, 3]].min() > 1e-3)


def test_fewer_patches_than_inputs_are_a_note_with_both_numbers() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)
    ).eval()
    graph, moments = observed(net, torch.randn(5, 2, 6, 6))
    note, shrunk = moments.notes
    assert shrunk.startswith("covariances between channels were shrunk for what the images leave open: by ")
    assert note.startswith("20 patches cannot determine how the 54 inputs of 2 reproduce each other")
    scores = score(graph, moments, method="structural")
    assert all(bool(values.isfinite().all()) for values in scores.groups.values())


def test_layers_read_as_channels_are_scored_as_if_taps_were_alike() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 5, 1),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    ).eval()
    images = torch.randn(
        100, 2, 6, 6
    )  # independent pixels: patches alike at every tap, taps without correlation
    graph, moments = observed(net, images)
    with pytest.warns(UserWarning, match="2 is read as channels"):
        reduced = unshrunk(observe(net, graph, [images], max_memory=12_000))
    for each in (direct_effects, unique_effects):
        exact, found = effects(graph, moments, each)["0"], effects(graph, reduced, each)["0"]
        torch.testing.assert_close(found, exact, rtol=0.1, atol=0)
    direct = effects(graph, reduced, direct_effects)["0"]
    rows = reduced.reads["2"].equations(reduced.weights["2"])
    assert rows.shape == (1, 4 * 9, 5) and direct.shape == (5,)


def test_what_few_images_leave_open_is_not_believed() -> None:
    """Channels that are independent look reproducible in few images; shrunk, they do not."""
    net = nn.Sequential(nn.Conv2d(3, 40, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 4)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(40, 3, 1, 1))
        net[0].bias.zero_()
    images = torch.randn(30, 3, 4, 4)
    graph = trace(net, images[:1])
    moments = observe(net, graph, [images])
    read = moments.reads["3"]
    independent = torch.randn(30, 40, dtype=torch.float64)
    few = replace(read, covariance=torch.cov(independent.T, correction=0)[None], shrinkage=0.0)
    believed = replace(few, shrinkage=0.9)
    shares = []
    for each in (few, believed):
        found = replace(moments, reads={**moments.reads, "3": each})
        unique, direct = (effects(graph, found, effect)["0"] for effect in (unique_effects, direct_effects))
        shares.append(float((unique / direct).median()))
    assert shares[0] < 0.01 < 0.5 < shares[1]
