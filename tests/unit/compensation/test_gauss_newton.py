"""Derivatives of layers in series and the step that follows from them."""

import pytest
import torch
from torch import nn

from causal_prune.compensation.gauss_newton import Linearised, Preconditioner, gauss_newton
from tests.unit.compensation.cut_nets import images, series_of
from tests.unit.drawn_weights import drawn

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
    series = series_of(net)
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
    series = series_of(net)
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
