"""Layers in series move together: derivatives, the step, and what is done with it."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from causal_prune.compensation.compensation import repair
from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.gauss_newton import Linearised, Preconditioner, gauss_newton
from causal_prune.compensation.joint_repair import _samples
from causal_prune.compensation.layer_targets import Wanted
from causal_prune.compensation.options import Repair
from causal_prune.compensation.series import Series, series_in
from causal_prune.importance.scores import FilterScores
from causal_prune.planning.unit_choice import plan_widths
from causal_prune.surgery.cuts import LayerCut
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.removal import remove
from causal_prune.surgery.silencing import zero
from causal_prune.tracing.network_trace import trace
from tests.unit.drawn_weights import drawn

INFINITE = float("inf")


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of(net: nn.Sequential, bounds: tuple[float, float] = (0.0, INFINITE)) -> Series:
    """The layers of a network that consists of layers, batch norms and rectifiers."""
    layers = []
    for k, module in enumerate(net):
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            after = net[k + 1] if k + 1 < len(net) else None
            layers.append(CutLayer(module, after if isinstance(after, nn.BatchNorm2d) else None, None))
    return Series(tuple(str(k) for k in range(len(layers))), tuple(layers), (bounds,) * (len(layers) - 1))


CASES = {
    "strides": (
        nn.Sequential(
            nn.Conv2d(3, 5, 3, stride=2, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 2)
        ),
        (6, 3, 9, 9),
    ),
    "depthwise": (
        nn.Sequential(
            nn.Conv2d(3, 6, 1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"),
            nn.ReLU(),
            nn.Conv2d(6, 4, 1, bias=False),
            nn.BatchNorm2d(4),
        ),
        (6, 3, 5, 5),
    ),
    "transposed": (
        nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 3, groups=2)),
        (4, 3, 4, 4),
    ),
    "linear": (nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False)), (30, 5)),
    "one dimension": (
        nn.Sequential(nn.Conv1d(2, 4, 3, dilation=2), nn.ReLU(), nn.Conv1d(4, 3, 3, padding="same")),
        (5, 2, 11),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    net, shape = CASES[name]
    net, x = drawn(net, mean=0.1, seed=11).double(), images(*shape).double()
    series = of(net)
    with torch.no_grad():
        linear = Linearised(series, x)
        generator = torch.Generator().manual_seed(1)
        leaves = [*linear.weights, *linear.constants]
        change = [torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype) for leaf in leaves]
        moved = linear.push(change)
        torch.testing.assert_close(linear.behind[-1], net(x))
        torch.testing.assert_close(linear.reads[-1], series.read_by_last(x))

        error = images(*moved.shape, seed=2).double()
        pulled = linear.pull(error)
        there = sum(float((a * b).sum()) for a, b in zip(pulled, change, strict=True))
        assert there == pytest.approx(float((moved * error).sum()), rel=1e-9)

        for length in (1e-6, -1e-6):
            for k, layer in enumerate(series.layers):
                layer.weight.add_(length * change[k])
                constant = length * change[len(series.layers) + k]
                if layer.module.bias is not None:
                    layer.module.bias.add_(constant)
                elif layer.norm is not None:
                    layer.norm.running_mean.sub_(constant)
            if length > 0:
                ahead = net(x)
        free = all(layer.free for layer in series.layers)
    if free:
        torch.testing.assert_close((ahead - linear.behind[-1]) / 1e-6, moved, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_many_directions_end_where_dense_least_squares_does(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, shape = CASES[name]
    net, x = drawn(net, mean=0.1, seed=11).double(), images(*shape, seed=4).double()
    series = of(net)
    monkeypatch.setattr("causal_prune.compensation.gauss_newton.DIRECTIONS", 400)
    with torch.no_grad():
        linear = Linearised(series, x)
        error = images(*linear.behind[-1].shape, seed=5).double()
        filters = series.layers[-1].filters
        weight = series.layers[-1].along(torch.linspace(0.5, 2, filters).double(), error)
        corrections = gauss_newton(
            series, [linear], [error], weight, Preconditioner(series, [linear], weight, 0)
        )
        leaves = [*linear.weights, *linear.constants]
        columns = []
        for k, leaf in enumerate(leaves):
            layer = series.layers[k % len(series.layers)]
            for n in range(leaf.numel()):
                if k >= len(series.layers) and not layer.free:
                    continue
                unit = [torch.zeros_like(each) for each in leaves]
                unit[k].view(-1)[n] = 1
                columns.append((linear.push(unit) * weight.sqrt()).flatten())
        design, goal = torch.stack(columns, dim=1), (error * weight.sqrt()).flatten()
        best = torch.linalg.lstsq(design, goal, driver="gelsd").solution
        least = float((goal - design @ best).square().sum())
        change = []
        for layer, correction in zip(series.layers, corrections, strict=True):
            before = layer.weight.clone()
            layer.write(correction)
            change.append(layer.weight - before)
        moved = linear.push([*change, *(each.bias.flatten() for each in corrections)])
        found = float(((error - moved).square() * weight).sum())
    assert found <= least * (1 + 1e-6)
    assert least < 0.9 * float(goal.square().sum())


def half(net: nn.Module, x: Tensor, keep: dict[str, int], freeze: list[str]) -> PruningPlan:
    graph = trace(net, x[:2], freeze=freeze)
    groups = {g.name: torch.arange(g.size).double() for g in graph.prunable}
    return plan_widths(graph, FilterScores("t", "t", groups, {}), keep, kind="keep_macs", requested=0.5)


def bottleneck() -> nn.Sequential:
    """Three layers in series, the middle one depthwise."""
    return drawn(
        nn.Sequential(
            nn.Conv2d(3, 16, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU6(inplace=True),
            nn.Conv2d(16, 6, 1, bias=False),
            nn.BatchNorm2d(6),
        ),
        mean=0.1,
        seed=11,
    )


def off(model: nn.Module, net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return (model(x) - net(x)).square().mean(dim=(0, 2, 3))


def test_filters_that_are_left_move_to_where_their_reader_does_best(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, probe = bottleneck(), images(256, 3, 8, 8), images(64, 3, 8, 8, seed=3)
    chosen = half(net, x, {"0": 8}, ["6"])
    small = remove(net, chosen)
    together = repair(small, net, [x])
    (last,) = [layer for layer in together.layers if layer.layer == "6"]
    assert last.together == ("0", "3") and last.outcome == "refitted"
    silenced = repair(zero(net, chosen), net, [x])
    assert [layer.together for layer in silenced.layers] == [layer.together for layer in together.layers]
    removed, zeroed = (float(off(each.model, net, probe).sum()) for each in (together, silenced))
    assert zeroed == pytest.approx(removed, rel=0.25)  # other rows are drawn
    assert bool((silenced.model[0].weight.flatten(1).abs().sum(dim=1) > 0).sum() == 8)
    held = x[torch.arange(256) % 8 == 7]
    share = off(together.model, net, held) / net[7].weight.detach().square() * net[7].running_var
    cut = off(small, net, held) / net[7].weight.detach().square() * net[7].running_var
    assert last.error_left == pytest.approx(float(share.sum() / cut.sum()), rel=1e-3)
    assert bool((off(together.model, net, held) <= off(small, net, held) * (1 + 1e-3)).all())

    monkeypatch.setattr("causal_prune.compensation.joint_repair.STEPS", 0)
    alone = repair(small, net, [x])
    assert not any(layer.together for layer in alone.layers)
    assert float(off(together.model, net, probe).sum()) < 0.8 * float(off(alone.model, net, probe).sum())


def test_a_step_that_does_not_help_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = bottleneck(), images(64, 3, 8, 8)
    small = remove(net, half(net, x, {"0": 8}, ["6"]))
    monkeypatch.setattr("causal_prune.compensation.joint_repair.STEPS", 0)
    alone = repair(small, net, [x])
    monkeypatch.setattr("causal_prune.compensation.joint_repair.STEPS", 2)
    monkeypatch.setattr("causal_prune.compensation.joint_repair.LENGTHS", (-1.0, -0.5))
    refused = repair(small, net, [x])
    assert not any(layer.together for layer in refused.layers)
    for ours, theirs in zip(refused.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Gain(nn.Conv2d):
    """A layer that computes with more than weight and bias."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.gain)


