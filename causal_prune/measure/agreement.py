"""How far two ways of scoring units agree: Spearman's rank correlation per group."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor

from causal_prune.errors import InputError

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
