"""The repair of a cut network, layer by layer: what a layer should return, whether it is refitted, what runs on."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, cast

from torch import Tensor, nn

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.joint_repair import refit_together
from causal_prune.compensation.layer_refit import Circumstances, Memory, refit
from causal_prune.compensation.layer_targets import Judge, Wanted
from causal_prune.compensation.lockstep import LayerStop, Pair, Stop, SumStop
from causal_prune.compensation.output_paths import OutputPaths
from causal_prune.compensation.rectified_refit import inverse
from causal_prune.compensation.series import series_in
from causal_prune.errors import InputError
from causal_prune.network.layer_twins import linear_in_its_weight, makes_its_weight
from causal_prune.surgery import Cuts

ROUNDING = 1e-5
"""Residuals below this share of the largest output are rounding."""

Source = tuple[Tensor, int]
"""What a layer reads, and its version then."""


COMPUTED = "its weight is computed from other parameters"
"""Why a layer is left as it was cut."""


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
        self.memories = {name: Memory() for name in paths.calls}
        self.tied = _tied(pruned)
        plain = [
            name
            for name in paths.calls.keys() - paths.given_more
            if name not in self.tied and linear_in_its_weight(self.modules[name])
        ]
        self.series = series_in(paths.feeders, paths.rectified, {name: self._layer(name) for name in plain})
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
        assert stop is not None
        with _given_again(self.modules[stop.layer], pairs):
            return self._meet(stop, pairs)

    def _meet(self, stop: Stop, pairs: Sequence[Pair]) -> LayerRepair | None:
        if isinstance(stop, LayerStop) and stop.layer in self.paths.sums:
            for pair in pairs:
                dense, pruned = cast(LayerStop, pair.dense.stop), cast(LayerStop, pair.pruned.stop)
                pair.advance(dense.out, pruned.out)
            return None
        name, layer = stop.layer, self._layer(stop.layer)
        at_layer = isinstance(stop, LayerStop)
        items = [self._at_layer(name, layer, p) if at_layer else _at_sum(layer, p) for p in pairs]
        seen, done = self._read_before(name), self._without_refit(name, layer, items)
        if done is None:
            seed = (self.seed * 1_000_003 + self.visits) * 1_009
            judge, together = Judge(layer, items), self._together(name, items, seen)
            later = not together and name in self.moving
            given = Circumstances(
                original=self.originals[name],
                bounds=None if together or later else self.paths.rectified.get(name),
                again=self.paths.calls.get(name, 1) > 1,
                moves=name in self.moving,
                seed=seed,
                max_memory=self.max_memory,
            )
            again = Judge(layer, items) if together else judge
            found = refit(layer, items, again, self.memories[name], given)
            done = LayerRepair(name, "kept", found.kept)
            if together or not found.kept:
                left = min(float(found.error.sum() / judge.at_first.sum()), 1.0)
                done = LayerRepair(name, "refitted", "", left, found.remark, together)
        if name in self.starts and at_layer:  # what it reads may have changed with the layers before it
            self.sources[name] = [(item.source, item.source._version) for item in items]
        for item in items:
            reply = _reply_of_layer if at_layer else _reply_of_sum
            answer = reply(layer, item, refitted=done.outcome == "refitted")
            item.let_go()
            item.pair.advance(item.dense_reply, answer)
        return done

    def pass_by(self, pair: Pair) -> None:
        """Let a pair run on from a layer that is repaired already.

        Args:
            pair: One that comes later than others.
        """
        dense, pruned = pair.dense.stop, pair.pruned.stop
        if isinstance(dense, LayerStop) and isinstance(pruned, LayerStop):
            if pruned.layer in self.sources:  # layers behind it will be refitted together with it
                known = [*self.sources[pruned.layer], (pruned.source, pruned.source._version)]
                self.sources[pruned.layer] = known
            pair.advance(dense.out, pruned.out)
        else:
            pair.advance(_total(cast(SumStop, dense)), _total(cast(SumStop, pruned)))

    def _layer(self, name: str) -> CutLayer:
        norm = self.modules[self.paths.norms[name]] if name in self.paths.norms else None
        return CutLayer(self.modules[name], norm, self.cuts.layers.get(name))

    def _at_layer(self, name: str, layer: CutLayer, pair: Pair) -> Wanted:
        dense, pruned = cast(LayerStop, pair.dense.stop), cast(LayerStop, pair.pruned.stop)
        target = layer.kept(dense.out)
        if target.shape != pruned.out.shape:
            raise InputError(
                f"compensate: {name} returns {tuple(pruned.out.shape)} where the dense network's kept filters "
                f"return {tuple(target.shape)}: give the network that pruned was cut from"
            )
        residual = layer.masked(target - pruned.out)
        behind = layer.behind_norm(target) if name in self.paths.rectified else target
        off = _off(residual, target)
        return Wanted(pair, pruned.source, dense.source, residual, off, dense.out, behind, layer.slope())

    def _without_refit(self, name: str, layer: CutLayer, items: Sequence[Wanted]) -> LayerRepair | None:
        """What becomes of a layer that is not refitted; None where it is."""
        if not all(_unspoilt(item.pair) for item in items):
            return LayerRepair(name, "kept", "its input was overwritten")
        offs = [item.off for item in items]
        if not all(map(isfinite, offs)):
            raise InputError(
                f"compensate: the output of {name} is NaN or infinite on the calibration data: "
                "check the images and the weights before it"
            )
        reason = ""
        if max(offs) <= ROUNDING:
            return LayerRepair(name, "unchanged")
        if "weight" not in layer.module._parameters or makes_its_weight(layer.module):
            reason = COMPUTED
        elif name in self.tied:
            reason = "it shares its weight with another layer"
        return LayerRepair(name, "kept", reason) if reason else None

    def _read_before(self, name: str) -> Sequence[Source]:
        """What the first layer of the series read that ends here; nobody else needs it."""
        series = self.series.get(name)
        return self.sources.pop(series.names[0], ()) if series else ()

    def _together(self, name: str, items: Sequence[Wanted], seen: Sequence[Source]) -> tuple[str, ...]:
        """Refit a layer together with those before it, where that helps; the names of those."""
        if len(seen) != len(items) or any(source._version != version for source, version in seen):
            return ()
        series, sources = self.series[name], [source for source, _ in seen]
        bounds, limit = self.paths.rectified.get(name), self.max_memory
        helped = refit_together(series, items, sources, bounds, seed=self.seed, max_memory=limit)
        return series.names[:-1] if helped else ()


@contextmanager
def _given_again(module: nn.Module, pairs: Sequence[Pair]) -> Iterator[None]:
    """Let a layer that is run again have what else it was given, such as the size of its output."""
    stops = [pair.pruned.stop for pair in pairs if pair.pruned.stop is not None]
    further = {id(stop.source): stop.further for stop in stops}
    if not any(further.values()):
        yield
        return
    original, first = module.forward, stops[0].further

    def forward(source: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs:  # the network itself, running on
            return original(source, *args, **kwargs)
        given = further.get(id(source), first)
        return original(source, *given.args, **given.kwargs)

    vars(module)["forward"] = forward
    try:
        yield
    finally:
        del vars(module)["forward"]


def _at_sum(layer: CutLayer, pair: Pair) -> Wanted:
    dense, pruned = cast(SumStop, pair.dense.stop), cast(SumStop, pair.pruned.stop)
    target = dense.summands[0] + dense.factor * dense.summands[1]
    behind = layer.kept(target)
    residual = behind - pruned.summands[0] - pruned.factor * pruned.summands[1]
    off = _off(layer.masked(residual), behind)
    slope = layer.slope() * (pruned.factor if pruned.branch == 1 else 1.0)
    residual = layer.masked(residual * layer.along(inverse(slope), residual))
    if dense.in_place:
        target = dense.summands[0].copy_(target)
    return Wanted(pair, pruned.source, dense.source, residual, off, target, behind, slope)


def _reply_of_layer(layer: CutLayer, item: Wanted, *, refitted: bool) -> Tensor:
    stop = cast(LayerStop, item.pair.pruned.stop)
    return cast(Tensor, layer.module.forward(item.source)) if refitted else stop.out


def _reply_of_sum(layer: CutLayer, item: Wanted, *, refitted: bool) -> Tensor:
    stop = cast(SumStop, item.pair.pruned.stop)
    summands = list(stop.summands)
    if refitted:
        summands[stop.branch] = layer.behind_norm(cast(Tensor, layer.module.forward(item.source)))
    return _added(stop, summands[0], summands[1])


def _total(stop: SumStop) -> Tensor:
    return _added(stop, *stop.summands)


def _added(stop: SumStop, first: Tensor, second: Tensor) -> Tensor:
    total = first + stop.factor * second
    return stop.summands[0].copy_(total) if stop.in_place else total


def _unspoilt(pair: Pair) -> bool:
    stop = pair.pruned.stop
    return not isinstance(stop, SumStop) or stop.unspoilt


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
