"""One layer of a cut network is refitted to what the dense network computes there."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, cast

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.layer_inputs import channel_dim, matrix_of, places_of, rows, weight_of
from causal_prune.least_squares import Correction, Regression
from causal_prune.lockstep import LayerStop, Stream, SumStop
from causal_prune.output_paths import OutputPaths
from causal_prune.surgery import Cuts, LayerCut

ROWS_PER_UNKNOWN = 400
"""Of a convolution's output places so many times the unknowns of a filter are drawn."""
ROUNDING = 1e-5
"""Residuals below this share of the largest output are rounding."""


@dataclass(frozen=True)
class LayerRepair:
    """What became of one layer.

    Attributes:
        layer: Its name.
        outcome: "refitted"; "unchanged" where there was nothing to repair; "kept" where its weights were left.
        reason: Why they were kept.
        error_before: Squared error on held-out images with the weights as they were cut, as a share of the variance
            of the dense network's output; NaN where it was not measured.
        error_after: The same with the weights that it has now.
        rows: Number of rows that made the fit.
        unknowns: Number of weights per filter.
    """

    layer: str
    outcome: Literal["refitted", "unchanged", "kept"]
    reason: str = ""
    error_before: float = float("nan")
    error_after: float = float("nan")
    rows: int = 0
    unknowns: int = 0


@dataclass
class Pair:
    """The passes of the dense and of the cut network over the same images.

    Attributes:
        dense: Of the dense network.
        pruned: Of the cut network.
        held_out: Whether the images judge the fits instead of making them.
        index: Position among the pairs.
    """

    dense: Stream
    pruned: Stream
    held_out: bool
    index: int

    def advance(self, dense: Tensor | None, pruned: Tensor | None) -> None:
        """Let both run on.

        Args:
            dense: Reply to the dense network's pass.
            pruned: Reply to the cut network's pass.
        """
        self.dense.advance(dense)
        self.pruned.advance(pruned)


@dataclass
class _Item:
    """What a pair says about a layer: residual is what its output should be changed by."""

    pair: Pair
    source: Tensor
    residual: Tensor
    size: float
    dense_reply: Tensor


