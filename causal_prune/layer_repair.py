"""One layer of a cut network is refitted to what the dense network computes there."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from typing import Literal, cast

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.layer_inputs import channel_dim, groups_of, matrix_of, places_of, rows, weight_of
from causal_prune.least_squares import Correction, Regression
from causal_prune.lockstep import LayerStop, Pair, SumStop
from causal_prune.output_paths import OutputPaths
from causal_prune.surgery import Cuts, LayerCut

ROWS_PER_UNKNOWN = 400
"""Of a convolution's output places so many times the unknowns of a filter are drawn."""
GRAMS = 6
"""So many matrices of the size of the Gram matrix live while its equations are solved."""
ROUNDING = 1e-5
"""Residuals below this share of the largest output are rounding."""


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
    """

    layer: str
    outcome: Literal["refitted", "unchanged", "kept"]
    reason: str = ""
    error_left: float = 1.0
    remark: str = ""


@dataclass
class _Item:
    """What a pair says about a layer: residual is what its output should be changed by.

    `off` says how far the layer, or the sum that it goes into, is from what the dense network computes, as a share of
    the largest number there.
    """

    pair: Pair
    source: Tensor
    dense_source: Tensor
    residual: Tensor
    off: float
    dense_reply: Tensor


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
        self.origins: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.tied = _tied(pruned)

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
            off = _off(residual, target)
            items.append(_Item(pair, pruned.source, dense.source, residual, off, dense.out))
        result = self._fit(name, items)
        module = self.modules[name]
        for item in items:
            stop = cast(LayerStop, item.pair.pruned.stop)
            reply = module.forward(stop.source) if result.outcome == "refitted" else stop.out
            item.residual = item.source = item.dense_source = torch.empty(0)
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
            off = _off(self._masked(name, residual), wanted)
            if norm is not None:
                slope = _slope(norm)
                shape = [-1 if axis == dim else 1 for axis in range(residual.dim())]
                residual = residual * torch.where(slope.abs() > 1e-6, 1 / slope, 0 * slope).reshape(shape)
            if dense.in_place:
                target = dense.summands[0].copy_(target)
            residual = self._masked(name, residual)
            items.append(_Item(pair, pruned.source, dense.source, residual, off, target))
        result = (
            self._fit(name, items) if unspoilt else LayerRepair(name, "kept", "its input was overwritten")
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
            item.residual = item.source = item.dense_source = torch.empty(0)
            item.pair.advance(item.dense_reply, total)
        return result

    def _fit(self, name: str, items: Sequence[_Item]) -> LayerRepair:
        module = self.modules[name]
        off = max(item.off for item in items)
        if not isfinite(off):
            raise InputError(
                f"compensate: the output of {name} is NaN or infinite on the calibration data: "
                "check the images and the weights before it"
            )
        if off <= ROUNDING:
            return LayerRepair(name, "unchanged")
        if "weight" not in module._parameters:
            return LayerRepair(name, "kept", "its weight is computed from other parameters")
        if name in self.tied:
            return LayerRepair(name, "kept", "it shares its weight with another layer")
        judges = [item for item in items if item.pair.held_out] or list(items)
        current = self._state(name)
        with_current = [module.forward(item.source) for item in judges]
        correction, regression, remark = self._solve(name, items)
        if correction is None:
            self._restore(current)
            return LayerRepair(name, "kept", "its equations have no finite solution")
        origin = self._state(name)
        self._write(name, correction)
        dim = channel_dim(module, judges[0].residual)
        behind = self._behind(name, current, judges[0].residual, dim)
        before, after = torch.zeros(
            2, _filters(module), dtype=torch.float64, device=judges[0].residual.device
        )
        for item, old in zip(judges, with_current, strict=True):
            before += _squares(item.residual, dim)
            after += _squares(item.residual - (module.forward(item.source) - old) - behind, dim)
        better = after < before
        if not bool(better.all()):
            self._choose(name, better, current)
        share = float(torch.where(better, after, before).sum() / before.sum()) if before.any() else 1.0
        self.origins.setdefault(name, origin)
        refitted = bool(better.any())
        if refitted and regression.rows < regression.unknowns and not remark:
            remark = (
                f"{regression.rows} rows of calibration data for {regression.unknowns} weights per filter"
            )
        return LayerRepair(
            name,
            "refitted" if refitted else "kept",
            "" if refitted else "no refit is better on held-out images",
            share,
            remark,
        )

    def _solve(self, name: str, items: Sequence[_Item]) -> tuple[Correction | None, Regression, str]:
        module = self.modules[name]
        weight = cast(Tensor, module.weight)
        unknowns = matrix_of(module, weight).shape[2]
        needed = GRAMS * groups_of(module) * unknowns**2 * 8
        if needed > self.max_memory:
            return self._solve_mixing(name, items, needed)
        regression = self.unfinished.get(name) or Regression(intercept=self._free(name))
        again = name in self.origins
        residuals = [item.residual for item in items]
        if again:  # a module that runs once more: its earlier rows count from the weights that it had then
            outs = [module.forward(item.source) for item in items]
            self._restore(self.origins[name])
            residuals = [
                self._masked(name, item.residual + out - module.forward(item.source))
                for item, out in zip(items, outs, strict=True)
            ]
        available = sum(
            residual.numel() // residual.shape[channel_dim(module, residual)]
            for item, residual in zip(items, residuals, strict=True)
            if not item.pair.held_out
        )
        share = min(1.0, ROWS_PER_UNKNOWN * unknowns / max(available, 1))
        columns = self._columns(name)
        for item, residual in zip(items, residuals, strict=True):
            taken = self._drawn(module, residual, share, item.pair.index)
            for x, r in rows(module, item.source, residual, taken):
                regression.add(x if columns is None else x * columns.to(x), r, held_out=item.pair.held_out)
        if self.paths.calls.get(name, 1) > 1:
            self.unfinished[name] = regression
        return regression.solve(), regression, ""

    def _solve_mixing(
        self, name: str, items: Sequence[_Item], needed: int
    ) -> tuple[Correction | None, Regression, str]:
        """Too many weights per filter: the dense layer's inputs are told from the channels that are left instead."""
        module, original = self.modules[name], self.originals[name]
        regression = Regression(intercept=True)
        what = f"{needed / 2**20:,.0f} MiB needed, {self.max_memory / 2**20:,.0f} MiB allowed"
        channels = _inputs(module)
        if groups_of(module) > 1 or GRAMS * channels**2 * 8 > self.max_memory:
            return None, regression, ""
        cut = self.cuts.layers.get(name)
        kept = list(range(channels)) if cut is None or cut.keep_inputs is None else list(cut.keep_inputs)
        for item in items:
            dim = channel_dim(module, item.source)
            inputs, wanted = item.source.movedim(dim, -1), item.dense_source.movedim(dim, -1).clone()
            wanted[..., kept] -= inputs if inputs.shape[-1] == len(kept) else inputs[..., kept]
            regression.add(
                inputs.reshape(1, -1, inputs.shape[-1]),
                wanted.reshape(1, -1, wanted.shape[-1]),
                held_out=item.pair.held_out,
            )
        mixing = regression.solve()
        if mixing is None:
            return None, regression, ""
        dense = self._kept_rows(name, matrix_of(original, cast(Tensor, original.weight).detach())[0].double())
        taps = dense.reshape(len(dense), _inputs(original), -1)
        weight = torch.einsum("ock,cj->ojk", taps, mixing.weight[0]).flatten(1)
        offset = torch.einsum("ock,c->o", taps, mixing.bias[0]) * self._free(name)
        found = Correction(weight.unsqueeze(0), offset.unsqueeze(0), mixing.ridge)
        return found, regression, f"channels were mixed alike at all kernel elements: {what}"

    def _free(self, name: str) -> bool:
        """Whether a constant can be added to the layer's output."""
        return self.modules[name].bias is not None or name in self.paths.norms

    def _drawn(self, module: nn.Module, out: Tensor, share: float, index: int) -> Tensor | None:
        places = places_of(module, out)
        if places == 1 or share == 1:
            return None
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.visits) * 1_009 + index)
        drawn = torch.randperm(places, generator=generator)[: max(1, ceil(share * places))]
        return drawn.sort().values.to(out.device)

    def _choose(self, name: str, better: Tensor, current: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Give filters that are no better the weights back that they had."""
        module = self.modules[name]
        for tensor, value in current:
            if tensor is module.weight:
                chosen = matrix_of(module, tensor.detach())
                old = matrix_of(module, value)
                mask = better.reshape(chosen.shape[:2]).unsqueeze(2)
                tensor.detach().copy_(weight_of(module, torch.where(mask, chosen, old)))
            else:
                tensor.detach().copy_(torch.where(better, tensor.detach(), value))

    def _kept_rows(self, name: str, matrix: Tensor) -> Tensor:
        cut = self.cuts.layers.get(name)
        return matrix if cut is None or cut.keep_filters is None else matrix[list(cut.keep_filters)]

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

    def _behind(self, name: str, saved: Sequence[tuple[Tensor, Tensor]], out: Tensor, dim: int) -> Tensor:
        """What the batch norm behind a layer without bias adds to its output since its mean was saved."""
        added = torch.zeros(_filters(self.modules[name]), dtype=out.dtype, device=out.device)
        if self.modules[name].bias is None:
            for mean, value in saved[1:]:
                added = value - mean.detach()
        return added.reshape([-1 if axis == dim else 1 for axis in range(out.dim())])

    def _restore(self, saved: Sequence[tuple[Tensor, Tensor]]) -> None:
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


def _off(residual: Tensor, target: Tensor) -> float:
    largest = float(residual.abs().max()) if residual.numel() else 0.0
    return largest / max(float(target.abs().max()), 1e-30) if largest else 0.0


def _squares(tensor: Tensor, dim: int) -> Tensor:
    axes = [axis for axis in range(tensor.dim()) if axis != dim]
    return tensor.double().square().sum(dim=axes)


def _slope(norm: nn.Module) -> Tensor:
    variance = cast(Tensor, norm.running_var)
    slope = (variance + cast(float, norm.eps)).rsqrt()
    return slope if norm.weight is None else slope * cast(Tensor, norm.weight).detach()


def _tied(model: nn.Module) -> set[str]:
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None:
            owners.setdefault(id(weight), []).append(name)
    return {name for names in owners.values() if len(names) > 1 for name in names}
