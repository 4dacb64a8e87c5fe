import copy
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.compensation.compensation import compensate, repair
from causal_prune.compensation.options import Repair
from causal_prune.compensation.output_paths import output_paths
from causal_prune.errors import InputError
from causal_prune.importance.scores import FilterScores
from causal_prune.network.running import call
from causal_prune.planning.unit_choice import plan_widths
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.removal import remove
from causal_prune.surgery.silencing import zero
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace
from tests.unit.drawn_weights import drawn
from tests.unit.own_padding import SameConv2d


class Residual(nn.Module):
    """A stem, a block with a shortcut by projection, one with the identity, added in place, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.a1, self.n1 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.a2, self.n2 = nn.Conv2d(12, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.down, self.nd = nn.Conv2d(12, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.b1, self.b2 = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.stem(x)))
        y = self.n2(self.a2(F.relu(self.n1(self.a1(x)))))
        y += self.nd(self.down(x))
        x = F.relu(y)
        x = F.relu(self.b2(F.relu(self.b1(x))) + x)
        return self.fc(x.mean(dim=(2, 3)))


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv1d(3, 10, 3), nn.Conv1d(2, 10, 3)
        self.join, self.head = nn.Conv1d(10, 8, 2), nn.Linear(8 * 6, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        joined = F.relu(self.join(F.relu(self.left(left) + self.right(right))))
        return {"logits": self.head(joined.flatten(1))}


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.head(x.mean(dim=(2, 3)))


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, dilation=2), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
        nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 12, 3, groups=4), nn.ReLU(),
        nn.ConvTranspose2d(12, 10, 3, stride=2, bias=False), nn.Hardswish(), nn.Conv2d(10, 6, 1), nn.Flatten(),
        nn.LazyLinear(20), nn.ReLU(), nn.Linear(20, 4),
    )  # fmt: skip


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 8, 2), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 6, 2, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def pads_itself() -> nn.Module:
    return nn.Sequential(
        SameConv2d(3, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), SameConv2d(12, 12, 3, stride=2, groups=12),
        nn.ReLU(), SameConv2d(12, 8, (2, 3)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def images(count: int, *shape: int, seed: int = 1) -> Tensor:
    """Smooth images, so that neighbours know of each other."""
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    return noise.cumsum(dim=-1) / shape[-1] ** 0.5


NETS: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Any]]] = {
    "residual": (Residual, lambda n, s: images(n, 3, 8, 8, seed=s)),
    "plain": (plain, lambda n, s: images(4 * n, 3, 15, 15, seed=s)),
    "pads_itself": (pads_itself, lambda n, s: images(n, 3, 10, 9, seed=s)),
    "volumes": (volumes, lambda n, s: images(n, 2, 5, 5, 5, seed=s)),
    "two_inputs": (
        TwoInputs,
        lambda n, s: {"left": images(n, 3, 9, seed=s), "right": images(n, 2, 9, seed=s + 50)},
    ),
    "shared": (Shared, lambda n, s: images(n, 3, 6, 6, seed=s)),
}


def case(name: str) -> tuple[nn.Module, Callable[[int, int], Any]]:
    make, draw = NETS[name]
    net = make()
    call(net, draw(2, 0))
    return drawn(net), draw


def half(net: nn.Module, example: Any, seed: int = 3) -> tuple[FilterGraph, PruningPlan]:
    graph = trace(net, example)
    generator = torch.Generator().manual_seed(seed)
    groups = {g.name: torch.rand(g.size, generator=generator, dtype=torch.float64) for g in graph.prunable}
    scores = FilterScores("test", "test", groups, {})
    widths = {group.name: (group.size + 1) // 2 for group in graph.prunable}
    return graph, plan_widths(graph, scores, widths, kind="keep_macs", requested=0.5)


def answer(net: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        out = call(net, inputs)
    return out["logits"] if isinstance(out, dict) else out


def state(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("name", NETS)
def test_a_cut_network_comes_closer_to_the_dense_one_on_unseen_images(name: str) -> None:
    net, draw = case(name)
    _, chosen = half(net, draw(2, 0))
    small = remove(net, chosen)
    before = state(small), state(net)
    repaired = repair(small, net, [draw(96, 1), draw(40, 2)])
    probe = draw(64, 9)
    wanted, cut, better = (answer(n, probe) for n in (net, small, repaired.model))
    assert (better - wanted).square().mean() < 0.7 * (cut - wanted).square().mean()
    assert same(state(small), before[0])
    assert same(state(net), before[1])
    assert {key: value.shape for key, value in state(repaired.model).items()} == {
        key: value.shape for key, value in before[0].items()
    }
    assert all(layer.error_left <= 1 for layer in repaired.layers)
    assert any(layer.outcome == "refitted" for layer in repaired.layers)
    assert all(not m._forward_hooks for m in (*net.modules(), *repaired.model.modules()))


@pytest.mark.parametrize("name", NETS)
def test_an_uncut_network_is_left_as_it_is(name: str) -> None:
    net, draw = case(name)
    repaired = repair(net, net, [draw(40, 1)])
    assert {layer.outcome for layer in repaired.layers} == {"unchanged"}
    assert same(state(repaired.model), state(net))


def test_the_same_seed_gives_the_same_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causal_prune.compensation.layer_refit.ROWS_PER_UNKNOWN", 5)
    net, draw = case("residual")
    small = remove(net, half(net, draw(2, 0))[1])
    random_state = torch.get_rng_state()
    first, again, other = (compensate(small, net, [draw(64, 1)], seed=seed) for seed in (4, 4, 5))
    assert same(state(first), state(again))
    assert not same(state(first), state(other))
    assert torch.equal(torch.get_rng_state(), random_state)


def duplicated() -> tuple[nn.Module, PruningPlan]:
    """Every other filter of the first layers is a combination of kept ones, and so is what the next layers read."""
    net = drawn(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 6, 3),
            nn.Flatten(),
            nn.Linear(96, 3),
        )
    )
    with torch.no_grad():
        for target, (a, b) in {1: (0, 2), 3: (2, 4), 5: (4, 6), 7: (0, 6)}.items():
            for tensor in (net[0].weight, net[1].running_mean, net[1].bias):
                tensor[target] = 0.7 * tensor[a] - 0.4 * tensor[b]
            net[1].running_var[:], net[1].weight[:] = 1.0, 1.3
    graph = trace(net, torch.zeros(1, 3, 8, 8), freeze=["2"])
    groups = {g.name: torch.arange(g.size).remainder(2).neg().add(2.0).double() for g in graph.prunable}
    widths = {group.name: 4 for group in graph.prunable}
    scores = FilterScores("test", "test", groups, {})
    return net, plan_widths(graph, scores, widths, kind="keep_macs", requested=0.5)


def test_exact_where_removed_filters_are_combinations_of_kept_ones() -> None:
    net, chosen = duplicated()
    small = remove(net, chosen)
    assert small[0].out_channels == 4
    repaired = compensate(small, net, [images(128, 3, 8, 8)])
    probe = images(32, 3, 8, 8, seed=7)
    wanted = answer(net, probe)
    assert (answer(small, probe) - wanted).abs().max() > 0.3
    assert (answer(repaired, probe) - wanted).abs().max() < 2e-3 * wanted.abs().max()


def test_the_last_layer_of_a_block_makes_up_for_its_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the state cut in the stem, the projection cannot be exact; what is refitted last is the sum."""
    net, draw = case("residual")
    graph = trace(net, draw(2, 0), freeze=["a1", "a2", "b1", "b2", "fc"])
    groups = {g.name: torch.arange(g.size).double() for g in graph.prunable}
    scores = FilterScores("test", "test", groups, {})
    widths = {g.name: g.size // 2 for g in graph.prunable}
    small = remove(net, plan_widths(graph, scores, widths, kind="keep_macs", requested=0.5))
    probe = draw(128, 9)

    def state_off(model: nn.Module) -> float:
        def summed(m: nn.Module) -> Tensor:
            x = F.relu(m.bn(m.stem(probe)))
            return m.n2(m.a2(F.relu(m.n1(m.a1(x))))) + m.nd(m.down(x))

        with torch.no_grad():
            return float((summed(model) - summed(net)).square().mean())

    with_sums = state_off(compensate(small, net, [draw(256, 1)]))
    known = output_paths(net, draw(2, 0))
    assert known.sums == {"a2", "b2"}
    assert known.norms == {"stem": "bn", "a1": "n1", "a2": "n2", "down": "nd"}
    apart = replace(known, sums=frozenset())
    monkeypatch.setattr("causal_prune.compensation.walk.output_paths", lambda model, inputs: apart)
    assert with_sums < state_off(compensate(small, net, [draw(256, 1)]))


def test_a_shift_goes_into_the_batch_norm_behind_and_is_judged_there() -> None:
    """A removed filter that is constant leaves an error that is nothing but a shift."""
    net = drawn(
        nn.Sequential(
            nn.Conv2d(3, 6, 1),
            nn.ReLU(),
            nn.Conv2d(6, 5, 3, bias=False),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.Flatten(),
        )
    )
    with torch.no_grad():
        net[0].weight[0], net[0].bias[0] = 0, 3
    graph = trace(net, torch.zeros(1, 3, 6, 6))
    groups = {g.name: torch.arange(g.size).double() for g in graph.prunable}
    scores = FilterScores("test", "test", groups, {})
    widths = {g.name: g.size - 1 for g in graph.prunable if g.name == "0"}
    widths |= {g.name: g.size for g in graph.prunable if g.name != "0"}
    small = remove(net, plan_widths(graph, scores, widths, kind="keep_macs", requested=0.9))
    repaired = repair(small, net, [images(64, 3, 6, 6)])
    (layer,) = [each for each in repaired.layers if each.layer == "2"]
    assert layer.outcome == "refitted" and layer.error_left < 1e-6
    probe = images(16, 3, 6, 6, seed=7)
    assert (answer(small, probe) - answer(net, probe)).abs().max() > 0.3
    torch.testing.assert_close(answer(repaired.model, probe), answer(net, probe), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rectifier", [nn.ReLU(), nn.ReLU6(inplace=True)], ids=["relu", "relu6"])
def test_what_a_rectifier_stops_is_not_asked_for(
    rectifier: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = drawn(
        nn.Sequential(
            nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3, bias=False), nn.BatchNorm2d(12), rectifier
        )
    )
    wide = images(512, 3, 8, 8)
    graph = trace(net, wide[:2], freeze=["2"])
    groups = {g.name: torch.arange(g.size).double() for g in graph.prunable}
    scores = FilterScores("test", "test", groups, {})
    small = remove(net, plan_widths(graph, scores, {"0": 5}, kind="keep_macs", requested=0.5))
    held = wide[torch.arange(512) % 8 == 7]  # of all images
    monkeypatch.setattr("causal_prune.compensation.compensation.MADE_AGAIN", 10**6)
    monkeypatch.setattr(
        "causal_prune.compensation.joint_repair.STEPS", 0
    )  # the filters before it stay where they are

    def errors(model: nn.Module) -> tuple[Tensor, Tensor]:
        through = (answer(model, held) - answer(net, held)).square().sum(dim=(0, 2, 3))
        plain = (answer(model[:4], held) - answer(net[:4], held)).square().sum(dim=(0, 2, 3))
        return through, plain

    (better, plain), (_, cut) = errors(compensate(small, net, [wide])), errors(small)
    monkeypatch.setattr("causal_prune.compensation.layer_refit.ROUNDS", 0)
    before, _ = errors(compensate(small, net, [wide]))
    assert float(better.sum()) < 0.97 * float(before.sum())
    assert bool((better <= before * (1 + 1e-5)).all()) and bool((plain <= cut * (1 + 1e-5)).all())


def test_silenced_filters_and_inputs_stay_silent() -> None:
    net, draw = case("residual")
    _, chosen = half(net, draw(2, 0))
    for where in ("filters", "consumers"):
        silenced = zero(net, chosen, where=where)
        repaired = compensate(silenced, net, [draw(64, 1)])
        zeros = {key: value == 0 for key, value in state(silenced).items() if key.endswith("weight")}
        assert all(bool((state(repaired)[key][mask] == 0).all()) for key, mask in zeros.items())
        assert not same(state(repaired), state(silenced))


def test_a_layer_that_cannot_be_refitted_keeps_its_weights_and_says_why() -> None:
    net, draw = case("residual")
    net.b2.weight = net.b1.weight
    small = remove(net, half(net, draw(2, 0))[1])
    repaired = repair(small, net, [draw(64, 1)])
    kept = {layer.layer: layer.reason for layer in repaired.layers if layer.outcome == "kept"}
    assert kept == dict.fromkeys(("b1", "b2"), "it shares its weight with another layer")


def test_no_layer_is_worse_on_the_held_out_images() -> None:
    """Noise cannot be fitted: with 8 images of noise and more weights than rows, nearly all refits are refused."""
    net = drawn(nn.Sequential(nn.Flatten(), nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 3)))
    _, chosen = half(net, torch.zeros(1, 300))
    small = remove(net, chosen)
    noise = torch.randn(16, 300, generator=torch.Generator().manual_seed(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        repaired = repair(small, net, [noise])
    held = noise[torch.arange(16) % 8 == 7]
    with torch.no_grad():
        wanted, cut, now = (answer(model, held) for model in (net, small, repaired.model))
    assert ((now - wanted).square().sum(0) <= (cut - wanted).square().sum(0) + 1e-6).all()


@pytest.mark.parametrize("count", [1, 3])
def test_few_or_constant_images_leave_finite_weights_and_a_warning(count: int) -> None:
    net, draw = case("residual")
    small = remove(net, half(net, draw(2, 0))[1])
    for batch in (draw(count, 1), torch.zeros_like(draw(count, 1))):
        with pytest.warns(
            UserWarning, match="cannot judge a fit|rows of calibration data for|has 1 image"
        ) as seen:
            repaired = compensate(small, net, [batch])
        assert seen[0].filename == __file__
        assert all(bool(value.isfinite().all()) for value in state(repaired).values())


def test_short_memory_mixes_channels_and_says_so() -> None:
    net, draw = case("residual")
    small = remove(net, half(net, draw(2, 0))[1])
    limit = 6 * 8 * 40**2
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        repair(small, net, [draw(64, 1)], Repair(max_memory=limit))
    assert any("of 64 calibration images at the first layers: " in str(each.message) for each in seen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("causal_prune.compensation.walk.LIVING", 0)
        with pytest.warns(UserWarning, match="channels were mixed alike at all kernel elements"):
            repaired = repair(small, net, [draw(64, 1)], Repair(max_memory=limit))
    assert any("mixed" in layer.remark and layer.outcome == "refitted" for layer in repaired.layers)
    probe = draw(64, 9)
    wanted = answer(net, probe)
    assert (answer(repaired.model, probe) - wanted).norm() < (answer(small, probe) - wanted).norm()


def test_modes_and_device_come_back() -> None:
    net, draw = case("residual")
    net.train()
    net.bn.eval()
    small = remove(net, half(net, draw(2, 0))[1])
    repaired = compensate(small, net, [draw(64, 1)])
    assert [m.training for m in repaired.modules()] == [m.training for m in small.modules()]
    assert net.training and not net.bn.training


def test_a_copy_of_a_cut_network_knows_its_cuts() -> None:
    net, draw = case("residual")
    small = remove(net, half(net, draw(2, 0))[1])
    assert same(
        state(compensate(small, net, [draw(64, 1)])),
        state(compensate(copy.deepcopy(small), net, [draw(64, 1)])),
    )
    stranger = Residual()
    stranger.b1 = nn.Conv2d(16, 7, 3, padding=1)
    stranger.b2 = nn.Conv2d(7, 16, 3, padding=1)
    with pytest.raises(
        InputError, match="b1.weight was cut and it is not known how: give a network from remove"
    ):
        compensate(stranger.eval(), net, [draw(8, 1)])


def test_methods_are_told_apart() -> None:
    net, draw = case("residual")
    small = remove(net, half(net, draw(2, 0))[1])
    assert same(state(compensate(small, net, [], method="none")), state(small))
    cheap = compensate(small, net, [draw(64, 1)], method="batchnorm")
    assert torch.equal(cheap.b1.weight, small.b1.weight)
    assert not torch.equal(cheap.bn.running_mean, small.bn.running_mean)
    with pytest.raises(
        InputError, match="method 'ridge' is unknown: use one of least_squares, batchnorm, none"
    ):
        compensate(small, net, [draw(8, 1)], method="ridge")


def test_batchnorm_alone_says_so_where_there_is_no_batch_norm() -> None:
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    cut = remove(bare, half(bare, torch.zeros(1, 3, 7, 7))[1])
    with pytest.warns(UserWarning, match="no batch norm with running statistics, so that method='batchnorm'"):
        assert same(state(compensate(cut, bare, [torch.ones(2, 3, 7, 7)], method="batchnorm")), state(cut))


def test_bad_calibration_is_named() -> None:
    net, draw = case("residual")
    small = remove(net, half(net, draw(2, 0))[1])
    with pytest.raises(InputError, match="calibration has no batch: give at least 2 images"):
        compensate(small, net, [])
    with pytest.raises(InputError, match="the pruned network does not accept batch 1 of calibration"):
        compensate(small, net, [torch.zeros(8, 4, 8, 8)])
    broken = draw(16, 1)
    broken[3, 0, 2, 2] = torch.nan
    for method in ("least_squares", "batchnorm"):
        with pytest.raises(InputError, match="batch 3 of calibration holds NaN or infinite values"):
            compensate(small, net, [draw(16, 2), draw(0, 2), broken], method=method)
    with pytest.raises(InputError, match="max_memory: 0 is not a number of bytes above 0"):
        compensate(small, net, [draw(16, 2)], max_memory=0)


@pytest.mark.parametrize("image", [0, 7, 12, 23])
def test_an_activation_beyond_all_numbers_is_named_in_whatever_image(image: int) -> None:
    net, draw = case("residual")
    small = remove(net, half(net, draw(2, 0))[1])
    given = draw(24, 1)
    given[image] = 3e38
    with pytest.raises(InputError, match="the output of stem is NaN or infinite on the calibration data"):
        compensate(small, net, given.split(8))


def test_networks_that_run_other_layers_are_refused() -> None:
    class Fickle(nn.Module):
        def __init__(self, *, whole: bool) -> None:
            super().__init__()
            self.a, self.b, self.c, self.whole = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2), whole

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.a(x))
            return self.c(self.b(x) if self.whole else x)

    before = threading.active_count()
    dense, other = drawn(Fickle(whole=True)), drawn(Fickle(whole=False))
    with pytest.raises(
        InputError, match="the code of the network depends on the data; use method='batchnorm'"
    ):
        compensate(other, dense, [torch.randn(16, 4)])
    assert threading.active_count() == before, "no pass is left waiting"
