"""Repairs a layer together with those that write what it alone reads."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from math import ceil
from typing import cast

import torch
from torch import Tensor

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.gauss_newton import Linearised, Preconditioner, gauss_newton
from causal_prune.compensation.layer_targets import Judge, Wanted
from causal_prune.compensation.least_squares import Correction, Regression, rows_enough
from causal_prune.compensation.output_paths import Bounds
from causal_prune.compensation.rectified_refit import inverse, shortfall
from causal_prune.compensation.series import Series
from causal_prune.network.layer_matrices import channel_dim, groups_of, places_of, rows

STEPS = 3
"""At most so many steps of Gauss and Newton."""
LENGTHS = (1.0, 0.5, 0.25)
"""Shares of a step that are tried, until one makes the error smaller."""
EQUATIONS_PER_UNKNOWN = 100
"""So many numbers of the last layer's output are looked at for every weight of the series."""
FEWEST_IMAGES = 128
"""Images that are looked at where the weights ask for fewer; every step takes its share of them."""
IMAGES_AT_ONCE = 128
LIVING = 6
"""So many tensors of the size of what every layer returns live per image."""
SHARE = 0.25
"""Of the memory this much is for them."""
MATRICES = 6
"""So many of the size of the square of a filter's unknowns live."""
ROWS_PER_UNKNOWN = 50
"""Of the last layer's output places so many times the unknowns of a filter are drawn for its first fit."""
WORSE = 1e-3
"""So much of the mean error of all filters a filter may lose: rounding, and outputs of next to no size."""


def refit_together(
    series: Series,
    items: Sequence[Wanted],
    sources: Sequence[Tensor],
    bounds: Bounds | None,
    *,
    seed: int,
    max_memory: int,
) -> bool:
    """Move the filters of layers in series to where the last of them does best with what is left.

    Least squares of one layer choose among what the kept filters before it return. Here those filters move too, by
    Gauss-Newton steps towards what the last layer should return; what they return themselves need not be what it was,
    since nothing else reads it. A step is taken only if the last layer's error on held-out images falls, and no
    filter's error rises above that with the weights as they were cut by more than `WORSE` of the filters' mean.

    Args:
        series: The layers; their weights change.
        items: At the last layer; their sources and residuals follow its and the others' weights.
        sources: What the first layer reads, by item.
        bounds: Of the rectifier behind the last layer, if that alone reads it.
        seed: Of random signs and places.
        max_memory: Bytes for matrices, and for the activations of the images that make the fit.

    Returns:
        Whether any step was taken; nothing has changed where none was.

    Cost: for every step `gauss_newton` over a third of the images looked at (all of them are for wide layers on small
        maps, `FEWEST_IMAGES` for others), and three forward passes of the layers over all images.
    """
    if not _applies(series, items, sources, max_memory):
        return False
    layer = series.layers[-1]
    firsts = [layer.module.forward(item.source) for item in items]
    saved = [each.state() for each in series.layers]
    judge, pairs = Judge(layer, items), list(zip(sources, items, strict=True))
    judged = [(source, item) for source, item in pairs if any(item is each for each in judge.items)]
    fit = [(source, item) for source, item in pairs if not item.pair.held_out]
    joint = _Joint(series, bounds, seed, judge, judged, list(_samples(series, fit, max_memory)))
    joint.fit_last()
    try:
        taken = sum(takewhile(bool, (joint.step(number) for number in range(STEPS))))
    except OverflowError:  # derivatives beyond what the numbers hold
        taken = 0
    if not taken:
        for each, state in zip(series.layers, saved, strict=True):
            each.restore(state)
        return False
    for item, source, first in zip(items, sources, firsts, strict=True):
        item.source = series.read_by_last(source)
        item.residual = item.residual - layer.masked(layer.change_since(judge.first, item.source, first))
    return True


def _applies(series: Series, items: Sequence[Wanted], sources: Sequence[Tensor], max_memory: int) -> bool:
    """Whether the layers do compute what the last one reads, image by image, and their matrices fit into memory."""
    first, last = series.layers[0], series.layers[-1]
    if all(item.pair.held_out for item in items):
        return False
    for item, source in zip(items, sources, strict=True):
        dims = channel_dim(first.module, source), channel_dim(last.module, item.source)
        if min(dims) < 1 or not len(source) == len(item.source) == len(item.residual):
            return False
        read, now = series.read_by_last(source[:1]), item.source[:1]
        if (
            read.shape != now.shape
            or read.dtype != now.dtype
            or not torch.allclose(read, now, 1e-3, 1e-4 * float(now.abs().max()))
        ):
            return False
    return all(
        MATRICES * 8 * groups_of(layer.module) * layer.unknowns**2 <= max_memory for layer in series.layers
    )


