"""Networks whose layers see other rows than images: the whole flow, counted per image of the example."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import causal_prune as cp
from causal_prune.importance.methods import METHODS
from causal_prune.measure import count_cost
from causal_prune.network.running import call, part_of


class Backbone(nn.Module):
    def __init__(self, width: int = 10) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, width, 3, padding=1, stride=2)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.b(self.a(x).relu())).relu()


class Clips(nn.Module):
    """(N, T, C, H, W): frames are folded into the batch, and a convolution runs over time."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.time, self.head = Backbone(), nn.Conv1d(10, 9, 3, padding=1), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        frames = self.net(x.flatten(0, 1)).mean((2, 3)).unflatten(0, x.shape[:2])
        return self.head(self.time(frames.transpose(1, 2)).relu().mean(2))


class FoldedByTheCaller(nn.Module):
    """(N T, C, H, W): four rows are a clip; each gets a share of the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.last, self.head = Backbone(), nn.Conv2d(10, 9, 3, padding=1), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        y = y + y.view(-1, 4, *y.shape[1:]).roll(1, 1).reshape(y.shape)
        return self.head(self.last(y).relu().mean((2, 3)).view(-1, 4, 9).mean(1))


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.last, self.head = Backbone(), nn.Conv2d(20, 9, 3), nn.Linear(9, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        pair = torch.cat(self.net(torch.cat((x, y))).chunk(2), 1)
        return self.head(self.last(pair).relu().mean((2, 3)))


class Tokens(nn.Module):
    """Tokens of all images stand in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.up, self.down = nn.Conv2d(3, 10, 4, 4), nn.Linear(10, 16), nn.Linear(16, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.cut(x).flatten(2).transpose(1, 2)
        rows = y.reshape(-1, y.shape[-1])
        rows = rows + self.down(self.up(rows).relu())
        return self.head(rows.view(y.shape[0], -1, rows.shape[-1]).mean(1))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


CASES: dict[str, tuple[Callable[[], nn.Module], Any, int]] = {
    "clips": (Clips, images(32, 4, 3, 8, 8), 2),
    "folded": (FoldedByTheCaller, images(128, 3, 8, 8), 8),
    "siamese": (Siamese, (images(32, 3, 8, 8), -images(32, 3, 8, 8)), 2),
    "tokens": (Tokens, images(32, 3, 8, 8), 2),
}  # fmt: skip


def flops(net: nn.Module, inputs: Any) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(net, inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::causal_prune.errors.CausalPruneWarning")
def test_the_whole_flow(name: str) -> None:
    make, inputs, rows = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = make().eval()
    example = part_of(inputs, slice(0, rows))
    graph = cp.trace(net, example)
    assert set(graph.frozen) == {"head"} and len(graph.prunable) >= 2
    total = flops(net, example)
    assert sum(layer.macs for layer in graph.layers.values()) * rows * 2 == pytest.approx(total, rel=1e-4)
    assert count_cost(net, example).macs * rows * 2 == pytest.approx(total, rel=1e-4)
    labels = torch.arange(32) % 3
    moments = cp.observe(net, graph, [(inputs, labels)])
    for method in METHODS:
        if method == "batchnorm_scale" and name == "tokens":
            continue
        labelled = [(inputs, labels)]
        if method in ("iba", "pcace"):  # they speak of images one by one
            with pytest.raises(cp.InputError, match=r"^[^\n]+$"):
                cp.score(graph, moments, method=method, model=net, labelled=labelled)
            continue
        scores = cp.score(graph, moments, method=method, model=net, labelled=labelled)
        for share in (0.7, 0.4):
            found = cp.plan(graph, scores, keep_macs=share)
            small = cp.remove(net, found)
            assert 0.9 * share < flops(small, example) / total <= share * (1 + 1e-5)
    better = cp.compensate(small, net, [(inputs, labels)])
    with torch.no_grad():
        wanted = call(net, inputs)
        errors = [float((call(each, inputs) - wanted).norm()) for each in (small, better)]
    assert errors[1] < errors[0]


def test_features_are_sums_over_all_rows_of_an_image() -> None:
    for name in ("clips", "siamese"):
        make, inputs, _ = CASES[name]
        net = make().eval()
        graph = cp.trace(net, part_of(inputs, slice(0, 2)))
        parts = [(part_of(inputs, slice(a, b)), 0) for a, b in ((0, 20), (20, 32))]
        moments = cp.observe(net, graph, parts)
        x = inputs.flatten(0, 1) if name == "clips" else torch.cat(inputs)
        with torch.no_grad():
            out = net.net.a(x).double()
        rows = (
            out.view(32, 4, *out.shape[1:])
            if name == "clips"
            else out.view(2, 32, *out.shape[1:]).transpose(0, 1)
        )
        norms = rows.square().sum((1, 3, 4)).sqrt()
        found = moments.features["net.a"].moments
        assert found.count == 32
        torch.testing.assert_close(found.mean, norms.mean(0), rtol=1e-6, atol=0)


def test_an_error_speaks_of_the_batch_and_not_of_a_part_of_it() -> None:
    net = FoldedByTheCaller().eval()
    graph = cp.trace(net, images(8, 3, 8, 8))
    for verb in (
        lambda: cp.observe(net, graph, [images(10, 3, 8, 8)]),
        lambda: cp.compensate(net, net, [images(10, 3, 8, 8)]),
    ):
        with pytest.raises(
            cp.InputError, match=r"does not accept batch 1 of calibration, \[\(10, 3, 8, 8\)\]"
        ):
            verb()
