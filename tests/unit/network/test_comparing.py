"""A comparison tells the largest difference, and nothing passes that compared nothing."""

import math

import pytest
import torch
from torch import Tensor

from causal_prune.network.comparing import ComparisonError, largest_difference

INF, NAN = math.inf, math.nan


def of(*values: object) -> list[Tensor]:
    return [torch.tensor(value) for value in values]


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        (of([1.0, -4.0]), of([1.0, -3.0]), 0.25),
        (of([1e-3]), of([2e-3]), 1.0),
        (of([1.0], [8.0]), of([1.0], [4.0]), 0.5),
        (of([1, 2]), of([1, 2]), 0.0),
        (of([1, 2]), of([1, 3]), INF),
        (of([True]), of([False]), INF),
        (of([1.0]), of([1]), INF),
        (of([1.0]), of([[1.0]]), INF),
        (of([1.0]), of([1.0], [2.0]), INF),
        (of([1.0, -INF]), of([1.5, -INF]), 0.5),
        (of([1.0, -INF]), of([1.0, INF]), INF),
        (of([1.0, NAN]), of([1.0, 1.0]), INF),
        (of([1.0, NAN]), of([1.0, NAN]), 0.0),
        (of([1.0, 2.0], [NAN]), of([1.0, 2.0], [NAN]), 0.0),
        (of(1 + 1j), of(1 - 1j), 2.0),
    ],
)
def test_the_largest_difference_is_relative_and_what_is_not_finite_must_be_the_same(
    reference: list[Tensor], other: list[Tensor], expected: float
) -> None:
    assert largest_difference(reference, other) == expected


@pytest.mark.parametrize("nothing", [[], of([]), [torch.zeros(0, 4)], of([NAN, NAN]), of([INF], [])])
def test_a_comparison_of_nothing_is_an_error(nothing: list[Tensor]) -> None:
    with pytest.raises(ComparisonError, match="^there is no number to compare"):
        largest_difference(nothing, nothing)