def test_series_may_overlap_and_leave_out_layers_of_other_kinds() -> None:
    x = images(256, 3, 8, 8)
    for first, names in ((nn.Conv2d, {"2": ("0",), "4": ("2",)}), (Gain, {"4": ("2",)})):
        net = drawn(
            nn.Sequential(first(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3)),
            mean=0.1,
            seed=11,
        )
        small = remove(net, half(net, x, {"0": 12 if first is Gain else 6, "2": 6}, ["4"]))
        repaired = repair(small, net, [x])
        assert {layer.layer: layer.together for layer in repaired.layers if layer.together} == names
        assert float(off(repaired.model, net, x).sum()) < 0.5 * float(off(small, net, x).sum())


class Overwriting(nn.Module):
    """What the first layer read is overwritten before the second one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        y = torch.relu(self.a(x))
        x.add_(1)
        return self.b(y) + x.mean(dim=1, keepdim=True)


def test_what_is_gone_cannot_be_computed_again() -> None:
    net, x = drawn(Overwriting(), mean=0.1, seed=11), images(64, 3, 6, 6)
    small = remove(net, half(net, x, {"a": 4}, ["stem"]))
    repaired = repair(small, net, [x])
    outcome = {layer.layer: (layer.outcome, layer.together) for layer in repaired.layers}
    assert outcome["b"] == ("refitted", ())


def test_short_memory_looks_at_fewer_images_or_leaves_it() -> None:
    net, x = bottleneck(), images(256, 3, 8, 8)
    small = remove(net, half(net, x, {"0": 8}, ["6"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        repaired = repair(small, net, [x], Repair(max_memory=2000))
    assert not any(layer.together for layer in repaired.layers)


def test_images_are_taken_from_all_batches_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causal_prune.compensation.joint_repair.FEWEST_IMAGES", 128)
    monkeypatch.setattr("causal_prune.compensation.joint_repair.IMAGES_AT_ONCE", 64)
    net = bottleneck()
    series = of(net)
    sources = [images(40, 3, 8, 8, seed=k) for k in range(5)] + [images(30, 3, 4, 4)]
    fit = []
    for source in sources:
        read = series.read_by_last(source)
        out = net[6](read).detach()
        item = Wanted(None, read, read, out, 1.0, out, out, torch.ones(6))  # type: ignore[arg-type]
        fit.append((source, item))
    counts = [len(sample.source) for sample in _samples(series, fit, 10**9)]
    # 128 of 230: 23 of 40, rounded up in every batch; 64 at once at least, of the same shape
    assert counts == [69, 46, 17]
    assert sum(len(sample.read) for sample in _samples(series, fit, 2 * 10**6)) < 60
    (first, *_) = _samples(series, fit, 10**9)
    torch.testing.assert_close(first.first, net[6](first.read))
    assert torch.equal(first.source[23:46], sources[1][:23])


def test_series_end_where_inputs_were_lost() -> None:
    def layer(lost: bool, grouping: str = "dense") -> CutLayer:
        cut = LayerCut(None, (0, 1) if lost else None, 4, 4, grouping)  # type: ignore[arg-type]
        return CutLayer(nn.Conv2d(2, 4, 1), None, cut)

    layers = {
        "a": layer(False),
        "b": layer(False),
        "c": layer(True),
        "d": layer(True),
        "e": layer(True, "blocks"),
    }
    feeders = {"b": "a", "c": "b", "d": "c", "e": "d"}
    bounds = dict.fromkeys("abcd", (0.0, INFINITE))
    found = series_in(feeders, bounds, layers)
    assert {last: series.names for last, series in found.items()} == {"c": ("a", "b", "c"), "d": ("c", "d")}
    assert series_in({"c": "tied"}, {"tied": (0.0, 1.0)}, layers) == {}
