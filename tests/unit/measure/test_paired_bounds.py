"""What is lost at most: literal values, what networks that never differ give, and coverage by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from causal_prune.errors import InputError
from causal_prune.measure.paired_bounds import largest_loss


def hits(only_before: int, only_after: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(True, False)] * only_before + [(False, True)] * only_after
    pairs += [(True, True)] * both + [(False, False)] * neither
    before, after = np.array(pairs).T
    return before, after


def test_the_bound_is_where_the_score_test_rejects_no_more() -> None:
    """The likelihood of all splits with a given loss, maximised on a fine grid instead of by the formula."""
    before, after = hits(9, 4, 180, 7)
    loss, bound = largest_loss(before, after, confidence=0.9)
    assert loss == pytest.approx(5 / 200)
    gained = np.linspace(1e-7, (1 - bound) / 2 - 1e-7, 400_000)
    likelihood = 9 * np.log(gained + bound) + 4 * np.log(gained) + 187 * np.log(1 - 2 * gained - bound)
    likeliest = gained[likelihood.argmax()]
    deviation = math.sqrt(200 * (2 * likeliest + bound * (1 - bound)))
    assert (5 - 200 * bound) / deviation == pytest.approx(-stats.norm.ppf(0.9), abs=1e-3)


def test_half_a_confidence_is_the_loss_itself_and_everything_lost_is_all() -> None:
    assert largest_loss(*hits(9, 4, 180, 7), confidence=0.5)[1] == pytest.approx(5 / 200)
    assert largest_loss(*hits(50, 0, 0, 0)) == (1.0, 1.0)
    assert largest_loss(*hits(0, 50, 0, 0))[0] == -1.0


def test_networks_that_never_differ_lose_nothing_and_few_images_do_not_prove_it() -> None:
    bounds = []
    for count in (20, 200, 20_000):
        loss, bound = largest_loss(*hits(0, 0, count - 1, 1))
        assert loss == 0
        bounds.append(bound)
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > 0.05 and bounds[-1] < 1e-3


def test_numbers_have_students_bound_in_either_direction() -> None:
    draw = np.random.default_rng(0)
    before = draw.normal(size=50)
    after = before + draw.normal(0.1, 0.3, size=50)
    loss, bound = largest_loss(before, after, lower_is_better=True)
    interval = stats.ttest_rel(after, before).confidence_interval(0.9)
    assert loss == pytest.approx((after - before).mean()) and bound == pytest.approx(interval.high)
    gain, _ = largest_loss(before, after)
    assert gain == pytest.approx(-loss)


@pytest.mark.parametrize("count", [90, 1000, 10_000])
@pytest.mark.parametrize(("lost", "gained"), [(0.01, 0.01), (0.03, 0.01), (0.08, 0.05), (0.01, 0.0)])
def test_the_true_loss_lies_below_the_bound_as_often_as_it_says(
    count: int, lost: float, gained: float
) -> None:
    draw = np.random.default_rng(1)
    shares = [lost, gained, 0.9 - lost - gained, 0.1]
    below = 0
    for cells in draw.multinomial(count, shares, size=2000):
        below += largest_loss(*hits(*cells))[1] >= lost - gained
    assert below / 2000 >= 0.95 - 0.02


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([True], [True]),
        ([True, False], [True]),
        ([True, False], [1.0, 0.0]),
        ([[True, True]], [[True, True]]),
    ],
)
def test_what_is_no_pair_of_lists_is_refused(before: list, after: list) -> None:
    with pytest.raises(InputError, match="must be what the same images count, two or more of them"):
        largest_loss(np.array(before), np.array(after))


@pytest.mark.parametrize("confidence", [0.49, 1.0, math.nan])
def test_a_confidence_out_of_range_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match="confidence: .* is not at least 0.5 and below 1"):
        largest_loss(*hits(1, 1, 5, 1), confidence=confidence)
