"""One layer of a cut network is refitted to what the dense network computes there."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite
from typing import Literal, cast

import torch
from torch import Tensor, nn

from causal_prune.compensation.cut_layer import CutLayer, Saved
from causal_prune.compensation.joint_repair import refit_together
from causal_prune.compensation.layer_targets import Item, Judge
from causal_prune.compensation.least_squares import Correction, Regression
from causal_prune.compensation.lockstep import LayerStop, Pair, SumStop
from causal_prune.compensation.output_paths import Bounds, OutputPaths
from causal_prune.compensation.rectified_refit import Rows, inverse, step
from causal_prune.compensation.series import is_plain, series_in
from causal_prune.errors import InputError
from causal_prune.network.layer_matrices import channel_dim, groups_of, matrix_of, places_of, rows
from causal_prune.surgery import Cuts

ROWS_PER_UNKNOWN = 100
"""Of a convolution's output places so many times the unknowns of a filter are drawn."""
FIRST_ROWS_PER_UNKNOWN = 50
"""The same where the layer will be refitted again with the one that reads it."""
GRAMS = 6
"""So many matrices of the size of the Gram matrix live while its equations are solved."""
ROUNDS = 3
"""At most so often a layer before a rectifier is refitted to what gets through."""
ROUNDING = 1e-5
"""Residuals below this share of the largest output are rounding."""


Source = tuple[Tensor, int]
"""What a layer reads, and its version then."""


@dataclass(frozen=True)
class LayerRepair:
    """What became of one layer.

    Attributes:
        layer: Its name.
        outcome: "refitted"; "unchanged" where there was nothing to repair; "kept" where its weights were left.
        reason: Why they were kept.
        error_left: Squared error on held-out images, as a share of that with the weights as they were cut; never
            above 1.
        remark: What was done otherwise than usual.
        together: Layers before it whose filters were moved with it (see `joint_repair.refit_together`). What counts for
            them is the error of this one.
    """

    layer: str
    outcome: Literal["refitted", "unchanged", "kept"]
    reason: str = ""
    error_left: float = 1.0
    remark: str = ""
    together: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Fit:
    """A solution, the regression it came from, the share of places drawn, and what was done otherwise than usual."""

    correction: Correction | None
    regression: Regression
    share: float = 0.0
    remark: str = ""


