"""One layer refitted alone: least squares, judged on held-out images filter by filter, and rounds for rectifiers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import cast

import torch
from torch import Tensor, nn

from causal_prune.compensation.cut_layer import CutLayer, Saved
from causal_prune.compensation.layer_targets import Judge, Wanted
from causal_prune.compensation.least_squares import Correction, Regression, rows_enough
from causal_prune.compensation.output_paths import Bounds
from causal_prune.compensation.rectified_refit import Rows, step
from causal_prune.network.layer_matrices import channel_dim, groups_of, matrix_of, places_of, rows

ROWS_PER_UNKNOWN = 100
"""Of a convolution's output places so many times the unknowns of a filter are drawn."""
FIRST_ROWS_PER_UNKNOWN = 50
"""The same where the layer will be refitted again with the one that reads it."""
GRAMS = 6
"""So many matrices of the size of the Gram matrix live while its equations are solved."""
ROUNDS = 3
"""At most so often a layer before a rectifier is refitted to what gets through."""


@dataclass
class Memory:
    """What a layer remembers from one of its calls to the next.

    Attributes:
        regression: The equations so far, of a layer that will be called again.
        origin: Its weights when the first of them were gathered.
    """

    regression: Regression | None = None
    origin: Saved | None = None


@dataclass(frozen=True)
class Circumstances:
    """What a refit needs to know besides the layer and its images.

    Attributes:
        original: The layer of the dense network.
        bounds: What the rectifier behind it lets through; None where there is none, or it is seen to elsewhere.
        again: Whether the layer will be called again in the same pass.
        moves: Whether it will be refitted again with the one that reads it.
        seed: Of the places that are drawn at this visit.
        max_memory: Bytes that the Gram matrices may take.
    """

    original: nn.Module
    bounds: Bounds | None
    again: bool
    moves: bool
    seed: int
    max_memory: int


@dataclass(frozen=True)
class Refit:
    """What became of a layer.

    Attributes:
        error: Squared error of its filters on held-out images.
        kept: Why its weights were left as they were; empty where they were not.
        remark: What was done otherwise than usual.
    """

    error: Tensor
    kept: str = ""
    remark: str = ""


@dataclass(frozen=True)
class _Fit:
    """A solution, the regression it came from, the share of places drawn, and what was done otherwise than usual."""

    correction: Correction | None
    regression: Regression
    share: float = 0.0
    remark: str = ""


def refit(
    layer: CutLayer, items: Sequence[Wanted], judge: Judge, memory: Memory, given: Circumstances
) -> Refit:
    """Refit a layer to what it should return; a filter that is no better for it keeps its weights.

    Args:
        layer: The layer; its weights change.
        items: What it should return, image by image.
        judge: Its error on held-out images.
        memory: Of its earlier calls; changes.
        given: The circumstances.

    Returns:
        What became of it.
    """
    fit = _solve(layer, items, memory, given)
    if fit.correction is None:
        layer.restore(judge.first)
        return Refit(judge.at_first, "its equations have no finite solution")
    origin = layer.state()
    layer.write(fit.correction)
    better = judge.error() < judge.at_first
    if not bool(better.all()):
        layer.choose(better, judge.first)
    memory.origin = origin if memory.origin is None else memory.origin
    if not bool(better.any()):
        return Refit(judge.at_first, "no refit is better on held-out images")
    if given.bounds is not None and fit.share:
        _rectify(given.bounds, layer, items, fit, judge, given)
    remark = fit.remark
    if fit.regression.rows < fit.regression.unknowns and not remark:
        remark = (
            f"{fit.regression.rows} rows of calibration data for {fit.regression.unknowns} weights per filter"
        )
    return Refit(judge.error(), "", remark)


def _rectify(
    bounds: Bounds, layer: CutLayer, items: Sequence[Wanted], fit: _Fit, judge: Judge, given: Circumstances
) -> None:
    """Further rounds for what the rectifier behind lets through; no filter becomes worse for it."""
    assert fit.correction is not None

    def read() -> Iterator[Rows]:
        for item in items:
            if not item.pair.held_out:
                taken = _drawn(layer.module, item.residual, fit.share, given.seed + item.pair.index)
                for x, (r, wanted) in rows(layer.module, item.source, [item.residual, item.behind], taken):
                    yield layer.audible(x), r, wanted

    patches = fit.regression.rows * fit.regression.unknowns * groups_of(layer.module)
    held = list(read()) if patches * items[0].source.element_size() * 4 <= given.max_memory else None
    slope = items[0].slope.reshape(groups_of(layer.module), 1, -1)
    _, best = judge.errors(bounds)
    for _ in range(ROUNDS):
        here = layer.state()
        change = layer.since(judge.first, fit.correction.ridge)
        further = step(read() if held is None else held, fit.regression, change, bounds, slope)
        if further is None:
            return
        layer.write(further)
        plain, found = judge.errors(bounds)
        better = (found < best) & (plain < judge.at_first)
        if not bool(better.all()):
            layer.choose(better, here)
        if not bool(better.any()):
            return
        best = torch.where(better, found, best)


