"""The steps of a run up to the cut: what can go, what it is worth, what goes, and the proof that it may."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from causal_prune.comparison import Chosen, Found, Recipe, smallest_within
from causal_prune.compensation import Repair
from causal_prune.data import Data, held_out, loader, views_unasked, with_pairs
from causal_prune.errors import CausalPruneError, TargetError, warn
from causal_prune.fine_tuning import Tuning
from causal_prune.importance import FilterScores, score
from causal_prune.machine import alignment
from causal_prune.network.running import copied
from causal_prune.observation import FilterMoments, observe
from causal_prune.onnx_files import OnnxForm, check_form
from causal_prune.pipeline.forecast import OBSERVE, PLAN, SCORE, TRACE
from causal_prune.pipeline.options import Options
from causal_prune.pipeline.sanity import doubts
from causal_prune.planning import check_prunable, given_plan, plan, plan_latency
from causal_prune.progress import status, step
from causal_prune.report import staged
from causal_prune.surgery import PruningPlan
from causal_prune.tracing import FilterGraph, difference, trace


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


@dataclass(frozen=True)
class Studied:
    """What is known of a network before anything is chosen.

    Attributes:
        graph: What can be cut together.
        moments: Statistics of the activity.
        scores: How much every unit matters.
        rescore: The same scores from other moments.
        doubts: What was warned of the network before all that.
        given: The plan of a file; None where none is named.
    """

    graph: FilterGraph
    moments: FilterMoments
    scores: FilterScores
    rescore: Callable[[FilterMoments], FilterScores]
    doubts: tuple[str, ...]
    given: PruningPlan | None

    def plan_for(self, share: float, options: Options) -> PruningPlan:
        """The plan that keeps a share of the multiply-accumulates.

        Args:
            share: In (0, 1).
            options: Of the run, for the alignment.

        Returns:
            The plan.

        Raises:
            TargetError: If no network keeps so little.
        """
        return plan(self.graph, self.scores, keep_macs=share, align=alignment(options.align))


def study(recipe: Recipe, options: Options) -> Studied:
    """Look at the network, trace, observe and score.

    Args:
        recipe: The network and its images.
        options: Of the run.

    Returns:
        What a choice rests on.

    Raises:
        InputError: If an option or the data cannot be used.
        TargetError: If nothing can be pruned.
    """
    dense, data = recipe.dense, recipe.data
    doubted = doubts(recipe)
    with step(TRACE), status("trace"):
        graph = trace(dense, recipe.example, freeze=options.freeze, dependencies=options.dependencies)
        check_prunable(graph)
        given = None if options.plan is None else given_plan(graph, options.plan)
    with step(OBSERVE):
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
    with step(SCORE):
        scores = rescore(moments)
    return Studied(graph, moments, scores, rescore, doubted, given)


def choose(recipe: Recipe, options: Options) -> Chosen:
    """Study the network and plan: all that is done before a cut, and all of a dry run.

    Args:
        recipe: The network and its images.
        options: Of the run.

    Returns:
        The units that go, and what the choice rests on.

    Raises:
        InputError: If an option or the data cannot be used.
        TargetError: If the target is out of reach, or nothing can be pruned.
    """
    known, found = study(recipe, options), None
    with step(PLAN):
        if known.given is None and options.max_drop is not None:
            found = _searched(recipe, known, options)
        planned = found.plan if found else known.given or _planned(recipe, known, options)
    return Chosen(
        known.graph,
        known.moments,
        known.scores,
        planned,
        known.rescore,
        known.doubts,
        found.made if found else None,
        found.search if found else None,
    )


def _planned(recipe: Recipe, known: Studied, options: Options) -> PruningPlan:
    kind, share = options.asked
    if kind == "remove_silent":
        return plan(known.graph, known.scores, remove_silent=True)
    if kind == "keep_latency":
        return _fast(recipe, known, options)
    shares: dict[str, Any] = {kind: share}
    return plan(known.graph, known.scores, align=alignment(options.align), **shares)


def _fast(recipe: Recipe, known: Studied, options: Options) -> PruningPlan:
    assert options.keep_latency is not None
    return plan_latency(
        recipe.dense,
        known.graph,
        known.scores,
        recipe.example,
        keep_latency=options.keep_latency,
        align=alignment(options.align),
        threads=options.threads,
        form=recipe.form,
    )


def _searched(recipe: Recipe, known: Studied, options: Options) -> Found:
    """The smallest network within the loss that was allowed, or the largest that is fast enough."""
    fast = None
    if options.keep_latency is not None:
        try:
            fast = _fast(recipe, known, options)
        except TargetError as error:  # the loss may end the search before that
            warn(f"{error}; the smallest network within max_drop is looked for")
    return smallest_within(recipe, options, lambda share: known.plan_for(share, options), fast)


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
def workplace(options: Options, *, again: bool = False) -> Iterator[Path]:
    """A folder for the bundle, moved into its place at the end of the block; a passing one where none is asked for.

    Args:
        options: Of the run.
        again: Whether this run has written the bundle already; its network is then in the folder.

    Yields:
        The folder, empty but for that.
    """
    if options.out is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    else:
        with staged(options.out, force=options.force) as place:
            if again:
                shutil.copy2(options.out / "model.onnx", place / "model.onnx")
            yield place


def _example(data: Data, device: str) -> Tensor:
    """Two calibration images: some networks keep the batch dynamic in ONNX only for more than one."""
    images = [data.calibration[k % data.split["calibration"]][0] for k in range(2)]
    return torch.stack(images).to(device)