class _Sample:
    """Images that make the fit: what the first layer reads, and at the last layer what an item says."""

    def __init__(self, layer: CutLayer, parts: Sequence[tuple[Tensor, Wanted]], count: Sequence[int]) -> None:
        def joined(pick: Sequence[Tensor]) -> Tensor:
            return torch.cat([each[:k] for each, k in zip(pick, count, strict=True)])

        self.source = joined([source for source, _ in parts])
        self.read = joined([item.source for _, item in parts])
        self.residual = joined([item.residual for _, item in parts])
        self.wanted = joined([item.behind for _, item in parts])
        self.slope = parts[0][1].slope
        self.first = cast(Tensor, layer.module.forward(self.read))


@dataclass
class _Joint:
    """Layers in series while they move; the judge goes by what the last one read and returned at first."""

    series: Series
    bounds: Bounds | None
    seed: int
    judge: Judge
    judged: Sequence[tuple[Tensor, Wanted]]
    samples: Sequence[_Sample]
    condition: Preconditioner | None = None

    @property
    def last(self) -> CutLayer:
        """The layer whose output counts."""
        return self.series.layers[-1]

    def fit_last(self) -> None:
        """Let the last layer do what it can alone, from part of the places."""
        generator = torch.Generator().manual_seed(self.seed)
        regression = Regression(intercept=self.last.free)
        images = sum(len(sample.read) for sample in self.samples)
        for sample in self.samples:
            places = places_of(self.last.module, sample.residual)
            taken = min(places, ceil(rows_enough(self.last.unknowns, ROWS_PER_UNKNOWN) / images))
            drawn = torch.randperm(places, generator=generator)[:taken].sort().values.to(sample.read.device)
            at = drawn if places > 1 else None
            for x, (r,) in rows(self.last.module, sample.read, [sample.residual], at):
                regression.add(self.last.audible(x), r, held_out=False)
        correction = regression.solve()
        if correction is not None:
            self.last.write(correction)

    def step(self, number: int) -> bool:
        """Go where Gauss and Newton say, as far as it helps; whether it does. The next goes by other batches."""
        best = float(self.judge.errors(self.bounds)[1].sum())
        start, reads = [each.state() for each in self.series.layers], [item.source for _, item in self.judged]
        changes = self._changes(number)
        for length in LENGTHS:
            for layer, change in zip(self.series.layers, changes, strict=True):
                layer.write(change.times(length))
            for source, item in self.judged:
                item.source = self.series.read_by_last(source)
            plain, found = self.judge.errors(self.bounds)
            cut = self.judge.at_first
            if float(found.sum()) < best and bool((plain <= cut + WORSE * cut.mean()).all()):
                return True
            for layer, state in zip(self.series.layers, start, strict=True):
                layer.restore(state)
        for (_, item), read in zip(self.judged, reads, strict=True):
            item.source = read
        return False

    def _changes(self, number: int) -> list[Correction]:
        samples = self.samples[number % len(self.samples) :: STEPS]
        parts = [Linearised(self.series, sample.source) for sample in samples]
        errors = [self._missing(part, sample) for part, sample in zip(parts, samples, strict=True)]
        even = self.last.along(torch.ones(self.last.filters), errors[0])
        if self.condition is None:
            self.condition = Preconditioner(self.series, parts, even, self.seed)
        return gauss_newton(self.series, parts, errors, even, self.condition)

    def _missing(self, part: Linearised, sample: _Sample) -> Tensor:
        """What is missing behind the last layer's batch norm."""
        change = self.last.change_since(self.judge.first, part.reads[-1], sample.first)
        left = sample.residual - self.last.masked(change)
        if self.bounds is not None:
            slope = self.last.along(sample.slope, left)
            left = shortfall(sample.wanted, slope * left, self.bounds) * inverse(slope)
        return left * self.last.along(self.last.slope(), left)


def _samples(series: Series, fit: Sequence[tuple[Tensor, Wanted]], max_memory: int) -> Iterator[_Sample]:
    """As many images as the weights ask for, from all batches alike."""
    source, item = fit[0]
    each = max(1, item.residual.numel() // len(item.residual))
    wanted = max(FEWEST_IMAGES, ceil(EQUATIONS_PER_UNKNOWN * series.unknowns / each))
    living = sum(tensor.numel() * tensor.element_size() for tensor in (source, item.source, item.residual))
    wanted = min(wanted, max(1, int(SHARE * max_memory / max(1, LIVING * living / len(source)))))
    share = min(1.0, wanted / sum(len(source) for source, _ in fit))
    waiting: list[tuple[Tensor, Wanted]] = []
    for source, item in fit:
        if waiting and (
            source.shape[1:] != waiting[0][0].shape[1:]
            or sum(ceil(share * len(one)) for one, _ in waiting) >= IMAGES_AT_ONCE
        ):
            yield _Sample(series.layers[-1], waiting, [ceil(share * len(one)) for one, _ in waiting])
            waiting = []
        waiting.append((source, item))
    yield _Sample(series.layers[-1], waiting, [ceil(share * len(one)) for one, _ in waiting])
