"""How far two ways of scoring units agree: Spearman's rank correlation per group, against ablation and over data."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor
from torch.utils.data import Subset

from causal_prune.comparison.arms import Recipe
from causal_prune.data import held_out, loader
from causal_prune.errors import CausalPruneWarning, InputError
from causal_prune.importance import WITH_LABELS, Ablation, FilterScores, ablate, joined
from causal_prune.observation import FilterMoments, observe
from causal_prune.report import AgreementSummary
from causal_prune.tracing import FilterGraph

Scores: TypeAlias = Tensor | Sequence[float] | npt.NDArray[np.floating]


def spearman_by_group(
    scores_a: Mapping[str, Scores], scores_b: Mapping[str, Scores]
) -> dict[str, float | None]:
    """Spearman's rank correlation of two scorings, group by group.

    rho = Pearson's correlation of the ranks; equal scores share the mean of their ranks (Spearman 1904). It does
    not depend on either scoring's unit of measure.

    Args:
        scores_a: One score per unit, by group.
        scores_b: The same groups and units, scored in another way.

    Returns:
        rho per group, -1 (reversed) to 1 (same order); 0 means no monotone relation. None where it is undefined:
        fewer than two units, or all scores of one side equal.

    Raises:
        InputError: If groups or numbers of units differ, or a score is not finite.

    Example:
        >>> rho = spearman_by_group({"conv1": [1.0, 2.0, 3.0]}, {"conv1": [10.0, 30.0, 20.0]})
        >>> round(rho["conv1"], 3)
        0.5
    """
    if scores_a.keys() != scores_b.keys():
        unmatched = min(scores_a.keys() ^ scores_b.keys())
        raise InputError(
            f"group '{unmatched}' is in one of scores_a and scores_b only: score the same groups"
        )
    return {group: _spearman(group, scores_a[group], scores_b[group]) for group in scores_a}


def _spearman(group: str, scores_a: Scores, scores_b: Scores) -> float | None:
    a, b = (torch.as_tensor(scores).detach().cpu().double().numpy() for scores in (scores_a, scores_b))
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"group '{group}' has shape {a.shape} in scores_a and {b.shape} in scores_b")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError(f"group '{group}' has a score that is not finite")
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(stats.spearmanr(a, b).statistic)


def median_agreement(by_group: Mapping[str, float | None]) -> float | None:
    """The median correlation over groups.

    Args:
        by_group: What `spearman_by_group` returned.

    Returns:
        The median of the defined correlations, -1 to 1; None where none is defined.

    Example:
        >>> median_agreement({"conv1": 0.5, "conv2": None, "conv3": 1.0})
        0.75
    """
    defined = [rho for rho in by_group.values() if rho is not None]
    return float(np.median(defined)) if defined else None


@dataclass(frozen=True)
class Agreement:
    """How far a method ranks the units as ablation does.

    Attributes:
        method: Name of the method.
        spearman_by_group: Rank correlation with ablation by group (see `spearman_by_group`).
        median: Over the groups; None where none is defined.
        images: That ablation was measured on.
        units: That were ablated.
    """

    method: str
    spearman_by_group: Mapping[str, float | None]
    median: float | None
    images: int
    units: int


def agreement(scores: FilterScores, judge: Ablation) -> Agreement:
    """Compare a method with ablation, group by group, over the units that were ablated.

    Args:
        scores: Of the method.
        judge: From `ablate`, of the same graph. Its rises are compared as they are, negative ones too.

    Returns:
        The correlations and their median.

    Raises:
        InputError: If a group that was ablated has no scores.
    """
    chosen = {name: list(units) for name, units in judge.units.items() if units}
    absent = [name for name in chosen if name not in scores.groups]
    if absent:
        raise InputError(f"group '{absent[0]}' was ablated but has no scores: score the same graph")
    rho = spearman_by_group(
        {name: scores.groups[name][units] for name, units in chosen.items()},
        {name: judge.rise[name] for name in chosen},
    )
    return Agreement(
        scores.method, rho, median_agreement(rho), judge.images, sum(len(units) for units in chosen.values())
    )


def spread_units(sizes: Mapping[str, int], most: int, *, seed: int = 0) -> dict[str, list[int]]:
    """Draw some units of every group, for an ablation that may not take long.

    Args:
        sizes: Units by group.
        most: How many are drawn from a group at most, at least 1.
        seed: Of the draw.

    Returns:
        Ascending units by group; all of them where a group has no more than `most`.

    Example:
        >>> spread_units({"conv1": 3}, 16)
        {'conv1': [0, 1, 2]}
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randperm(size, generator=generator)[:most] for name, size in sizes.items()}
    return {name: sorted(units.tolist()) for name, units in drawn.items()}


@dataclass(frozen=True)
class Sample:
    """How much is judged.

    Attributes:
        units: Of every group at most.
        interventions: Units times images, about.
        most_images: Validation images at most.
        halves: Whether importances are also made from two halves of the calibration images.
    """

    units: int
    interventions: int
    most_images: int = 1000
    halves: bool = True


THOROUGH = Sample(16, 100_000)
QUICK = Sample(8, 10_000)
LEAST_IMAGES = 64


def judge(
    recipe: Recipe,
    graph: FilterGraph,
    scores: FilterScores,
    rescore: Callable[[FilterMoments], FilterScores],
    sample: Sample = THOROUGH,
) -> AgreementSummary | None:
    """How far the importances rank the units as ablation does, on a sample that costs little beside a run.

    Up to so many units of every group are ablated, on as many validation images as make the number of interventions,
    but at least 64. Two halves of the images are ablated on their own: how far they agree says how much of it is noise.

    Args:
        recipe: The network before, validation images to ablate on, and calibration images, from two halves of which
            the importances are compared.
        graph: From `trace`.
        scores: The causal arm's.
        rescore: The same scores from other moments.
        sample: How much is judged.

    Returns:
        The agreement; None where ablation itself made the scores, or nothing can be cut.
    """
    units = spread_units({group.name: group.size for group in graph.prunable}, sample.units)
    count = sum(map(len, units.values()))
    if scores.method == "ablation" or not count:
        return None
    validation, task = recipe.data.validation, recipe.data.task
    images = min(sample.most_images, max(LEAST_IMAGES, sample.interventions // count))
    halves = [
        ablate(recipe.dense, graph, held_out(Subset(validation, part), images // 2), task=task, units=units)
        for start in (0, 1)
        if (part := range(start, recipe.data.split["validation"], 2))
    ]
    found = agreement(scores, halves[0] if len(halves) == 1 else joined(*halves))
    reliability = None
    if len(halves) == 2:
        reliability = median_agreement(spearman_by_group(halves[0].rise, halves[1].rise))
    stable = None
    if sample.halves and scores.method not in WITH_LABELS and recipe.data.split["calibration"] >= 4:
        stable = _stability(recipe, graph, rescore)
    return AgreementSummary(
        method=scores.method,
        versus="ablation",
        spearman_by_group=dict(found.spearman_by_group),
        median=found.median,
        images=found.images,
        units=found.units,
        stability=stable,
        reliability=reliability,
    )


def _stability(
    recipe: Recipe, graph: FilterGraph, rescore: Callable[[FilterMoments], FilterScores]
) -> float | None:
    size = recipe.data.split["calibration"]
    halves = (Subset(recipe.data.calibration, range(start, size, 2)) for start in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CausalPruneWarning)  # that images are few was said of the whole
        first, second = (
            rescore(observe(recipe.dense, graph, loader(half), max_memory=recipe.repair.max_memory))
            for half in halves
        )
    return median_agreement(spearman_by_group(first.groups, second.groups))
