"""Removal equals silencing on random small networks."""

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.check import Outcome, check_network
from tests.zoo.frame import image, randomised

Step = tuple[str, int, int, int]
"""Kind, two numbers that choose among the feature maps so far, one that chooses a width."""

KINDS = ("conv", "grouped", "depthwise", "bn", "relu", "add", "cat", "pool", "se", "shuffle", "split")
WIDTHS = (4, 6, 8, 12)
LARGEST = 24


class RandomNet(nn.Module):
    """A stem, random steps over a list of feature maps, and a linear head over the last ones.

    Every step reads maps that exist and appends its result, so any list of steps is a network.
    """

    def __init__(self, steps: list[Step], hidden: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layers = nn.ModuleDict()
        self.program: list[tuple[str, tuple[int, ...], Any]] = []
        widths = [8]
        for place, step in enumerate(steps):
            self._append(f"{step[0]}{place}", step, widths)
        self.last = tuple(range(max(0, len(widths) - 2), len(widths)))
        features = sum(widths[k] for k in self.last)
        self.hidden, self.head = nn.Linear(features * 4, hidden), nn.Linear(hidden, 3)

    def _append(self, name: str, step: Step, widths: list[int]) -> None:
        kind, first, second, choice = step
        a, b = len(widths) - 1 - first % min(3, len(widths)), second % len(widths)
        width, wanted = widths[a], WIDTHS[choice % len(WIDTHS)]
        new, reads, extra = width, (a,), None
        if kind == "conv":
            self.layers[name], new = nn.Conv2d(width, wanted, 3, padding=1, bias=choice % 2 == 0), wanted
        elif kind == "grouped":
            groups = (2, 4)[choice % 2] if width % 4 == 0 else 2 - width % 2
            self.layers[name], new = nn.Conv2d(width, 8, 3, padding=1, groups=groups), 8
        elif kind == "depthwise":
            new = width * (1 + choice % 2) if width * 2 <= LARGEST else width
            self.layers[name] = nn.Conv2d(width, new, 3, padding=1, groups=width)
        elif kind == "bn":
            self.layers[name] = nn.BatchNorm2d(width)
        elif kind == "se":
            self.layers[name] = nn.Sequential(nn.Conv2d(width, 4, 1), nn.ReLU(), nn.Conv2d(4, width, 1))
        elif kind == "add":
            reads = (a, b)
            if widths[b] != width:
                self.layers[name] = nn.Conv2d(widths[b], width, 1)
        elif kind == "cat":
            if width + widths[b] > LARGEST:
                return
            reads, new = (a, b), width + widths[b]
        elif kind == "split":
            if width == 1:
                return
            part = width // 2 if choice % 2 else min(2, width - 1)
            extra = (part, width - part)
            new = extra[choice // 2 % 2]
        self.program.append((name, reads, (kind, extra, choice)))
        widths.append(new)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for name, reads, (kind, extra, choice) in self.program:
            layer = self.layers[name] if name in self.layers else nn.Identity()
            maps.append(_apply(kind, layer, [maps[k] for k in reads], extra, choice))
        pooled = [functional.adaptive_avg_pool2d(maps[k], 2) for k in self.last]
        return self.head(self.hidden(torch.cat(pooled, 1).flatten(1)).relu())


def _apply(kind: str, layer: nn.Module, x: list[Tensor], extra: Any, choice: int) -> Tensor:
    if kind == "relu":
        return x[0].relu()
    if kind == "add":
        return x[0] + functional.interpolate(layer(x[1]), size=x[0].shape[2:])
    if kind == "cat":
        return torch.cat((x[0], functional.interpolate(x[1], size=x[0].shape[2:])), 1)
    if kind == "pool":
        return functional.max_pool2d(x[0], 2, ceil_mode=True)
    if kind == "se":
        return x[0] * layer(x[0].mean((2, 3), keepdim=True)).sigmoid()
    if kind == "shuffle":
        n, c, h, w = x[0].shape
        if c % 2:
            return x[0].flip(1)
        return x[0].view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
    if kind == "split":
        return x[0].split(extra, dim=1)[choice // 2 % 2]
    return layer(x[0])


steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, 5), st.integers(0, 7)),
    min_size=1,
    max_size=10,
)


def outcome_of(program: list[Step], hidden: int, seed: int) -> Outcome:
    return check_network(lambda: randomised(RandomNet(program, hidden), seed), image(), seed=seed)


QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@QUICK
@given(program=steps, hidden=st.integers(4, 9), seed=st.integers(0, 99))
def test_removal_equals_silencing(program: list[Step], hidden: int, seed: int) -> None:
    outcome = outcome_of(program, hidden, seed)
    assert outcome.kind == "right" and "hidden" in outcome.cuttable, outcome


@pytest.mark.slow
@settings(QUICK, max_examples=500)
@given(program=steps, hidden=st.integers(4, 9), seed=st.integers(0, 9999))
def test_removal_equals_silencing_often(program: list[Step], hidden: int, seed: int) -> None:
    outcome = outcome_of(program, hidden, seed)
    assert outcome.kind == "right" and "hidden" in outcome.cuttable, outcome


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_alone_leaves_its_channels_prunable(kind: str) -> None:
    program: list[Step] = [("conv", 0, 0, 2), (kind, 0, 0, 0), ("conv", 0, 0, 0)]
    outcome = check_network(lambda: randomised(RandomNet(program, 6)), image())
    assert outcome.kind == "right", outcome
    assert {"stem", "layers.conv0", "layers.conv2", "hidden"} <= outcome.cuttable
