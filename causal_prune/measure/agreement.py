"""How far two ways of scoring units agree: Spearman's rank correlation per group, against ablation and over data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from causal_prune.errors import InputError
from causal_prune.importance import FilterScores
from causal_prune.importance.ablation import Ablation

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
