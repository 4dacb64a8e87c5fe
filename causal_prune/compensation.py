"""Repairs a cut network from unlabelled images, so that what is left computes what the dense network computed."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from causal_prune.batches import copied, device_of, inputs_of, moved, seeded
from causal_prune.batchnorm_statistics import check_same_task, reestimate, run
from causal_prune.errors import InputError
from causal_prune.layer_repair import LayerRepair, Pair, Repairer
from causal_prune.lockstep import Stream, stopping
from causal_prune.output_paths import OutputPaths, output_paths
from causal_prune.progress import track
from causal_prune.surgery import Cuts, recorded_cuts

Method = Literal["least_squares", "batchnorm", "none"]
HELD_OUT = 8
"""One image in so many judges the fits instead of making them."""


@dataclass(frozen=True)
class Compensated:
    """The result of `repair`.

    Attributes:
        model: The repaired network.
        layers: What became of every convolution and linear layer, in order of execution.
    """

    model: nn.Module
    layers: tuple[LayerRepair, ...]


def compensate(
    pruned: nn.Module,
    dense: nn.Module,
    calibration: Iterable[Any],
    *,
    method: Method = "least_squares",
    seed: int = 0,
    device: str | torch.device = "cpu",
    label: str = "compensate",
) -> nn.Module:
    return repair(
        pruned, dense, calibration, method=method, seed=seed, device=device, label=label
    ).model


def repair(
    pruned: nn.Module,
    dense: nn.Module,
    calibration: Iterable[Any],
    *,
    method: Method = "least_squares",
    seed: int = 0,
    device: str | torch.device = "cpu",
    label: str = "compensate",
) -> Compensated:
    if method not in get_args(Method):
        raise InputError(
            f"compensate: method {method!r} is unknown: use one of {', '.join(get_args(Method))}"
        )
    if method == "none":
        return Compensated(copied(pruned), ())
    if method == "batchnorm":
        return Compensated(reestimate(pruned, dense, calibration, device=device, label=label), ())
    repaired, reference = copied(pruned), copied(dense)
    repaired.to(device).eval()
    reference.to(device).eval()
    with seeded(seed, device), torch.no_grad():
        layers = _refit(repaired, reference, calibration, seed=seed, device=device, label=label)
    for copy, original in zip(repaired.modules(), pruned.modules(), strict=True):
        copy.training = original.training
    return Compensated(repaired.to(device_of(pruned)), tuple(layers))


def _refit(
    pruned: nn.Module,
    dense: nn.Module,
    calibration: Iterable[Any],
    *,
    seed: int,
    device: str | torch.device,
    label: str,
) -> list[LayerRepair]:
    batches = [moved(inputs_of(batch), device) for batch in calibration]
    if not batches:
        raise InputError("compensate: calibration has no batch: give at least 2 images")
    cuts = recorded_cuts(pruned) or Cuts({}, {})
    paths = _common_paths(pruned, dense, batches[0])
    with ExitStack() as stack:
        stack.enter_context(stopping(pruned, paths))
        stack.enter_context(stopping(dense, paths))
        pairs = []
        for index, (inputs, held_out) in enumerate(_parts(batches)):
            pair = Pair(Stream(dense, inputs, paths), Stream(pruned, inputs, paths), held_out, index)
            stack.callback(pair.pruned.close)
            stack.callback(pair.dense.close)
            pairs.append(pair)
        for pair in pairs:
            pair.advance(None, None)
        repairer = Repairer(pruned, cuts, paths, seed)
        stops = sum(paths.calls.values()) + len(paths.sums)
        return [done for done in track(_walk(repairer, pairs), label, total=stops, unit="layer") if done]


def _walk(repairer: Repairer, pairs: Sequence[Pair]) -> Iterator[LayerRepair | None]:
    while standing := [pair for pair in pairs if pair.pruned.stop is not None]:
        first = standing[0].pruned.stop
        assert first is not None
        here = [
            pair
            for pair in standing
            if type(pair.pruned.stop) is type(first) and pair.pruned.stop.layer == first.layer
        ]
        yield repairer.meet(here)


def _common_paths(pruned: nn.Module, dense: nn.Module, inputs: Any) -> OutputPaths:
    few = _sliced(inputs, slice(0, 2))
    outputs = run("pruned", pruned, few, 0)
    check_same_task(dense, few, outputs)
    ours, theirs = output_paths(pruned, few), output_paths(dense, few)
    norms = {layer: norm for layer, norm in ours.norms.items() if theirs.norms.get(layer) == norm}
    sums = {layer for layer in ours.sums & theirs.sums if ours.norms.get(layer) == theirs.norms.get(layer)}
    return OutputPaths(ours.calls, norms, frozenset(sums))


def _parts(batches: Sequence[Any]) -> Iterator[tuple[Any, bool]]:
    """Every batch without each eighth image, and then those images."""
    last = []
    for batch in batches:
        size = _length(batch)
        if size < HELD_OUT:
            yield batch, False
            continue
        chosen = torch.arange(size) % HELD_OUT == HELD_OUT - 1
        yield _sliced(batch, ~chosen), False
        last.append(_sliced(batch, chosen))
    for group in [last[k : k + HELD_OUT] for k in range(0, len(last), HELD_OUT)]:
        yield from ((part, True) for part in _joined(group))


def _joined(parts: Sequence[Any]) -> Sequence[Any]:
    leaves = [tree_flatten(part)[0] for part in parts]
    form = tree_flatten(parts[0])[1]
    if any(
        isinstance(a, Tensor) and a.shape[1:] != b.shape[1:]
        for other in leaves[1:]
        for a, b in zip(leaves[0], other, strict=True)
    ):
        return parts
    joined = [
        torch.cat(column) if isinstance(column[0], Tensor) else column[0] for column in zip(*leaves, strict=True)
    ]
    return [tree_unflatten(joined, form)]


def _length(inputs: Any) -> int:
    sizes = {len(leaf) for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor) and leaf.dim()}
    return sizes.pop() if len(sizes) == 1 else 1


def _sliced(inputs: Any, images: Any) -> Any:
    if _length(inputs) == 1:
        return inputs
    return tree_map(lambda leaf: leaf[images] if isinstance(leaf, Tensor) and leaf.dim() else leaf, inputs)