class Repairer:
    """Refits layers one after the other.

    Args:
        pruned: The cut network, a copy; its weights change.
        dense: The dense network.
        cuts: What was cut.
        paths: Where outputs go.
        seed: Of the places that are drawn.
        max_memory: Bytes that the Gram matrices of one layer may take.
    """

    def __init__(
        self,
        pruned: nn.Module,
        dense: nn.Module,
        cuts: Cuts,
        paths: OutputPaths,
        *,
        seed: int,
        max_memory: int,
    ) -> None:
        self.modules, self.originals = dict(pruned.named_modules()), dict(dense.named_modules())
        self.cuts, self.paths, self.seed, self.max_memory = cuts, paths, seed, max_memory
        self.visits = 0
        self.unfinished: dict[str, Regression] = {}
        self.origins: dict[str, Saved] = {}
        self.tied = _tied(pruned)
        free = {
            name: self._layer(name)
            for name in paths.calls
            if name not in self.tied and is_plain(self.modules[name])
        }
        self.series = series_in(paths.feeders, paths.rectified, free)
        self.sources: dict[str, Sequence[Source]] = {}
        self.starts = {series.names[0] for series in self.series.values()}
        self.moving = {name for series in self.series.values() for name in series.names[:-1]}

    def meet(self, pairs: Sequence[Pair]) -> LayerRepair | None:
        """Repair the layer at which pairs stand, and let them run on.

        Args:
            pairs: All at the same stop.

        Returns:
            What became of the layer; None at a stop where it is not its turn yet.
        """
        self.visits += 1
        stop = pairs[0].pruned.stop
        if isinstance(stop, LayerStop):
            if stop.layer in self.paths.sums:
                for pair in pairs:
                    dense, pruned = cast(LayerStop, pair.dense.stop), cast(LayerStop, pair.pruned.stop)
                    pair.advance(dense.out, pruned.out)
                return None
            return self._at_layer(stop.layer, pairs)
        assert isinstance(stop, SumStop)
        return self._at_sum(stop.layer, pairs)

    def _at_layer(self, name: str, pairs: Sequence[Pair]) -> LayerRepair:
        layer, items = self._layer(name), []
        for pair in pairs:
            dense, pruned = cast(LayerStop, pair.dense.stop), cast(LayerStop, pair.pruned.stop)
            target = layer.kept(dense.out)
            if target.shape != pruned.out.shape:
                raise InputError(
                    f"compensate: {name} returns {tuple(pruned.out.shape)} where the dense network's kept filters "
                    f"return {tuple(target.shape)}: give the network that pruned was cut from"
                )
            residual = layer.masked(target - pruned.out)
            wanted = layer.behind_norm(target) if name in self.paths.rectified else target
            off = _off(residual, target)
            items.append(
                Item(pair, pruned.source, dense.source, residual, off, dense.out, wanted, layer.slope())
            )
        result = self._fit(name, layer, items)
        if name in self.starts:  # what it reads may have changed with the layers before it
            self.sources[name] = [(item.source, item.source._version) for item in items]
        for item in items:
            stop = cast(LayerStop, item.pair.pruned.stop)
            reply = layer.module.forward(item.source) if result.outcome == "refitted" else stop.out
            item.let_go()
            item.pair.advance(item.dense_reply, reply)
        return result

    def _at_sum(self, name: str, pairs: Sequence[Pair]) -> LayerRepair:
        layer, items, unspoilt = self._layer(name), [], True
        for pair in pairs:
            dense, pruned = cast(SumStop, pair.dense.stop), cast(SumStop, pair.pruned.stop)
            unspoilt &= pruned.unspoilt
            target = dense.summands[0] + dense.factor * dense.summands[1]
            wanted = layer.kept(target)
            residual = wanted - pruned.summands[0] - pruned.factor * pruned.summands[1]
            off = _off(layer.masked(residual), wanted)
            slope = layer.slope() * (pruned.factor if pruned.branch == 1 else 1.0)
            residual = layer.masked(residual * layer.along(inverse(slope), residual))
            if dense.in_place:
                target = dense.summands[0].copy_(target)
            items.append(Item(pair, pruned.source, dense.source, residual, off, target, wanted, slope))
        result = (
            self._fit(name, layer, items)
            if unspoilt
            else LayerRepair(name, "kept", "its input was overwritten")
        )
        for item in items:
            stop = cast(SumStop, item.pair.pruned.stop)
            summands = list(stop.summands)
            if result.outcome == "refitted":
                summands[stop.branch] = layer.behind_norm(layer.module.forward(item.source))
            total = summands[0] + stop.factor * summands[1]
            if stop.in_place:
                total = stop.summands[0].copy_(total)
            item.let_go()
            item.pair.advance(item.dense_reply, total)
        return result

    def _layer(self, name: str) -> CutLayer:
        norm = self.modules[self.paths.norms[name]] if name in self.paths.norms else None
        return CutLayer(self.modules[name], norm, self.cuts.layers.get(name))

    def _fit(self, name: str, layer: CutLayer, items: Sequence[Item]) -> LayerRepair:
        seen = self._read_before(name)
        offs = [item.off for item in items]
        if not all(map(isfinite, offs)):
            raise InputError(
                f"compensate: the output of {name} is NaN or infinite on the calibration data: "
                "check the images and the weights before it"
            )
        if max(offs) <= ROUNDING:
            return LayerRepair(name, "unchanged")
        if "weight" not in layer.module._parameters:
            return LayerRepair(name, "kept", "its weight is computed from other parameters")
        if name in self.tied:
            return LayerRepair(name, "kept", "it shares its weight with another layer")
        judge = Judge(layer, items)
        together = self._together(name, items, seen)
        if together:
            found, end = self._refit(name, layer, items, Judge(layer, items), rectified=True)
            found = replace(found, outcome="refitted", reason="", together=together)
        else:
            found, end = self._refit(name, layer, items, judge, rectified=name in self.moving)
        if found.outcome == "kept":
            return found
        return replace(found, error_left=min(float(end.sum() / judge.at_first.sum()), 1.0))

    def _read_before(self, name: str) -> Sequence[Source]:
        """What the first layer of the series read that ends here; nobody else needs it."""
        series = self.series.get(name)
        return self.sources.pop(series.names[0], ()) if series else ()

    def _together(self, name: str, items: Sequence[Item], seen: Sequence[Source]) -> tuple[str, ...]:
        """Refit a layer together with those before it, where that helps; the names of those."""
        if len(seen) != len(items) or any(source._version != version for source, version in seen):
            return ()
        series, sources = self.series[name], [source for source, _ in seen]
        bounds, limit = self.paths.rectified.get(name), self.max_memory
        moved = refit_together(series, items, sources, bounds, seed=self.seed, max_memory=limit)
        return series.names[:-1] if moved else ()

    def _refit(
        self, name: str, layer: CutLayer, items: Sequence[Item], judge: Judge, *, rectified: bool
    ) -> tuple[LayerRepair, Tensor]:
        """Refit a layer alone; what became of it, and the squared error of its filters on held-out images.

        What gets through a rectifier is not seen to where it has been, or will be when a series is refitted.
        """
        fit = self._solve(name, layer, items)
        if fit.correction is None:
            layer.restore(judge.first)
            return LayerRepair(name, "kept", "its equations have no finite solution"), judge.at_first
        origin = layer.state()
        layer.write(fit.correction)
        better = judge.error() < judge.at_first
        if not bool(better.all()):
            layer.choose(better, judge.first)
        self.origins.setdefault(name, origin)
        if not bool(better.any()):
            return LayerRepair(name, "kept", "no refit is better on held-out images"), judge.at_first
        if name in self.paths.rectified and fit.share and not rectified:
            self._rectify(self.paths.rectified[name], layer, items, fit, judge)
        remark = fit.remark
        if fit.regression.rows < fit.regression.unknowns and not remark:
            remark = f"{fit.regression.rows} rows of calibration data for {fit.regression.unknowns} weights per filter"
        return LayerRepair(name, "refitted", "", 1.0, remark), judge.error()

    def _rectify(
        self, bounds: Bounds, layer: CutLayer, items: Sequence[Item], fit: _Fit, judge: Judge
    ) -> None:
        """Further rounds for what the rectifier behind lets through; no filter becomes worse for it."""
        assert fit.correction is not None

        def read() -> Iterator[Rows]:
            for item in items:
                if not item.pair.held_out:
                    taken = self._drawn(layer.module, item.residual, fit.share, item.pair.index)
                    for x, (r, wanted) in rows(
                        layer.module, item.source, [item.residual, item.wanted], taken
                    ):
                        yield layer.audible(x), r, wanted

        patches = fit.regression.rows * fit.regression.unknowns * groups_of(layer.module)
        held = list(read()) if patches * items[0].source.element_size() * 4 <= self.max_memory else None
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

    def _solve(self, name: str, layer: CutLayer, items: Sequence[Item]) -> _Fit:
        module = layer.module
        unknowns = matrix_of(module, cast(Tensor, module.weight)).shape[2]
        needed = GRAMS * groups_of(module) * unknowns**2 * 8
        if needed > self.max_memory:
            return self._solve_mixing(name, layer, items, needed)
        regression = self.unfinished.get(name) or Regression(intercept=layer.free)
        residuals = [item.residual for item in items]
        if name in self.origins:
            # it runs once more: its earlier rows count from the weights that it had then
            outs = [module.forward(item.source) for item in items]
            layer.restore(self.origins[name])
            residuals = [
                layer.masked(item.residual + out - module.forward(item.source))
                for item, out in zip(items, outs, strict=True)
            ]
        available = sum(
            residual.numel() // residual.shape[channel_dim(module, residual)]
            for item, residual in zip(items, residuals, strict=True)
            if not item.pair.held_out
        )
        wanted = FIRST_ROWS_PER_UNKNOWN if name in self.moving else ROWS_PER_UNKNOWN
        share = min(1.0, wanted * unknowns / max(available, 1))
        for item, residual in zip(items, residuals, strict=True):
            taken = self._drawn(module, residual, share, item.pair.index)
            for x, (r,) in rows(module, item.source, [residual], taken):
                regression.add(layer.audible(x), r, held_out=item.pair.held_out)
        if self.paths.calls.get(name, 1) > 1:
            self.unfinished[name] = regression
        return _Fit(regression.solve(), regression, share)

    def _solve_mixing(self, name: str, layer: CutLayer, items: Sequence[Item], needed: int) -> _Fit:
        """Too many weights per filter: the dense layer's inputs are told from the channels that are left instead."""
        original = self.originals[name]
        whole = CutLayer(original, None, None)
        regression = Regression(intercept=True)
        what = f"{needed / 2**20:,.0f} MiB needed, {self.max_memory / 2**20:,.0f} MiB allowed"
        if groups_of(layer.module) > 1 or GRAMS * layer.inputs**2 * 8 > self.max_memory:
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

    def _drawn(self, module: nn.Module, out: Tensor, share: float, index: int) -> Tensor | None:
        places = places_of(module, out)
        if places == 1 or share == 1:
            return None
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.visits) * 1_009 + index)
        drawn = torch.randperm(places, generator=generator)[: max(1, ceil(share * places))]
        return drawn.sort().values.to(out.device)


def _off(residual: Tensor, target: Tensor) -> float:
    largest = float(residual.abs().max()) if residual.numel() else 0.0
    return largest / max(float(target.abs().max()), 1e-30) if largest else 0.0


def _tied(model: nn.Module) -> set[str]:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            owners.setdefault(id(weight), []).append(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}
