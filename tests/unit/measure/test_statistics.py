"""Intervals and tests against their formulas written out, and against every case enumerated."""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from causal_prune.errors import InputError
from causal_prune.measure.statistics import (
    holm,
    interval_of_mean,
    mcnemar_exact,
    paired_difference,
    paired_test,
    wilson_interval,
)

T_OF_4 = 2.7764451051977987
"""97.5 % quantile of Student's t with 4 degrees of freedom, from a table."""


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (7, 7), (1, 3), (917, 1000), (9339, 10000)])
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959963984540054), (0.9, 1.6448536269514722)])
def test_wilson_by_formula(correct: int, total: int, confidence: float, z: float) -> None:
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = wilson_interval(correct, total, confidence)
    assert low == pytest.approx(centre - half, abs=1e-12)
    assert high == pytest.approx(centre + half, abs=1e-12)
    assert 0 <= low <= p <= high <= 1


@pytest.mark.parametrize(
    ("correct", "total", "confidence", "message"),
    [
        (3, 0, 0.95, "correct=3 of total=0: total must be at least 1 and correct within it"),
        (4, 3, 0.95, "correct=4 of total=3: total must be at least 1 and correct within it"),
        (-1, 3, 0.95, "correct=-1 of total=3: total must be at least 1 and correct within it"),
        (1, 3, 1.0, "confidence=1.0 must lie between 0 and 1"),
        (1, 3, math.nan, "confidence=nan must lie between 0 and 1"),
    ],
)
def test_wilson_refuses_impossible_counts(correct: int, total: int, confidence: float, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        wilson_interval(correct, total, confidence)


def hits(only_a: int, only_b: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Of so many images one of the two is right alone; of three more both are right, or none."""
    a = [True] * only_a + [False] * only_b + [True, True, False]
    return np.array(a), np.array([not hit for hit in a[:-3]] + a[-3:])


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 3), (3, 0), (2, 2), (1, 6), (5, 4), (9, 1)])
def test_mcnemar_by_enumerating_every_split(only_a: int, only_b: int) -> None:
    discordant = only_a + only_b
    splits = [sum(sides) for sides in itertools.product((0, 1), repeat=discordant)]
    uneven = abs(only_a - only_b)
    enumerated = sum(abs(2 * split - discordant) >= uneven for split in splits) / len(splits)
    a, b = hits(only_a, only_b)
    assert mcnemar_exact(a, b) == pytest.approx(enumerated, abs=1e-12)
    assert mcnemar_exact(b, a) == paired_test(a, b) == pytest.approx(enumerated, abs=1e-12)


def test_mcnemar_without_a_difference_is_one() -> None:
    assert mcnemar_exact([True, False, True], [True, False, True]) == 1.0
    assert mcnemar_exact(np.array([], dtype=bool), np.array([], dtype=bool)) == 1.0


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ([True], r"bool\(1,\)"),
        ([1, 0, 1], r"int64\(3,\)"),
        ([[True, False, True]], r"bool\(1, 3\)"),
    ],
)
def test_mcnemar_refuses_what_is_no_pair(other: list[Any], told: str) -> None:
    message = rf"^hits_a bool\(3,\) and hits_b {told} must be truth values of the same images$"
    with pytest.raises(InputError, match=message):
        mcnemar_exact([True, False, True], other)


def test_paired_difference_by_formula() -> None:
    values = [0.02, -0.01, 0.05, 0.0, 0.03]
    mean = sum(values) / 5
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / 4)
    half = T_OF_4 * sd / math.sqrt(5)
    found = paired_difference(values)
    assert found.mean == pytest.approx(mean)
    assert found.sd == pytest.approx(sd)
    assert found.ci95 == pytest.approx((mean - half, mean + half))
    assert (found.wins, found.of) == (3, 5), "a tie is no win"


def test_paired_difference_of_one_and_of_equals() -> None:
    one = paired_difference([0.25])
    equal = paired_difference([-0.5, -0.5])
    assert (one.mean, one.sd, one.ci95, one.wins, one.of) == (0.25, None, None, 1, 1)
    assert (equal.sd, equal.ci95, equal.wins) == (0.0, (-0.5, -0.5), 0)


@pytest.mark.parametrize(
    ("values", "told"), [([], "[]"), ([0.1, math.nan], "[0.1, nan]"), ([math.inf], "[inf]")]
)
def test_paired_difference_refuses_nothing_and_nan(values: list[float], told: str) -> None:
    message = "^differences=" + told.replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(InputError, match=message + " must be one or more finite numbers$"):
        paired_difference(values)


@pytest.mark.parametrize("values", [[0.04, 0.01, 0.03, 0.005], [0.5], [], [1.0, 1.0, 0.2], [0.01, 0.01, 0.9]])
def test_holm_is_the_step_down_definition(values: list[float]) -> None:
    found = holm(values)
    order = sorted(values)
    for p, corrected in zip(values, found, strict=True):
        last = max(k for k, each in enumerate(order) if each == p)
        assert corrected == pytest.approx(max(min(1, (len(values) - i) * order[i]) for i in range(last + 1)))
    with pytest.raises(InputError, match=r"p_values=\[-0.1\] must lie between 0 and 1"):
        holm([-0.1])


def test_the_interval_of_a_mean_is_wilsons_of_truth_values_and_students_of_numbers() -> None:
    assert interval_of_mean(np.array([True, False, True])) == wilson_interval(2, 3)
    numbers = np.array([3.0, 5.0, 4.0, 6.0, 2.0])
    half = T_OF_4 * math.sqrt(2.5) / math.sqrt(5)
    assert interval_of_mean(numbers) == pytest.approx((4 - half, 4 + half))
    assert interval_of_mean(np.array([0.7])) == (0.7, 0.7)
    whole = interval_of_mean(np.array([3, 5, 4, 6, 2]))
    assert whole == pytest.approx((4 - half, 4 + half)), "whole numbers are numbers, not truth values"


@pytest.mark.parametrize("differences", [[1.0, -2, 3, 4, 6], [1.5, 2, -3, -4, 7, 11], [-1.0, -2, -3, -5]])
def test_numbers_are_compared_by_wilcoxon_over_every_choice_of_signs(differences: list[float]) -> None:
    size = np.abs(differences)
    ranks = [int(sum(size <= value)) for value in size]
    total = sum(ranks)

    def unevenness(signs: tuple[int, ...]) -> float:
        return abs(sum(rank for rank, sign in zip(ranks, signs, strict=True) if sign > 0) - total / 2)

    ours = unevenness(tuple(int(value > 0) for value in differences))
    every = list(itertools.product((0, 1), repeat=len(differences)))
    enumerated = sum(unevenness(signs) >= ours for signs in every) / len(every)
    b = np.linspace(0.1, 0.9, len(differences))
    assert paired_test(b + differences, b) == pytest.approx(enumerated, abs=1e-12)
    assert paired_test(b, b + differences) == pytest.approx(enumerated, abs=1e-12)


def test_of_the_same_numbers_nothing_is_unequal() -> None:
    assert paired_test(np.array([0.1, 0.2]), np.array([0.1, 0.2])) == 1.0


def test_numbers_of_other_images_and_pairs_of_two_kinds_are_refused() -> None:
    with pytest.raises(InputError, match=r"^numbers of shapes \(2,\) and \(3,\) must be of the same images$"):
        paired_test(np.zeros(2), np.zeros(3))
    with pytest.raises(InputError, match=r"^numbers of shapes \(2, 1\) and \(2, 1\) must be"):
        paired_test(np.zeros((2, 1)), np.zeros((2, 1)))
    with pytest.raises(InputError, match=r"^hits_a float64\(2,\) and hits_b bool\(2,\) must be truth values"):
        paired_test(np.zeros(2), np.array([True, False]))
