"""Statistics of what was measured: intervals, exact tests on the same images, differences over seeds and images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from causal_prune.errors import InputError


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences, and how sure it is.

    Attributes:
        mean: Mean difference; positive where the first of the pair is better.
        sd: Standard deviation (n - 1); None for a single pair.
        ci95: Student t interval of the mean at 95 % confidence; None for a single pair.
        wins: Number of differences above 0; a tie is no win.
        of: Number of pairs.
    """

    mean: float
    sd: float | None
    ci95: tuple[float, float] | None
    wins: int
    of: int


@dataclass(frozen=True)
class TwoWayDifference:
    """The mean difference between one network and others of several seeds, and how sure it is.

    Attributes:
        mean: Mean difference over seeds and images; positive where the first network has more.
        ci95: Interval of it at 95 % confidence, over images and seeds; None for a single seed.
        wins: Number of seeds of which the first network has more; a tie is no win.
        of: Number of seeds.
        images: Number of images.
    """

    mean: float
    ci95: tuple[float, float] | None
    wins: int
    of: int
    images: int


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion.

    With p = correct / total, n = total and z the normal quantile of (1 + confidence) / 2:
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). Source: Wilson (1927).

    Args:
        correct: Number of successes, 0 to `total`.
        total: Number of trials, at least 1.
        confidence: Coverage, between 0 and 1.

    Returns:
        Lower and upper end, 0 to 1.

    Raises:
        InputError: If the counts or the confidence are out of range.

    Example:
        >>> low, high = wilson_interval(98, 100)
        >>> round(low, 4), round(high, 4)
        (0.93, 0.9945)
    """
    if total < 1 or not 0 <= correct <= total:
        raise InputError(
            f"correct={correct} of total={total}: total must be at least 1 and correct within it"
        )
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence} must lie between 0 and 1")
    interval = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(hits_a: npt.ArrayLike, hits_b: npt.ArrayLike) -> float:
    """Exact two-sided McNemar test of two networks on the same images.

    Of the n images that exactly one of the two gets right, b are a's. If the networks are equally good, b is
    binomial(n, 1/2); p is the probability of a split at least as uneven. Source: McNemar (1947), exact form.

    Args:
        hits_a: Whether a was right, per image, shape (images,).
        hits_b: The same for b, same images in the same order.

    Returns:
        p, 0 to 1; 1.0 where the networks never differ. Small p: unequal accuracy, whichever is better.

    Raises:
        InputError: If the two are no equally long lists of truth values.

    Example:
        >>> mcnemar_exact([True] * 5 + [False], [False] * 5 + [False])
        0.0625
    """
    a, b = np.asarray(hits_a), np.asarray(hits_b)
    if a.ndim != 1 or a.shape != b.shape or a.dtype != np.bool_ or b.dtype != np.bool_:
        raise InputError(
            f"hits_a {a.dtype}{a.shape} and hits_b {b.dtype}{b.shape} must be truth values of the same images"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Mean of paired differences (one per seed) with a Student t interval.

    With n differences of mean m and standard deviation s (n - 1): m +- t(0.975; n - 1) s / sqrt(n).

    Args:
        differences: One difference per pair, in any unit, finite; positive where the first is better.

    Returns:
        The mean, its spread and its interval; equal differences give an interval of width 0.

    Raises:
        InputError: If there is no difference, or one is not finite.

    Example:
        >>> paired_difference([0.01, 0.03]).wins
        2
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise InputError(f"differences={list(differences)} must be one or more finite numbers")
    count, mean, wins = int(values.size), float(values.mean()), int((values > 0).sum())
    if count == 1:
        return PairedDifference(mean, None, None, wins, count)
    sd = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * sd / math.sqrt(count)
    return PairedDifference(mean, sd, (mean - half, mean + half), wins, count)


def two_way_difference(first: npt.ArrayLike, others: npt.ArrayLike) -> TwoWayDifference:
    """One network against others that differ by their seed, all on the same images: both are samples.

    By variance components of the crossed design seeds x images. With N images and S seeds, d[s, i] the first network's
    merit of image i less that of seed s, d[i] its mean over the seeds, a[s] the mean merit of seed s, and s_a the
    standard deviation (S - 1) of these, the mean difference D has an interval of D +- the larger of

    - t(0.975; N + 1) sqrt(v / N + s_a^2 / S): what other images, and other seeds of the others, would change; v is the
      variance of the d[i] and of two imagined images more, one wholly for either side;
    - t(0.975; S - 1) s_a sqrt(1 + 1 / S): how far the first network would lie off if it were one more draw of them.

    The second is the interval of prediction: a network that is no better than another draw stands outside it once in 20
    times, however much the draws differ. Few seeds know that spread badly: t is 12.7 for two of them, 2.8 for five. It
    alone would be of width 0 where seeds happen to be equal; the first keeps the width that the images give, which
    is the least that a variance of seeds can be (no component is negative). The two imagined images say what a handful
    of images that agree is worth: if no others differ, 6 on one side are needed, as for McNemar's exact test.

    Args:
        first: What every image counts for the first network: truth values or finite numbers, shape (images,).
        others: The same of the others, shape (seeds, images), same images in the same order.

    Returns:
        The mean difference and its interval; 0 inside means that nothing is known of the sign.

    Raises:
        InputError: If the two are not of one kind and of the same images, or a number is not finite.

    Example:
        >>> found = two_way_difference([True] * 9 + [False], [[True] * 8 + [False] * 2] * 2)
        >>> round(found.mean, 2), tuple(round(end, 2) for end in found.ci95)
        (0.1, (-0.29, 0.49))
    """
    a, b = np.asarray(first), np.asarray(others)
    if (
        a.ndim != 1
        or b.ndim != 2
        or b.shape[1:] != a.shape
        or not b.size
        or (a.dtype == bool) != (b.dtype == bool)
    ):
        raise InputError(
            f"first {a.dtype}{a.shape} and others {b.dtype}{b.shape} must be truth values, or numbers, of the same "
            "images: (images,) and (seeds, images)"
        )
    differences = a.astype(np.float64) - b.astype(np.float64)
    if not np.isfinite(differences).all():
        raise InputError("first and others must be finite numbers")
    by_seed, by_image = differences.mean(axis=1), differences.mean(axis=0)
    (seeds, images), mean, wins = b.shape, float(by_image.mean()), int((by_seed > 0).sum())
    if seeds == 1:
        return TwoWayDifference(mean, None, wins, seeds, images)
    whole = 1.0 if a.dtype == bool else float(np.abs(differences).max())
    padded = np.append(by_image, (whole, -whole))
    of_images = padded.var(ddof=1) * len(padded) / images**2
    of_seeds = by_seed.var(ddof=1)
    half = max(
        _student(images + 1) * math.sqrt(of_images + of_seeds / seeds),
        _student(seeds - 1) * math.sqrt(of_seeds * (1 + 1 / seeds)),
    )
    return TwoWayDifference(mean, (mean - half, mean + half), wins, seeds, images)


@cache
def _student(freedom: int) -> float:
    return float(stats.t.ppf(0.975, freedom))


def change_interval(after: npt.ArrayLike, before: npt.ArrayLike) -> tuple[float, float]:
    """Interval at 95 % confidence of how much the quality changed, of two networks on the same images.

    Of truth values, with N images, of which c are right after only, b before only, and z = 1.96:
    (c - b +- z sqrt(b + c + 1 - (c - b)^2 / (N + 2))) / (N + 2), which has a width even where nothing changed.
    Source: Agresti and Min (2005), "Simple improved confidence intervals for comparing matched proportions". Of numbers
    Student's interval of the mean difference.

    Args:
        after: What every image counts for the second network, shape (images,).
        before: The same of the first, same images in the same order.

    Returns:
        Lower and upper end of the mean of `after` less that of `before`.

    Raises:
        InputError: If the two are not of one kind and of the same images.

    Example:
        >>> low, high = change_interval([True] * 95 + [False] * 5, [True] * 98 + [False] * 2)
        >>> round(low, 3), round(high, 3)
        (-0.067, 0.009)
    """
    a, b = np.asarray(after), np.asarray(before)
    if a.ndim != 1 or a.shape != b.shape or not a.size or (a.dtype == bool) != (b.dtype == bool):
        raise InputError(
            f"after {a.dtype}{a.shape} and before {b.dtype}{b.shape} must be truth values, or numbers, of the same "
            "images"
        )
    if a.dtype != bool:
        return interval_of_mean(a.astype(np.float64) - b)
    gained, lost, padded = int((a & ~b).sum()), int((b & ~a).sum()), len(a) + 2
    z = float(stats.norm.ppf(0.975))
    half = z * math.sqrt(gained + lost + 1 - (gained - lost) ** 2 / padded)
    return max(-1.0, (gained - lost - half) / padded), min(1.0, (gained - lost + half) / padded)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number, step down (Holm 1979).

    With the m values in order p_(1) <= ... <= p_(m), the corrected one of p_(j) is the largest of
    min(1, (m - i + 1) p_(i)) over i <= j: the chance of one false claim among all stays below what is claimed.

    Args:
        p_values: 0 to 1.

    Returns:
        Corrected, in the order given.

    Raises:
        InputError: If one is outside 0..1.

    Example:
        >>> holm([0.04, 0.01, 0.03])
        [0.06, 0.03, 0.06]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise InputError(f"p_values={list(p_values)} must lie between 0 and 1")
    count, largest = len(p_values), 0.0
    corrected = [0.0] * count
    for place, k in enumerate(sorted(range(count), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (count - place) * p_values[k]))
        corrected[k] = largest
    return corrected


def interval_of_mean(values: npt.NDArray[Any]) -> tuple[float, float]:
    """Interval of a mean at 95 % confidence: Wilson's of truth values, Student's of numbers.

    Args:
        values: One per image, at least one: truth values, or finite numbers.

    Returns:
        Lower and upper end; of one number that number.

    Example:
        >>> low, high = interval_of_mean(np.array([1.0, 2.0, 3.0]))
        >>> round(low, 3), round(high, 3)
        (-0.484, 4.484)
    """
    if values.dtype == np.bool_:
        return wilson_interval(int(values.sum()), len(values))
    found = paired_difference(values.tolist())
    return found.ci95 or (found.mean, found.mean)


def paired_test(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Two-sided test of two networks on the same images: McNemar's of truth values, Wilcoxon's of numbers.

    Source: McNemar (1947), exact form; Wilcoxon (1945), signed ranks of the differences, those of 0 left out.

    Args:
        a: What every image counts for the first network, shape (images,).
        b: The same for the second, same images in the same order.

    Returns:
        p, 0 to 1; 1.0 where the networks never differ. Small p: unequal quality, whichever is better.

    Raises:
        InputError: If the two are no equally long lists of one kind.

    Example:
        >>> paired_test(np.array([0.1, 0.2, 0.3]), np.array([0.1, 0.2, 0.3]))
        1.0
    """
    if a.dtype == np.bool_ or b.dtype == np.bool_:
        return mcnemar_exact(a, b)
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(f"numbers of shapes {a.shape} and {b.shape} must be of the same images")
    return 1.0 if bool((a == b).all()) else float(stats.wilcoxon(a, b).pvalue)
