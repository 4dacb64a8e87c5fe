"""Repairs a cut network from unlabelled images, so that what is left computes what the dense network computed."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from causal_prune.compensation.guard import TRUSTED, Verdict, decide, divergences, splits
from causal_prune.compensation.layer_repair import COMPUTED, LayerRepair
from causal_prune.compensation.options import REPAIRS, Repair, RepairMethod
from causal_prune.compensation.reestimation import normalisations, numbered, reestimate
from causal_prune.compensation.walk import walk
from causal_prune.errors import InputError, warn
from causal_prune.machine import allowed_memory
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.comparing import ComparisonError
from causal_prune.network.computed_weights import take_off, without_weight_norm
from causal_prune.network.layer_kinds import MIXING
from causal_prune.network.row_groups import rows_together
from causal_prune.network.running import (
    batch_size,
    copied,
    device_of,
    seeded,
)
from causal_prune.surgery import Cuts, PruningPlan, Stage, cuts_since, inner_of, stages_of, with_inner

STANDARD = Repair()
MADE_AGAIN = 256
"""With fewer images the best way to repair is gone once more, with those that judged it."""


@dataclass(frozen=True)
class Compensated:
    """The result of `repair`.

    Attributes:
        model: The repaired network.
        layers: What became of every convolution and linear layer, in order of execution; empty where least squares
            were not kept.
        verdict: How least squares, batch norm and the network as cut were judged; None where they were not.
    """

    model: nn.Module
    layers: tuple[LayerRepair, ...]
    verdict: Verdict | None = None


@undisturbed
def compensate(
    pruned: nn.Module,
    dense: nn.Module,
    calibration: Iterable[Any],
    *,
    method: RepairMethod = "least_squares",
    seed: int = 0,
    max_memory: int | None = None,
    device: str | torch.device = "cpu",
    label: str = "compensate",
    plan: PruningPlan | None = None,
    views: int = 1,
) -> nn.Module:
    """Repair a cut network without labels, so that its layers compute again what the dense network computed.

    "least_squares" refits the convolutions and linear layers from front to back. With x what a layer of the cut
    network reads (behind all layers that are repaired already), W and b its weight and bias as cut, and y what the
    kept filters of the same layer of the dense network return on the same images, it finds the change (D, c) that
        minimises  E || y - (W + D) x - (b + c) ||^2 + ridge * mean diag Cov(x) * || D ||^2
    so that nothing is changed where nothing was lost (He et al. 2017, section 3.1, regress the same outputs, once per
    layer, on the dense network's inputs). Further points:
    - Where a layer's output is added to another tensor (the last layer of a residual block, through its batch norm),
      y is chosen so that the *sum* is what it was: dense sum minus what the cut network adds, taken back through the
      batch norm's slope. The layer then also makes up for the errors of the shortcut.
    - Where what the layer returns, behind its batch norm and sum, is read by a rectifier alone (ReLU, ReLU6, clamp), up
      to three further rounds fit what gets through it (see `rectified_refit.step`).
    - Where a layer lost inputs that another layer writes for it alone, through a batch norm and a rectifier if there
      are such, both are refitted together: up to three Gauss-Newton steps move the filters that are left to where the
      reader's error is least (see `joint_repair.refit_together`). Their own outputs are then no longer the dense
      network's; what counts, on held-out images too, is what their only reader returns: less error in all, and of no
      filter more than as cut by a thousandth of the filters' mean.
    - Never worse than the cheap methods: each sixth image (256 at most) makes nothing; of fewer than 64, every third in
      turn. On these the mean KL divergence from the dense network's class scores, or the relative squared error of
      other outputs, chooses among re-estimated batch norms, the network as cut, and the refitted one (see `guard`). Of
      fewer than 256 images, those that judged then join the repair. With fewer than 24, which cannot judge, batch norms
      are re-estimated, if there are any.
    - Of the others, each eighth image is held out. It chooses the ridge, and a filter of which no refit has a smaller
      squared error on these images keeps its weights.
    - A layer without bias puts c into the mean of the batch norm behind it. Where there is none, c is 0 and x and y
      are not centred.

    "batchnorm" re-estimates batch-norm statistics (see `reestimate`), the cheap alternative. It
    does not follow least squares: those have put means and scales where they fit best, and moving them again costs
    accuracy.

    Args:
        pruned: The cut network, from `remove`, `zero` or `load`, which record what was cut; not changed.
        dense: The network that it was cut from, or any that this one was cut from before; not changed.
        calibration: Batches, each a tensor or (inputs, labels), inputs a tensor, a tuple or a mapping; labels are
            not used. All images go through both networks side by side, from layer to layer.
        method: "least_squares", "batchnorm", or "none" for a plain copy.
        seed: Of the places at which convolutions with many are sampled.
        max_memory: Bytes that the repair may take; None for half of what is free. Half of it is for the images on their
            way: ten tensors of the widest layer *ahead* for each. Where that is too little for all, some wait, and join
            deeper in the network, where maps are small; a warning says how many took part in front. Where a layer's
            matrices do not fit, channels are mixed alike at all kernel elements, with a warning, too.
        device: Where to compute.
        label: What the progress bar is called.
        plan: What was cut, where `pruned` does not know it.
        views: So many rows of a batch after each other are views of one image; all make a fit or all judge it.

    Returns:
        A copy of `pruned`, on its device and in its modes, with the same names and shapes of parameters.

    Raises:
        InputError: If `method` is unknown, the calibration set is empty, one of the networks does not accept it,
            an image or an activation is NaN or infinite, `max_memory` is not positive, or it is not known what was cut.

    Warns:
        CausalPruneWarning: If there are fewer images than can be held out, a layer has fewer rows of data than
            weights, or "batchnorm" finds no batch norm with running statistics.

    Cost: for least squares about one to two dozen passes of the dense network over the images (`make engine-table` and
        `make bench-compensation` tell for some networks), twice of fewer than 256 images and four times of fewer than
        64 (see the guard). Memory: at its peak a tenth more than `max_memory`, and ten tensors of the widest layer for
        each image of one batch (`tests/property/test_memory.py` measures that). `repair` also returns what became of
        every layer.

    Example:
        >>> import causal_prune as cp
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> images = torch.randn(64, 3, 9, 9, generator=torch.Generator().manual_seed(0))
        >>> graph = cp.trace(net, images[:1])
        >>> small = cp.remove(net, cp.plan(graph, cp.score(graph, cp.observe(net, graph, [images])), keep_macs=0.5))
        >>> better = cp.compensate(small, net, [images])
        >>> bool((better(images) - net(images)).norm() < (small(images) - net(images)).norm())
        True
    """
    if method not in REPAIRS:
        raise InputError(f"compensate: method {method!r} is unknown: use one of {', '.join(REPAIRS)}")
    options = Repair(compensation=method, max_memory=max_memory)
    return repair(
        pruned, dense, calibration, options, seed=seed, device=device, label=label, plan=plan, views=views
    ).model


@undisturbed
def repair(
    pruned: nn.Module,
    dense: nn.Module,
    calibration: Iterable[Any],
    options: Repair = STANDARD,
    *,
    seed: int = 0,
    device: str | torch.device = "cpu",
    label: str = "compensate",
    plan: PruningPlan | None = None,
    views: int = 1,
) -> Compensated:
    """Like `compensate`, and tell what became of every layer.

    Args:
        pruned: The cut network.
        dense: The network that it was cut from.
        calibration: Batches.
        options: The method, and the memory that it may take.
        seed: Of the places at which convolutions with many are sampled.
        device: Where to compute.
        label: What the progress bar is called.
        plan: What was cut, where `pruned` does not know it.
        views: So many rows of a batch after each other are views of one image.

    Returns:
        The repaired network, and one entry per layer where least squares were used.

    Raises:
        InputError: As in `compensate`.
    """
    method = options.compensation
    if method == "none":
        return Compensated(copied(pruned), ())
    wrapped, pruned, dense = pruned, inner_of(pruned), inner_of(dense)
    reference = copied(dense)
    stages = stages_of(pruned) if plan is None else (*plan.earlier, Stage(plan.cuts))
    cuts = _known_cuts(pruned, dense, stages) if stages or method == "least_squares" else Cuts({}, {})
    if method == "batchnorm":
        again = _norms_alone(pruned, reference, calibration, device, label)
        return Compensated(with_inner(copied(wrapped), again), ())
    reference.to(device).eval()
    with seeded(seed, device), torch.no_grad():
        batches = _batches(pruned, calibration, device, views)
    limit = allowed_memory(options.max_memory, torch.device(device))
    squares = partial(
        _least_squares,
        pruned,
        dense,
        cuts,
        seed=seed,
        max_memory=limit,
        device=device,
        label=label,
        views=views,
    )
    if not cuts.layers and not cuts.parameters:  # nothing was lost
        again, layers = squares(batches)
        return Compensated(with_inner(copied(wrapped), again.to(device_of(pruned))), tuple(layers))

    def statistics(inputs: list[Any]) -> nn.Module:
        return reestimate(pruned, reference, [(each,) for each in inputs], device=device, label=label)

    again, layers, verdict = _best(pruned, reference, batches, squares, statistics, device, views)
    again.to(device_of(pruned))
    return Compensated(with_inner(copied(wrapped), again), tuple(layers), verdict)


def _norms_alone(
    pruned: nn.Module, dense: nn.Module, calibration: Iterable[Any], device: str | torch.device, label: str
) -> nn.Module:
    if not normalisations(pruned):
        warn(
            "compensate: the network has no batch norm with running statistics, so that "
            "method='batchnorm' changes nothing"
        )
    return reestimate(pruned, dense, calibration, device=device, label=label)


def _batches(
    pruned: nn.Module, calibration: Iterable[Any], device: str | torch.device, views: int
) -> list[Any]:
    batches: list[Any] = [inputs for _, inputs in numbered(pruned, calibration, device)]
    if not batches:
        raise InputError("compensate: calibration has no batch: give at least 2 images")
    parted = next((batch_size(batch) for batch in batches if batch_size(batch) % views), None)
    if parted is not None:
        raise InputError(f"compensate: {parted} rows of a batch are no whole images of {views} views")
    return batches


Fitted: TypeAlias = tuple[nn.Module, list[LayerRepair]]


def _best(
    pruned: nn.Module,
    dense: nn.Module,
    batches: list[Any],
    squares: Callable[[list[Any]], Fitted],
    statistics: Callable[[list[Any]], nn.Module],
    device: str | torch.device,
    views: int,
) -> tuple[nn.Module, list[LayerRepair], Verdict | None]:
    """The network as cut, with its statistics re-estimated or refitted: what is nearest to the dense one."""
    with torch.no_grad(), seeded(0, device):
        parts = splits(batches, rows_together(dense, batches[0], views))
    images = sum(batch_size(batch) for batch in batches) // views
    norms = bool(normalisations(pruned))
    if not parts or (norms and images < TRUSTED):
        instead = "batch norms are re-estimated instead" if norms else "the network is left as it was cut"
        again = statistics(batches) if norms else copied(pruned)
        some = f"{images} image{'s' if images > 1 else ''}"
        warn(f"compensate: {some} cannot judge a fit: {instead}; give at least {TRUSTED}")
        return again, [], None
    few = images < MADE_AGAIN
    found: dict[str, list[Tensor]] = {}
    for making, judging in parts:
        # of few images all is done once more at the end, and told then
        with warnings.catch_warnings(action="ignore") if few else nullcontext():
            fitted, layers = squares(making)
            candidates = {"batch norm": statistics(making)} if norms else {}
        candidates |= {"least squares": fitted, "as cut": pruned}
        with torch.no_grad():
            try:
                measure, values = divergences(dense, candidates, judging, device)
            except ComparisonError:
                # the number of outputs depends on the images: the layers themselves are judged
                return *squares(batches), None
        for name, each in values.items():
            found.setdefault(name, []).append(each)
    verdict = decide(measure, {name: torch.cat(each) for name, each in found.items()})
    if verdict.best == "least squares":
        # of few images each counts: the way that was judged best is gone once more, with those that judged
        fitted, layers = squares(batches) if few else (fitted, layers)
        return fitted, layers, verdict
    if verdict.best == "batch norm":
        return statistics(batches), [], verdict
    return copied(pruned), [], verdict


def _least_squares(
    pruned: nn.Module,
    dense: nn.Module,
    cuts: Cuts,
    batches: list[Any],
    *,
    seed: int,
    max_memory: int,
    device: str | torch.device,
    label: str,
    views: int = 1,
) -> Fitted:
    repaired, reference = copied(pruned).to(device).eval(), copied(dense).to(device).eval()
    for module in list(reference.modules()):
        if isinstance(module, MIXING):
            take_off(module)
    with seeded(seed, device), torch.no_grad(), without_weight_norm(repaired):
        layers = walk(
            repaired,
            reference,
            cuts,
            batches,
            seed=seed,
            max_memory=max_memory,
            label=label,
            views=views,
        )
    for copy, original in zip(repaired.modules(), pruned.modules(), strict=True):
        copy.training = original.training
    remarks = [f"{layer.layer}: {layer.remark}" for layer in layers if layer.remark]
    left = [layer.layer for layer in layers if layer.reason == COMPUTED]
    remarks += [f"{', '.join(left)}: left as cut, as {COMPUTED}"] if left else []
    if remarks:
        more = f" (and {len(remarks) - 1} further layers)" if len(remarks) > 1 else ""
        warn(f"compensate: {remarks[0]}{more}")
    return repaired, layers


def _known_cuts(pruned: nn.Module, dense: nn.Module, stages: Sequence[Stage]) -> Cuts:
    if stages:
        return cuts_since(pruned, dense, stages)
    theirs = {name: tensor.shape for name, tensor in dense.state_dict().items()}
    for name, tensor in pruned.state_dict().items():
        if theirs.get(name) != tensor.shape:
            raise InputError(
                f"compensate: {name} was cut and it is not known how: give a network from "
                "remove, zero, load or cut_by_torch_pruning, or its plan (plan=)"
            )
    return Cuts({}, {})
