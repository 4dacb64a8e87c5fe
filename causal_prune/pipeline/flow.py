"""The whole flow: a trained network and its data in, a smaller network and its report out."""

import tempfile
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from causal_prune.comparison import Mode, Recipe, curve_by_share, export_arms, judge, rivals_of, run_arms
from causal_prune.compensation import Method
from causal_prune.data import Data, held_out, loader
from causal_prune.errors import CausalPruneError
from causal_prune.importance import Parents, score
from causal_prune.machine import alignment
from causal_prune.network.running import Inputs, copied
from causal_prune.observation import observe
from causal_prune.pipeline.findings import assemble, write_bundle
from causal_prune.pipeline.notes import _notes, _repairs
from causal_prune.planning import checked_target, plan, plan_latency
from causal_prune.progress import status
from causal_prune.report import Report, staged
from causal_prune.surgery import PruningPlan
from causal_prune.tracing import FilterGraph, difference, trace

COMPENSATIONS: dict[Method, str] = {
    "least_squares": "least squares",
    "batchnorm": "batch-norm re-estimation",
    "none": "none",
}


@dataclass(frozen=True)
class Compressed:
    """The result of `compress`.

    Attributes:
        model: The smaller network (with mode "zero": the zeroed one), in eval mode on the CPU.
        plan: The units that stayed.
        report: What was asked, achieved and measured; `report.json` is this.
        bundle: The folder that was written, or None.
    """

    model: nn.Module
    plan: PruningPlan
    report: Report
    bundle: Path | None


def compress(
    model: nn.Module,
    data: Data,
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    keep_latency: float | None = None,
    remove_filters: float | None = None,
    importance: str = "structural",
    parents: Parents | None = None,
    mode: Mode = "remove",
    align: int | Literal["auto"] = "auto",
    freeze: Sequence[str] = (),
    compensation: Method = "least_squares",
    max_memory: int | None = None,
    epochs: int = 0,
    lr: float = 0.01,
    distill: bool = True,
    arms: Sequence[str] = ("causal", "random", "magnitude"),
    random_seeds: int = 5,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    out: Path | None = None,
    force: bool = False,
    title: str | None = None,
    command: str = "causal_prune.compress(...)",
) -> Compressed:
    """Make a trained network smaller, and compare it with the same network pruned at random.

    Args:
        model: The trained network; it is not changed.
        data: Its images.
        keep_macs: Target: share of the multiply-accumulates that stays, in (0, 1); 0.5 where no target is given.
        keep_params: Target: share of the parameters that stays.
        keep_latency: Target: share of the median ONNX Runtime latency that stays, measured on this machine.
        remove_filters: Target: share of the units that can be cut that goes; with "structural" each group gives up
            what its curve allows, with other importances all the same share.
        importance: A name in `importance.METHODS`.
        parents: For "documented" (see `score`).
        mode: "remove" makes the network physically smaller, "zero" sets filters to 0 as the documented method does.
        align: Widths are multiples of this where a layer is wide enough; "auto" reads the machine.
        freeze: Names of layers or modules that must not be cut.
        compensation: How the cut network is repaired without labels (see `compensate`).
        max_memory: Bytes that statistics and the repair may take; None for half of what is free. Where it is short,
            patches are reduced to channels and fewer images are used, with a warning.
        epochs: Epochs of fine-tuning, at least 0.
        lr: Highest learning rate of the fine-tuning, > 0.
        distill: Whether the dense network teaches.
        arms: "causal" and any of "random" and "magnitude".
        random_seeds: Number of random arms, at least 1.
        seed: Of all that is random.
        threads: Of ONNX Runtime when timed.
        device: Where torch computes.
        out: Folder of the bundle; None writes none.
        force: Whether a folder that is no bundle may be replaced.
        title: Name of the network in the report; None takes its class.
        command: How the run was started, for the report.

    Returns:
        The network, its plan and its report.

    Raises:
        InputError: If an argument, the model or the data cannot be used.
        TargetError: If the target is out of reach, or nothing can be pruned.
        ParityError: If the exported network computes something else.

    Example:
        ``result = cp.compress(model, data, keep_macs=0.5)``
    """
    checked_target(
        {
            "keep_macs": keep_macs,
            "keep_params": keep_params,
            "keep_latency": keep_latency,
            "remove_filters": remove_filters,
        }
    )
    dense = copied(model).to(device).eval()
    recipe = Recipe(
        dense,
        data.train,
        data.calibration,
        data.test,
        _example(data, device),
        compensation,
        epochs,
        lr,
        distill,
        seed,
        device,
        max_memory,
    )
    with _workplace(out, force) as folder:
        with status("trace"):
            graph = trace(dense, recipe.example, freeze=freeze)
        moments = observe(dense, graph, loader(data.calibration), max_memory=max_memory)
        rescore = partial(
            score,
            graph,
            method=importance,
            parents=parents,
            seed=seed,
            model=dense,
            labelled=held_out(data.validation),
        )
        scores = rescore(moments)
        with status("score"):
            rivals = rivals_of(graph, moments, arms, random_seeds, seed)
        block = alignment(align)
        if keep_latency is None:
            shares = {"keep_macs": keep_macs, "keep_params": keep_params, "remove_filters": remove_filters}
            planned = plan(graph, scores, align=block, **shares)
        else:
            planned = plan_latency(
                dense, graph, scores, recipe.example, keep_latency=keep_latency, align=block, threads=threads
            )
        _prove(dense, graph, planned, recipe.example)
        results = run_arms(recipe, graph, planned, importance, rivals, mode)
        exports = export_arms(
            results, recipe, folder, threads=threads, metadata={"causal_prune.command": command}
        )
        report = assemble(
            results,
            exports,
            graph,
            planned,
            scores,
            curve=curve_by_share(recipe, data.validation, graph, scores, rivals, mode),
            agreement=judge(recipe, graph, scores, rescore, data.validation),
            asked={
                "command": command,
                "title": title or type(model).__name__,
                "seed": seed,
                "mode": mode,
                "importance": importance,
                "parents": parents or "graph",
                "epochs": epochs,
                "compensation": COMPENSATIONS[compensation],
            },
            read={"split": data.split, "data": data.name, "classes": len(data.classes)},
            notes=(
                *_notes(graph, data, block, importance, parents),
                *moments.notes,
                *_repairs(results[1]),
            ),
            threads=threads,
        )
        smaller = results[1].model.cpu().eval()
        write_bundle(folder, smaller, planned, report, results, exports)
    return Compressed(smaller, planned, report, out)


def _prove(dense: nn.Module, graph: FilterGraph, planned: PruningPlan, example: Inputs) -> None:
    """The check of every group, once more, on the whole cut."""
    wrong = difference(dense, planned.cuts, [example], as_in_training=graph.trains_more)
    if wrong is not None:
        raise CausalPruneError(
            f"the whole cut is wrong although each group's was right ({wrong}); nothing was written"
        )


@contextmanager
def _workplace(out: Path | None, force: bool) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        with staged(out, force=force) as place:
            yield place


def _example(data: Data, device: str) -> Tensor:
    """Two calibration images: some networks keep the batch dynamic in ONNX only for more than one."""
    images = [data.calibration[k % len(cast(Sized, data.calibration))][0] for k in range(2)]
    return torch.stack(images).to(device)
