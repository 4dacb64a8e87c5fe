"""Intervals and tests against their formulas written out, and against every case enumerated."""

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats
from scipy.special import ndtr

from causal_prune.errors import InputError
from causal_prune.measure.statistics import (
    change_interval,
    holm,
    interval_of_mean,
    mcnemar_exact,
    paired_difference,
    paired_test,
    two_way_difference,
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


# --- one network against others of several seeds ---


def test_two_way_difference_by_formula() -> None:
    first = np.array([1.5, 0.5, 2.0, 4.0])
    others = np.array([[1.0, 0.0, 2.5, 1.0], [0.0, 1.0, 2.0, 2.0], [1.0, 0.5, 1.0, 1.0]])
    d = [[a - b for a, b in zip(first, seed, strict=True)] for seed in others]
    by_seed = [sum(row) / 4 for row in d]
    by_image = [sum(column) / 3 for column in zip(*d, strict=True)]
    mean = sum(by_seed) / 3
    padded = [*by_image, 3.0, -3.0]  # the largest difference of all is 4 - 1
    v = sum((value - sum(padded) / 6) ** 2 for value in padded) / 5 * 6 / 16
    s2 = sum((value - mean) ** 2 for value in by_seed) / 2
    half = max(
        float(stats.t.ppf(0.975, 5)) * math.sqrt(v + s2 / 3), 4.302652729911275 * math.sqrt(s2 * (1 + 1 / 3))
    )
    found = two_way_difference(first, others)
    assert found.mean == pytest.approx(mean) and found.ci95 == pytest.approx((mean - half, mean + half))
    assert (found.wins, found.of, found.images) == (3, 3, 4)


def drawn_hits(seeds: int, images: int, *, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Whether networks are right: images of varying difficulty, shared by all."""
    generator = np.random.default_rng(seed)
    difficulty = generator.uniform(0.7, 1, images)
    return generator.random((seeds, images)) < difficulty


def test_seeds_that_happen_to_be_equal_keep_the_width_of_the_images() -> None:
    first, other = drawn_hits(2, 90)
    twice = two_way_difference(first, [other, other])
    assert twice.ci95 is not None and twice.ci95[1] - twice.ci95[0] > 0.05
    one_image = other.copy()
    one_image[np.flatnonzero(other)[0]] = False
    found = two_way_difference(one_image, [other, other])
    assert found.mean == pytest.approx(-1 / 90)
    assert found.ci95 is not None and found.ci95[0] < -2 / 90 and found.ci95[1] > 1 / 90


@pytest.mark.parametrize(("agreeing", "told"), [(1, False), (2, False), (5, False), (6, True)])
@pytest.mark.parametrize("images", [90, 10_000])
def test_a_handful_of_images_that_agree_decides_as_in_mcnemars_test(
    agreeing: int, told: bool, images: int
) -> None:
    first, other = np.arange(images) >= 0, np.arange(images) >= agreeing
    found = two_way_difference(first, [other] * 3)
    assert found.ci95 is not None and (found.ci95[0] > 0) is told
    assert (mcnemar_exact(first, other) < 0.05) is told


@pytest.mark.parametrize("seeds", [2, 5])
def test_networks_that_agree_on_every_image_differ_by_nothing(seeds: int) -> None:
    same = drawn_hits(1, 90)[0]
    found = two_way_difference(same, [same] * seeds)
    assert found.mean == 0 and found.wins == 0
    assert found.ci95 is not None and found.ci95[0] == -found.ci95[1] < 0
    numbers = two_way_difference(same * 0.3, [same * 0.3] * seeds)
    assert numbers.ci95 == (0, 0)


def test_one_seed_has_no_interval() -> None:
    first, other = drawn_hits(2, 500)
    found = two_way_difference(first, [other])
    assert found.ci95 is None and (found.of, found.images) == (1, 500)
    assert found.mean == pytest.approx(first.mean() - other.mean())


def test_order_of_seeds_and_images_does_not_matter_and_direction_turns_round() -> None:
    hits = drawn_hits(5, 359)
    found = two_way_difference(hits[0], hits[1:])
    order = np.random.default_rng(1).permutation(359)
    mixed = two_way_difference(hits[0][order], hits[[3, 1, 4, 2]][:, order])
    assert mixed.mean == pytest.approx(found.mean) and mixed.ci95 == pytest.approx(found.ci95)
    opposite = two_way_difference(~hits[0], ~hits[1:])
    assert found.ci95 is not None
    assert opposite.mean == pytest.approx(-found.mean)
    assert opposite.ci95 == pytest.approx((-found.ci95[1], -found.ci95[0]))


def test_numbers_may_have_any_unit() -> None:
    numbers = np.random.default_rng(0).exponential(size=(4, 200))
    found, scaled = (two_way_difference(k * numbers[0], k * numbers[1:]) for k in (1, 1000))
    assert scaled.mean == pytest.approx(1000 * found.mean)
    assert found.ci95 is not None and scaled.ci95 == pytest.approx(tuple(1000 * end for end in found.ci95))


def test_the_same_images_ten_times_are_surer_but_not_of_the_seeds() -> None:
    def width(hits: npt.NDArray[np.bool_]) -> float:
        ends = two_way_difference(hits[0], hits[1:]).ci95
        assert ends is not None
        return ends[1] - ends[0]

    alike = drawn_hits(2, 90)[[0, 1, 1, 1]]
    assert width(np.tile(alike, 10)) < 0.4 * width(alike), "seeds that are equal leave the images"
    unlike = np.arange(90) >= np.array([[2], [0], [20], [40]])
    assert width(np.tile(unlike, 10)) == pytest.approx(width(unlike)), "the spread of seeds stays"


@pytest.mark.parametrize(
    ("first", "others", "message"),
    [
        (
            [True],
            [True],
            r"first bool\(1,\) and others bool\(1,\) must be truth values, or numbers, of the same",
        ),
        ([True], [[True, False]], r"first bool\(1,\) and others bool\(1, 2\) must be"),
        ([True], [[1.0]], r"first bool\(1,\) and others float64\(1, 1\) must be"),
        ([0.5], np.zeros((0, 1)), r"first float64\(1,\) and others float64\(0, 1\) must be"),
        ([math.nan], [[1.0]], "first and others must be finite numbers"),
    ],
)
def test_two_way_difference_refuses_what_is_no_such_table(first: Any, others: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        two_way_difference(first, others)


LEVELS = np.array([-1.5, 0.0, 1.5])
"""How difficult images are, a third each."""
GRID = np.linspace(-5, 6, 2201)
SHARES = ndtr(GRID[:, None] - LEVELS).mean(axis=1)


class Population:
    """Networks that are right on images of shared difficulty; their expected accuracies are normal."""

    def __init__(self, accuracy: float, sd: float) -> None:
        self.accuracy, self.sd = accuracy, sd
        self.generator = np.random.default_rng(round(1000 * accuracy + 1e6 * sd))

    def draw(self, seeds: int, images: int, *, first: str, gain: float = 0) -> npt.NDArray[np.bool_]:
        """Hits of a first network and of others; the first is another draw, or has their mean exactly."""
        accuracies = self.accuracy + self.sd * self.generator.standard_normal(seeds + 1)
        accuracies[0] = gain + (self.accuracy if first == "fixed" else accuracies[0])
        limits = np.interp(accuracies, SHARES, GRID)
        chances = ndtr(limits[:, None] - LEVELS).astype(np.float32)
        difficulty = self.generator.integers(0, len(LEVELS), images)
        return self.generator.random((seeds + 1, images), dtype=np.float32) < chances[:, difficulty]


def verdicts(
    population: Population, seeds: int, images: int, *, first: str, gain: float = 0, runs: int
) -> tuple[float, float]:
    """How often the first is said to be better, and to be worse."""
    better = worse = 0
    for _ in range(runs):
        hits = population.draw(seeds, images, first=first, gain=gain)
        ends = two_way_difference(hits[0], hits[1:]).ci95
        assert ends is not None
        better, worse = better + (ends[0] > 0), worse + (ends[1] < 0)
    return better / runs, worse / runs


@pytest.mark.parametrize("first", ["another draw", "fixed"])
@pytest.mark.parametrize(("images", "runs"), [(90, 700), (1000, 300), (10_000, 80)])
def test_where_nothing_differs_better_or_worse_is_said_at_most_once_in_twenty(
    first: str, images: int, runs: int
) -> None:
    allowed = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)  # the noise of so many runs, of 16 populations
    for seeds in (2, 3, 5, 10):
        said = [
            sum(verdicts(Population(accuracy, sd), seeds, images, first=first, runs=runs))
            for accuracy, sd in ((0.5, 0.01), (0.8, 0.0), (0.95, 0.003), (0.95, 0.02))
        ]
        assert max(said) <= allowed, f"{seeds} seeds"
        assert sum(said) / 4 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / (4 * runs)), f"{seeds} seeds"


@pytest.mark.parametrize(("seeds", "gain", "least"), [(5, 0.02, 0.9), (10, 0.02, 0.99), (3, 0.05, 0.9)])
def test_a_true_gain_is_found(seeds: int, gain: float, least: float) -> None:
    better, worse = verdicts(Population(0.9, 0.003), seeds, 10_000, first="fixed", gain=gain, runs=100)
    assert better >= least and worse == 0


# --- the change from one network to another ---


@pytest.mark.parametrize(
    ("gained", "lost", "rest"), [(0, 0, 7), (3, 1, 10), (0, 20, 339), (1, 0, 0), (40, 60, 9_900)]
)
def test_the_interval_of_a_change_by_agresti_and_min(gained: int, lost: int, rest: int) -> None:
    after = np.array([True] * gained + [False] * lost + [True] * rest)
    before = np.array([False] * gained + [True] * lost + [True] * rest)
    n, d = gained + lost + rest + 2, gained - lost
    # a half more in each of the four cells, then Wald's interval
    cells = (gained + 0.5, lost + 0.5)
    p = (cells[0] - cells[1]) / n
    half = 1.959963984540054 * math.sqrt((sum(cells) / n - p * p) / n)
    low, high = change_interval(after, before)
    assert low == pytest.approx(max(-1, p - half)) and high == pytest.approx(min(1, p + half))
    assert low <= d / (n - 2) <= high and low < high
    assert change_interval(before, after) == pytest.approx((-high, -low))


def test_the_interval_of_a_change_of_numbers_is_students() -> None:
    after, before = np.array([3.0, 5.0, 4.0, 6.0, 2.0]), np.array([1.0, 4.0, 4.0, 5.0, 3.0])
    assert change_interval(after, before) == pytest.approx(paired_difference([2, 1, 0, 1, -1]).ci95)


def test_the_interval_of_a_change_covers_the_truth() -> None:
    generator, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        luck = generator.random(90)
        before, after = luck < 0.95, (luck < 0.9) | (generator.random(90) < 0.3)
        low, high = change_interval(after, before)
        hits += low <= (0.9 + 0.1 * 0.3) - 0.95 <= high
    assert hits / 2000 >= 0.945


@pytest.mark.parametrize(
    ("after", "before", "told"),
    [
        ([True], [1.0], r"after bool\(1,\) and before float64\(1,\)"),
        ([True, False], [True], r"after bool\(2,\) and before bool\(1,\)"),
        ([], [], r"after float64\(0,\) and before float64\(0,\)"),
    ],
)
def test_the_interval_of_a_change_refuses_other_images(after: Any, before: Any, told: str) -> None:
    with pytest.raises(InputError, match=f"^{told} must be truth values, or numbers, of the same images$"):
        change_interval(after, before)


TRIALS = 300
NULLS = ("one more draw", "a network of their mean")


def judged(
    seeds: int, images: int, spread: float, null: str, *, gain: float = 0.0, trials: int = TRIALS
) -> float:
    """How often something is said of a first network that is `gain` better than others of a population.

    Images differ in difficulty, which all networks share; networks differ by their seed, with a standard deviation of
    `spread` in accuracy.
    """
    generator = np.random.default_rng([seeds, images, int(1e4 * spread), NULLS.index(null), int(1e4 * gain)])
    said = 0
    for _ in range(trials):
        difficulty = np.where(generator.random(images) < 0.8, 0.995, generator.beta(1, 1, images))
        shifts = generator.normal(0, spread, seeds + 1)
        shifts[0] = gain + (shifts[0] if null == NULLS[0] else 0.0)
        chance = np.clip(difficulty + shifts[:, None] / 0.2 * (difficulty < 0.99), 0, 1)
        hits = generator.random((seeds + 1, images)) < chance
        low, high = two_way_difference(hits[0], hits[1:]).ci95 or (-1.0, 1.0)
        said += low > 0 or high < 0
    return said / trials


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("images", [90, 359, 1000, 10_000])
@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_where_nothing_differs_something_is_said_once_in_twenty_at_most(
    seeds: int, images: int, null: str
) -> None:
    for spread in (0.0, 0.003, 0.02):
        most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / TRIALS)
        assert judged(seeds, images, spread, null) <= most, spread


def test_a_gain_that_is_large_beside_the_spread_is_found() -> None:
    assert judged(5, 10_000, 0.003, NULLS[0], gain=0.02, trials=60) > 0.9
    assert judged(5, 1000, 0.003, NULLS[0], gain=0.05, trials=60) > 0.9
