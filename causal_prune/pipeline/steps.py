"""The steps of a run up to the cut: what can go, what it is worth, what goes, and the proof that it may."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from causal_prune.comparison import Recipe
from causal_prune.compensation import Repair
from causal_prune.data import Data, held_out, loader, views_unasked, with_pairs
from causal_prune.errors import CausalPruneError
from causal_prune.fine_tuning import Tuning
from causal_prune.importance import FilterScores, score
from causal_prune.machine import alignment
from causal_prune.network.running import copied
from causal_prune.observation import FilterMoments, observe
from causal_prune.onnx_files import OnnxForm, check_form
from causal_prune.pipeline.options import Options
from causal_prune.pipeline.sanity import doubts
from causal_prune.planning import plan, plan_latency
from causal_prune.progress import status
from causal_prune.report import staged
from causal_prune.surgery import PruningPlan
from causal_prune.tracing import FilterGraph, difference, trace


@dataclass(frozen=True)
class Chosen:
    """What is known of a network, and the units that go.

    Attributes:
        graph: What can be cut together.
        moments: Statistics of the activity.
        scores: How much every unit matters.
        plan: The units that stay, and the cuts that follow.
        rescore: The same scores from other moments.
        doubts: What was warned of the network before all that.
    """

    graph: FilterGraph
    moments: FilterMoments
    scores: FilterScores
    plan: PruningPlan
    rescore: Callable[[FilterMoments], FilterScores]
    doubts: tuple[str, ...] = ()


def recipe_of(model: nn.Module, data: Data, options: Options) -> Recipe:
    """What all arms share.

    Args:
        model: The trained network; a copy is taken.
        data: Its images.
        options: Of the run.

    Returns:
        The recipe, with the network in eval mode on its device.

    Raises:
        InputError: If the network cannot become an ONNX file of the form that is asked for.
    """
    data = with_pairs(data)
    dense, example = copied(model).to(options.device).eval(), _example(data, options.device)
    form = options.part(OnnxForm)
    check_form(dense, example, dynamic_size=form.dynamic_size, opset=form.opset)
    return Recipe(
        dense=dense,
        data=data,
        example=example,
        form=form,
        views=options.views or views_unasked(data.split["calibration"], harmless=data.harmless_views),
        repair=options.part(Repair),
        tuning=options.part(Tuning),
        mode=options.mode,
        seed=options.seed,
        device=options.device,
    )


def choose(recipe: Recipe, options: Options) -> Chosen:
    """Look at the network, trace, observe, score and plan: all that is done before a cut, and all of a dry run.

    Args:
        recipe: The network and its images.
        options: Of the run.

    Returns:
        The units that go, and what the choice rests on.

    Raises:
        InputError: If an option or the data cannot be used.
        TargetError: If the target is out of reach, or nothing can be pruned.
    """
    dense, data = recipe.dense, recipe.data
    doubted = doubts(recipe)
    with status("trace"):
        graph = trace(dense, recipe.example, freeze=options.freeze, dependencies=options.dependencies)
    moments = observe(dense, graph, loader(data.calibration), max_memory=options.max_memory)
    rescore = partial(
        score,
        graph,
        method=options.importance,
        parents=options.parents,
        seed=options.seed,
        model=dense,
        labelled=held_out(data.validation),
        task=data.task,
    )
    scores = rescore(moments)
    return Chosen(graph, moments, scores, _planned(recipe, graph, scores, options), rescore, doubted)


def _planned(recipe: Recipe, graph: FilterGraph, scores: FilterScores, options: Options) -> PruningPlan:
    block = alignment(options.align)
    kind, share = options.asked
    if kind == "remove_silent":
        return plan(graph, scores, remove_silent=True)
    if kind != "keep_latency":
        shares: dict[str, Any] = {kind: share}
        return plan(graph, scores, align=block, **shares)
    threads = options.threads
    return plan_latency(
        recipe.dense,
        graph,
        scores,
        recipe.example,
        keep_latency=share,
        align=block,
        threads=threads,
        form=recipe.form,
    )


def prove(recipe: Recipe, chosen: Chosen) -> None:
    """The check of every group, once more, on the whole cut.

    Args:
        recipe: The network.
        chosen: What goes.

    Raises:
        CausalPruneError: If the cut network does not compute what the silenced one computes.
    """
    graph = chosen.graph
    cuts, silent = chosen.plan.cuts, chosen.plan.target.kind == "remove_silent"
    examples = [recipe.example]
    wrong = difference(
        recipe.dense,
        cuts,
        examples,
        as_in_training=graph.trains_more,
        from_dense=silent,
        held=graph.statistics,
    )
    if wrong is not None:
        raise CausalPruneError(
            f"the whole cut is wrong although each group's was right ({wrong}); nothing was written"
        )


@contextmanager
def workplace(options: Options) -> Iterator[Path]:
    """A folder for the bundle, moved into its place at the end of the block; a passing one where none is asked for.

    Args:
        options: Of the run.

    Yields:
        The folder, empty.
    """
    if options.out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        with staged(options.out, force=options.force) as place:
            yield place


def _example(data: Data, device: str) -> Tensor:
    """Two calibration images: some networks keep the batch dynamic in ONNX only for more than one."""
    images = [data.calibration[k % data.split["calibration"]][0] for k in range(2)]
    return torch.stack(images).to(device)
