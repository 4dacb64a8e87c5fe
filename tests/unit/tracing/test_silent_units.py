"""What is constant already goes, and nothing else does: masked and zeroed networks against their small ones."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune

import causal_prune as cp
from causal_prune.errors import InputError, TargetError
from causal_prune.tracing.filter_graph import Silence
from causal_prune.tracing.silent_units import takes_in_bias
from tests.unit.drawn_weights import drawn


class Residual(nn.Module):
    """A shortcut, batch norms whose shift makes a constant of nothing, and a classifier behind a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.a, self.na = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.b, self.nb = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.c, self.fc = nn.Conv2d(8, 10, 3, bias=False), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))
        return self.fc(F.relu(self.c(x)).mean((2, 3)))


class Gated(nn.Module):
    """Squeeze and excitation: a constant times a gate is none."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.gate = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 8)
        self.b = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        x = x * torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.b(x).mean((2, 3))


def chain() -> nn.Module:
    """Padded and plain readers, pooling, flattened maps, linear layers."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 20, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(20, 12, 3), nn.Hardswish(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(48, 14), nn.ReLU(), nn.Linear(14, 3),
    )  # fmt: skip


def transposed() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 10, 3, stride=2), nn.ReLU(),
        nn.Conv2d(10, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 1),
    )  # fmt: skip


def volumes() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 6, 2), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 4, 2, padding=1))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]] = {
    "residual": (Residual, (3, 9, 9), ("a", "c")),
    "gated": (Gated, (3, 7, 7), ("a",)),
    "chain": (chain, (3, 11, 11), ("0", "3", "6", "10")),
    "transposed": (transposed, (3, 6, 6), ("0", "2", "4")),
    "volumes": (volumes, (1, 5, 5, 5), ("0",)),
}
every_net = pytest.mark.parametrize("name", NETS)


def made(name: str) -> tuple[nn.Module, Callable[[int], Tensor], tuple[str, ...]]:
    make, shape, layers = NETS[name]
    net = drawn(make(), seed=4).eval()
    return net, lambda seed: torch.randn(6, *shape, generator=torch.Generator().manual_seed(seed)), layers


def small_of(net: nn.Module, x: Tensor) -> tuple[nn.Module, cp.PruningPlan, cp.FilterGraph]:
    graph = cp.trace(net, x[:1])
    scores = cp.score(graph, cp.observe(net, graph, [x]), method="magnitude")
    found = cp.plan(graph, scores, remove_silent=True)
    return cp.remove(net, found), found, graph


def apart(a: nn.Module, b: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((a(x) - b(x)).abs().max() / b(x).abs().max())


@every_net
def test_a_masked_network_is_equal_to_the_small_one(name: str) -> None:
    net, images, layers = made(name)
    for layer in layers:
        prune.ln_structured(net.get_submodule(layer), "weight", amount=0.5, n=2, dim=0)
    if name == "gated":
        nn.init.constant_(net.norm.bias, -3.0)  # nothing gets through the rectifier
        nn.init.constant_(net.a.bias, 0.0)
        nn.init.constant_(net.norm.running_mean, 0.0)
    small, found, graph = small_of(net, images(1))
    assert found.target.kind == "remove_silent" and 0 < found.target.achieved <= found.target.requested
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in net.parameters())
    assert apart(small, net, images(7)) < 1e-5
    assert not [key for key in small.state_dict() if "mask" in key or "orig" in key], (
        "masks are part of the weights"
    )
    assert [key for key in net.state_dict() if "mask" in key], "the caller's keep theirs"
    dead = {
        layer: int((net.get_submodule(layer).weight.flatten(1) == 0).all(dim=1).sum())
        for layer in layers if name != "transposed"
    }  # fmt: skip
    assert {layer: len(graph.silence.units[layer]) for layer in dead} == dead


@every_net
def test_zero_first_remove_later(name: str) -> None:
    net, images, _ = made(name)
    graph = cp.trace(net, images(1)[:1])
    scores = cp.score(graph, cp.observe(net, graph, [images(1)]), method="random")
    zeroed = cp.zero(net, cp.plan(graph, scores, remove_filters=0.5))
    small, found, _ = small_of(zeroed, images(1))
    assert found.target.requested == pytest.approx(0.5, abs=0.05)
    assert apart(small, zeroed, images(7)) < 1e-5