def _solve(layer: CutLayer, items: Sequence[Wanted], memory: Memory, given: Circumstances) -> _Fit:
    module = layer.module
    unknowns = matrix_of(module, cast(Tensor, module.weight)).shape[2]
    needed = GRAMS * groups_of(module) * unknowns**2 * 8
    if needed > given.max_memory:
        return _solve_mixing(layer, items, given, needed)
    regression = memory.regression or Regression(intercept=layer.free)
    residuals = [item.residual for item in items]
    if memory.origin is not None:
        # it runs once more: its earlier rows count from the weights that it had then
        outs = [module.forward(item.source) for item in items]
        layer.restore(memory.origin)
        residuals = [
            layer.masked(item.residual + out - module.forward(item.source))
            for item, out in zip(items, outs, strict=True)
        ]
    available = sum(
        residual.numel() // residual.shape[channel_dim(module, residual)]
        for item, residual in zip(items, residuals, strict=True)
        if not item.pair.held_out
    )
    wanted = FIRST_ROWS_PER_UNKNOWN if given.moves else ROWS_PER_UNKNOWN
    share = min(1.0, rows_enough(unknowns, wanted) / max(available, 1))
    for item, residual in zip(items, residuals, strict=True):
        taken = _drawn(module, residual, share, given.seed + item.pair.index)
        for x, (r,) in rows(module, item.source, [residual], taken):
            regression.add(layer.audible(x), r, held_out=item.pair.held_out)
    if given.again:
        memory.regression = regression
    return _Fit(regression.solve(), regression, share)


def _solve_mixing(layer: CutLayer, items: Sequence[Wanted], given: Circumstances, needed: int) -> _Fit:
    """Too many weights per filter: the dense layer's inputs are told from the channels that are left instead."""
    original = given.original
    whole = CutLayer(original, None, None)
    regression = Regression(intercept=True)
    what = f"{needed / 2**20:,.0f} MiB needed, {given.max_memory / 2**20:,.0f} MiB allowed"
    if groups_of(layer.module) > 1 or GRAMS * layer.inputs**2 * 8 > given.max_memory:
        return _Fit(None, regression)
    cut = layer.cut
    kept = list(range(layer.inputs)) if cut is None or cut.keep_inputs is None else list(cut.keep_inputs)
    for item in items:
        dim = channel_dim(layer.module, item.source)
        inputs, wanted = item.source.movedim(dim, -1), item.dense_source.movedim(dim, -1).clone()
        wanted[..., kept] -= inputs if inputs.shape[-1] == len(kept) else inputs[..., kept]
        regression.add(
            inputs.reshape(1, -1, inputs.shape[-1]),
            wanted.reshape(1, -1, wanted.shape[-1]),
            held_out=item.pair.held_out,
        )
    mixing = regression.solve()
    if mixing is None:
        return _Fit(None, regression)
    dense = layer.kept_rows(matrix_of(original, cast(Tensor, original.weight).detach())[0].double())
    taps = dense.reshape(len(dense), whole.inputs, -1)
    weight = torch.einsum("ock,cj->ojk", taps, mixing.weight[0]).flatten(1)
    offset = torch.einsum("ock,c->o", taps, mixing.bias[0]) * layer.free
    found = Correction(weight.unsqueeze(0), offset.unsqueeze(0), mixing.ridge)
    return _Fit(found, regression, remark=f"channels were mixed alike at all kernel elements: {what}")


def _drawn(module: nn.Module, out: Tensor, share: float, seed: int) -> Tensor | None:
    """Some output places of a convolution, the same in every image; None for all."""
    places = places_of(module, out)
    if places == 1 or share == 1:
        return None
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(places, generator=generator)[: max(1, ceil(share * places))]
    return drawn.sort().values.to(out.device)
