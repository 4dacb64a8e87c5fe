"""How much worse one network is than another on the same images, at most."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from causal_prune.errors import InputError


def largest_loss(
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    *,
    confidence: float = 0.95,
    lower_is_better: bool = False,
) -> tuple[float, float]:
    """What a network loses against another on the same images, and what it loses at most.

    Of truth values, with b images that only the first has right, c that only the second has, and n in all: the loss is
    (b - c) / n, and the bound the largest D that the score test does not reject (Tango 1998, equation 3):
    (b - c - n D) / sqrt(n (2 q + D (1 - D))) = -z, where q is the likeliest share of images that only the second has
    right if the loss is D, and z the normal quantile of `confidence`. Of numbers: the mean difference, and Student's
    one-sided bound of it.

    Args:
        before: What every image counts for the first network, shape (images,): truth values or numbers.
        after: The same for the second, same images in the same order.
        confidence: One-sided, at least 0.5 and below 1.
        lower_is_better: Whether small numbers are good; truth values are good where they are true.

    Returns:
        The loss and its upper bound, in the unit of the values; the loss is below 0 where the second is better. The
        bound of truth values is above 0 also where the two networks never differ.

    Raises:
        InputError: If the two are no equally long lists of one kind, hold fewer than two images, or the confidence is
            out of range.

    Example:
        >>> right, wrong = np.array([True] * 98 + [False] * 2), np.array([True] * 97 + [False] * 3)
        >>> loss, at_most = largest_loss(right, wrong)
        >>> round(loss, 3), round(at_most, 3)
        (0.01, 0.044)
    """
    if not 0.5 <= confidence < 1:
        raise InputError(f"confidence: {confidence} is not at least 0.5 and below 1")
    if before.ndim != 1 or before.shape != after.shape or before.dtype != after.dtype or len(before) < 2:
        raise InputError(
            f"before {before.dtype}{before.shape} and after {after.dtype}{after.shape} must be what the same images "
            "count, two or more of them"
        )
    count = len(before)
    if before.dtype == np.bool_:
        lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
        return (lost - gained) / count, _score_bound(lost, gained, count, float(stats.norm.ppf(confidence)))
    losses = (after - before if lower_is_better else before - after).astype(np.float64)
    mean, error = float(losses.mean()), float(losses.std(ddof=1)) / math.sqrt(count)
    return mean, mean + float(stats.t.ppf(confidence, count - 1)) * error


def _score_bound(lost: int, gained: int, count: int, z: float) -> float:
    def excess(loss: float) -> float:
        linear = (2 * count - lost + gained) * loss - lost - gained
        root = math.sqrt(max(linear**2 + 8 * count * gained * loss * (1 - loss), 0.0))
        variance = count * ((root - linear) / (2 * count) + loss * (1 - loss))
        return lost - gained - count * loss + z * math.sqrt(max(variance, 0.0))

    found = (lost - gained) / count
    above = found + 1e-12  # where the networks never differ, the variance is 0 at the loss itself
    if above >= 1 or excess(above) <= 0:
        return found
    return float(optimize.brentq(excess, above, 1.0)) if excess(1.0) < 0 else 1.0