def test_a_constant_times_a_gate_is_none_unless_it_is_zero() -> None:
    net, images, _ = made("gated")
    with torch.no_grad():
        net.a.weight[:4], net.a.bias[:4], net.norm.running_mean[:4] = 0, 0, 0
        net.norm.bias[:4] = torch.tensor([1.0, -1.0, 0.5, -2.0])
    small, found, graph = small_of(net, images(1))
    assert graph.silence.units == {"a": (1, 3)} and found.kept_units == {"a": (0, 2, 4, 5, 6, 7)}
    assert apart(small, net, images(7)) < 1e-5


def test_a_sum_with_what_is_quiet_on_the_images_alone_stays() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.a(x)) + F.relu(self.b(x)))

    net = drawn(Sum(), seed=3)
    with torch.no_grad():
        net.a.weight[:3], net.a.bias[:3] = 0, 0
        net.b.bias[:3] = -1e5
    graph = cp.trace(net, torch.randn(2, 3, 5, 5))
    assert not graph.silence.kept


def test_exactly_the_silent_filters_go_where_their_constants_are_zero_or_go_into_a_bias() -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3)), seed=2)
    with torch.no_grad():
        net[0].weight[[2, 5, 6]] = 0
        net[0].bias[5] = 1.5  # the constants of the others stop at the rectifier, or not
    small, found, graph = small_of(net, torch.randn(4, 3, 8, 8))
    assert graph.silence.units == {"0": (2, 5, 6)}
    assert found.kept_units == {"0": (0, 1, 3, 4, 7, 8, 9)} and small[0].out_channels == 7
    assert apart(small, net, torch.randn(4, 3, 9, 6)) < 1e-5


def test_one_of_them_stays_to_carry_constants_through_a_padded_layer() -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3, padding=1)), seed=2)
    with torch.no_grad():
        net[0].weight[[2, 5, 6, 9]] = 0
        net[0].bias[[2, 5, 6, 9]] = torch.tensor([-1.0, 0.5, 2.0, 1.0])
    small, found, _ = small_of(net, torch.randn(4, 3, 8, 8))
    assert found.kept_units == {"0": (0, 1, 3, 4, 6, 7, 8)}, (
        "the loudest one carries, the one of zeros goes anyway"
    )
    assert apart(small, net, torch.randn(4, 3, 9, 6)) < 1e-5


def test_what_is_silent_behind_silence_goes_too() -> None:
    net = drawn(
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 1)),
        seed=2,
    )
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[2].weight[0, 3:] = 0  # reads nothing but constants
    small, found, graph = small_of(net, torch.randn(4, 3, 5, 5))
    assert graph.silence.units == {"0": (0, 1, 2), "2": (0,)}
    assert found.kept_units == {"0": (3, 4, 5), "2": tuple(range(1, 8))}
    assert apart(small, net, torch.randn(4, 3, 6, 6)) < 1e-5


def test_filters_that_merely_look_constant_stay() -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)), seed=2)
    with torch.no_grad():
        net[0].bias[2] = -1e4  # never gets through on images of any usual size
    assert cp.trace(net, torch.randn(2, 3, 5, 5)).silence == Silence()


def test_constants_that_borders_change_stay() -> None:
    """Behind a depthwise layer that pads, a constant is none at the borders."""
    net = drawn(
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Conv2d(6, 2, 1)), seed=2
    )
    with torch.no_grad():
        net[0].weight[:3] = 0
        net[0].bias[:3] = torch.tensor([0.0, 1.0, 0.0])
    small, found, graph = small_of(net, torch.randn(4, 3, 5, 5))
    assert graph.silence.units == {"0": (0, 1, 2)} and found.kept_units == {"0": (1, 3, 4, 5)}
    assert apart(small, net, torch.randn(4, 3, 6, 6)) < 1e-5