class Repairer:
    """Refits layers one after the other.

    Args:
        pruned: The cut network, a copy; its weights change.
        cuts: What was cut.
        paths: Where outputs go.
        seed: Of the places that are drawn.
    """

    def __init__(self, pruned: nn.Module, cuts: Cuts, paths: OutputPaths, seed: int) -> None:
        self.modules = dict(pruned.named_modules())
        self.cuts, self.paths, self.seed = cuts, paths, seed
        self.visits = 0
        self.unfinished: dict[str, tuple[Regression, int]] = {}

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
        items = []
        for pair in pairs:
            dense, pruned = cast(LayerStop, pair.dense.stop), cast(LayerStop, pair.pruned.stop)
            target = self._kept(name, dense.out)
            if target.shape != pruned.out.shape:
                raise InputError(
                    f"compensate: {name} returns {tuple(pruned.out.shape)} where the dense network's kept filters "
                    f"return {tuple(target.shape)}: give the network that pruned was cut from"
                )
            residual = self._masked(name, target - pruned.out)
            items.append(_Item(pair, pruned.source, residual, _size(target), dense.out))
        result = self._fit(name, items, None)
        module = self.modules[name]
        for item in items:
            stop = cast(LayerStop, item.pair.pruned.stop)
            reply = module.forward(stop.source) if result.outcome == "refitted" else stop.out
            item.residual = item.source = torch.empty(0)
            item.pair.advance(item.dense_reply, reply)
        return result

    def _at_sum(self, name: str, pairs: Sequence[Pair]) -> LayerRepair:
        module = self.modules[name]
        norm = self.modules[self.paths.norms[name]] if name in self.paths.norms else None
        dim = 1 if norm is not None else channel_dim(module, cast(SumStop, pairs[0].pruned.stop).summands[0])
        items, unspoilt = [], True
        for pair in pairs:
            dense, pruned = cast(SumStop, pair.dense.stop), cast(SumStop, pair.pruned.stop)
            unspoilt &= pruned.unspoilt
            target = dense.summands[0] + dense.factor * dense.summands[1]
            wanted = self._kept(name, target)
            residual = wanted - pruned.summands[0] - pruned.factor * pruned.summands[1]
            residual = residual / (pruned.factor if pruned.branch == 1 else 1.0)
            size = _size(wanted)
            if norm is not None:
                slope = _slope(norm)
                shape = [-1 if axis == dim else 1 for axis in range(residual.dim())]
                residual = residual * torch.where(slope.abs() > 1e-6, 1 / slope, 0 * slope).reshape(shape)
            if dense.in_place:
                target = dense.summands[0].copy_(target)
            items.append(_Item(pair, pruned.source, self._masked(name, residual), size, target))
        result = (
            self._fit(name, items, norm) if unspoilt else LayerRepair(name, "kept", "its input was overwritten")
        )
        for item in items:
            stop = cast(SumStop, item.pair.pruned.stop)
            summands = list(stop.summands)
            if result.outcome == "refitted":
                branch = module.forward(stop.source)
                summands[stop.branch] = branch if norm is None else norm.forward(branch)
            total = summands[0] + stop.factor * summands[1]
            if stop.in_place:
                total = stop.summands[0].copy_(total)
            item.residual = item.source = torch.empty(0)
            item.pair.advance(item.dense_reply, total)
        return result

    def _fit(self, name: str, items: Sequence[_Item], norm: nn.Module | None) -> LayerRepair:
        module = self.modules[name]
        largest = max(float(item.residual.abs().max()) for item in items if item.residual.numel())
        if not torch.isfinite(torch.tensor(largest)):
            raise InputError(
                f"compensate: the output of {name} is NaN or infinite on the calibration data: "
                "check the images and the weights before it"
            )
        if norm is None and largest <= ROUNDING * max(item.size for item in items):
            return LayerRepair(name, "unchanged")
        if norm is not None and largest <= ROUNDING * max(item.size for item in items):
            return LayerRepair(name, "unchanged")
        if "weight" not in module._parameters:
            return LayerRepair(name, "kept", "its weight is computed from other parameters")
        correction, regression, unknowns = self._solve(name, items)
        if correction is None:
            return LayerRepair(name, "kept", "its equations have no finite solution")
        judges = [item for item in items if item.pair.held_out] or list(items)
        dim = channel_dim(module, judges[0].residual)
        before_out = [module.forward(item.source) for item in judges]
        saved = self._state(name)
        self._write(name, correction)
        before = sum(_squares(item.residual, dim) for item in judges)
        after = sum(
            _squares(item.residual - (module.forward(item.source) - old), dim)
            for item, old in zip(judges, before_out, strict=True)
        )
        assert isinstance(before, Tensor)
        assert isinstance(after, Tensor)
        better = after < before
        if not bool(better.all()):
            self._restore(name, saved)
            groups, outputs = correction.bias.shape
            choice = better.reshape(groups, outputs).double()
            correction = Correction(
                correction.weight * choice.unsqueeze(2), correction.bias * choice, correction.ridge
            )
            if bool(better.any()):
                self._write(name, correction)
        scale = float(before.sum()) or 1.0
        left = float(torch.where(better, after, before).sum())
        outcome: Literal["refitted", "kept"] = "refitted" if bool(better.any()) else "kept"
        reason = "" if bool(better.any()) else "no refit is better on held-out images"
        return LayerRepair(name, outcome, reason, 1.0, left / scale, regression.rows, unknowns)

    def _solve(self, name: str, items: Sequence[_Item]) -> tuple[Correction | None, Regression, int]:
        module = self.modules[name]
        unknowns = matrix_of(module, cast(Tensor, module.weight)).shape[2]
        free = module.bias is not None or name in self.paths.norms
        regression, _ = self.unfinished.get(name, (Regression(intercept=free), 0))
        places = places_of(module, items[0].residual)
        available = sum(
            item.residual.numel() // (item.residual.shape[channel_dim(module, item.residual)])
            for item in items
            if not item.pair.held_out
        )
        share = min(1.0, ROWS_PER_UNKNOWN * unknowns / max(available, 1))
        columns = self._columns(name)
        for item in items:
            places = places_of(module, item.residual)
            taken = None
            if places > 1 and share < 1:
                seed = (self.seed * 1_000_003 + self.visits) * 1_009 + item.pair.index
                generator = torch.Generator().manual_seed(seed)
                taken = torch.randperm(places, generator=generator)[: max(1, ceil(share * places))].sort().values
                taken = taken.to(item.residual.device)
            for x, r in rows(module, item.source, item.residual, taken):
                regression.add(x if columns is None else x * columns.to(x), r, held_out=item.pair.held_out)
        if self.paths.calls.get(name, 1) > 1:
            self.unfinished[name] = (regression, 0)
        return regression.solve(), regression, unknowns

    def _kept(self, name: str, out: Tensor) -> Tensor:
        """The channels of a dense output that the cut layer still has."""
        cut = self.cuts.layers.get(name)
        module = self.modules[name]
        if cut is None or cut.keep_filters is None or _filters(module) == cut.filters:
            return out
        kept = torch.tensor(cut.keep_filters, device=out.device)
        return out.index_select(channel_dim(module, out), kept)

    def _masked(self, name: str, residual: Tensor) -> Tensor:
        """Filters that were silenced instead of removed stay silent: nothing is asked of them."""
        cut = self.cuts.layers.get(name)
        if cut is None or cut.keep_filters is None or _filters(self.modules[name]) != cut.filters:
            return residual
        dim = channel_dim(self.modules[name], residual)
        gone = sorted(set(range(cut.filters)) - set(cut.keep_filters))
        return residual.index_fill(dim, torch.tensor(gone, device=residual.device), 0)

    def _columns(self, name: str) -> Tensor | None:
        """0 for inputs that were silenced instead of removed, as a factor of the layer's patches."""
        cut: LayerCut | None = self.cuts.layers.get(name)
        module = self.modules[name]
        weight = cast(Tensor, module.weight)
        if cut is None or cut.keep_inputs is None or cut.grouping != "dense" or _inputs(module) != cut.inputs:
            return None
        line = torch.zeros(cut.inputs, dtype=weight.dtype)
        line[list(cut.keep_inputs)] = 1
        return line.repeat_interleave(matrix_of(module, weight).shape[2] // cut.inputs)

    def _state(self, name: str) -> list[tuple[Tensor, Tensor]]:
        return [(tensor, tensor.detach().clone()) for tensor in self._written(name)]

    def _written(self, name: str) -> list[Tensor]:
        module = self.modules[name]
        tensors = [cast(Tensor, module.weight)]
        if module.bias is not None:
            tensors.append(cast(Tensor, module.bias))
        elif name in self.paths.norms:
            tensors.append(cast(Tensor, self.modules[self.paths.norms[name]].running_mean))
        return tensors

    def _restore(self, _name: str, saved: Sequence[tuple[Tensor, Tensor]]) -> None:
        for tensor, value in saved:
            tensor.detach().copy_(value)

    def _write(self, name: str, correction: Correction) -> None:
        module = self.modules[name]
        weight, *offset = self._written(name)
        weight.detach().add_(weight_of(module, correction.weight).to(weight))
        for tensor in offset:  # a batch norm takes the mean off, so that a smaller one adds to the output
            sign = 1 if module.bias is not None else -1
            tensor.detach().add_(sign * correction.bias.flatten().to(tensor))


def _filters(module: nn.Module) -> int:
    return cast(int, module.out_features if isinstance(module, nn.Linear) else module.out_channels)


def _inputs(module: nn.Module) -> int:
    return cast(int, module.in_features if isinstance(module, nn.Linear) else module.in_channels)


def _size(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _squares(tensor: Tensor, dim: int) -> Tensor:
    axes = [axis for axis in range(tensor.dim()) if axis != dim]
    return tensor.double().square().sum(dim=axes)


def _slope(norm: nn.Module) -> Tensor:
    variance = cast(Tensor, norm.running_var)
    slope = (variance + cast(float, norm.eps)).rsqrt()
    return slope if norm.weight is None else slope * cast(Tensor, norm.weight).detach()