def test_norms_over_channels_count_what_is_silent() -> None:
    net = drawn(nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 2, 1)), seed=2)
    with torch.no_grad():
        net[0].weight[[0, 1, 4, 5]] = 0  # a unit is the same place in both groups
    graph = cp.trace(net, torch.randn(4, 3, 5, 5))
    assert graph.silence.units == {"0": (0, 1)} and not graph.silence.kept


def test_a_group_that_is_silent_as_a_whole_keeps_a_channel() -> None:
    net = drawn(
        nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        seed=2,
    )
    with torch.no_grad():
        net[0].weight.zero_()
    small, found, _ = small_of(net, torch.randn(4, 3, 5, 5))
    assert [len(units) for units in found.kept_units.values()] == [1, 1]
    assert apart(small, net, torch.randn(4, 3, 6, 6)) < 1e-5


def test_a_network_without_silence_is_told_so_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images, _ = made("chain")
    monkeypatch.setattr("causal_prune.tracing.silent_units._reads", None)
    with pytest.raises(
        TargetError, match="remove_silent: no filter can go without changing what the network computes"
    ):
        small_of(net, images(1))


def test_unstructured_masks_are_weights_like_others() -> None:
    net, images, layers = made("chain")
    for layer in layers:
        prune.l1_unstructured(net.get_submodule(layer), "weight", amount=0.6)
        prune.random_unstructured(net.get_submodule(layer), "weight", amount=0.2)  # a container of two
    graph = cp.trace(net, images(1)[:1])
    assert len(graph.prunable) == 4
    scores = cp.score(graph, cp.observe(net, graph, [images(1)]))
    small = cp.remove(net, cp.plan(graph, scores, keep_macs=0.5))
    fixed = cp.compensate(small, net, [torch.cat([images(k) for k in range(2, 12)])])
    assert apart(fixed, net, images(9)) < apart(small, net, images(9))


def test_plans_with_folds_are_saved_and_rebuild_the_network_bit_for_bit(tmp_path: Path) -> None:
    net, images, layers = made("residual")
    for layer in layers:
        prune.ln_structured(net.get_submodule(layer), "weight", amount=0.5, n=2, dim=0)
    small, found, _ = small_of(net, images(1))
    found.save(tmp_path / "plan.json")
    assert found.cuts.folds and cp.PruningPlan.load(tmp_path / "plan.json") == found
    again = cp.remove(drawn(Residual(), seed=9), cp.PruningPlan.load(tmp_path / "plan.json"))
    again.load_state_dict(small.state_dict())
    assert apart(again.eval(), small, images(5)) == 0
    with pytest.raises(InputError, match="its filters are silent already; `remove` lets them go"):
        cp.zero(net, found)


def test_plans_without_folds_are_written_as_before(tmp_path: Path) -> None:
    net, images, _ = made("chain")
    graph = cp.trace(net, images(1)[:1])
    scores = cp.score(graph, cp.observe(net, graph, [images(1)]), method="magnitude")
    cp.plan(graph, scores, keep_macs=0.5).save(tmp_path / "plan.json")
    assert "folds" not in json.loads((tmp_path / "plan.json").read_text())["cuts"]


def test_layers_whose_bias_can_take_a_constant() -> None:
    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * x.mean()

    reflected = nn.Conv2d(3, 2, 3, padding=1, padding_mode="circular")
    plain = [nn.Conv2d(3, 2, 3), nn.Conv2d(3, 2, 3, padding="valid"), nn.Conv2d(3, 2, 1, padding="same")]
    into = [nn.Linear(3, 2), reflected, *plain]
    padded = [nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 3, padding="same")]
    not_into = [*padded, nn.ConvTranspose2d(3, 2, 1), Own(3, 2, 1), nn.BatchNorm2d(3)]
    assert [takes_in_bias(each) for each in (*into, *not_into)] == [True] * len(into) + [False] * len(
        not_into
    )


def test_the_callers_network_is_left_as_it_was() -> None:
    net, images, layers = made("chain")
    for layer in layers:
        prune.ln_structured(net.get_submodule(layer), "weight", amount=0.5, n=2, dim=0)
    before = copy.deepcopy(net.state_dict())
    small_of(net.train(), images(1))
    assert net.training and all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
