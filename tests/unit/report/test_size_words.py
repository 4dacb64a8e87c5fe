"""The search for the smallest network in words."""

from typing import Any

import pytest

from causal_prune.report.size_search import SizeSearch, SizeTried
from causal_prune.report.size_words import search_rows, search_told
from causal_prune.report.yardstick import ACCURACY, Yardstick

DEGREES = Yardstick(
    name="mean absolute error", better="lower", kind="number", unit="degrees", points="degrees"
)


def search(**changes: Any) -> SizeSearch:
    tried = (
        SizeTried(macs_kept=0.5, quality=0.91, drop=0.02, at_most=0.028, within=False),
        SizeTried(macs_kept=0.75, quality=0.925, drop=0.005, at_most=0.009, within=True),
    )
    given: dict[str, Any] = {
        "max_drop": 0.01, "confidence": 0.95, "images": 5000, "dense": 0.93, "tried": tried, "bound_by": "max_drop"
    }  # fmt: skip
    return SizeSearch(**(given | changes))


def test_the_sizes_are_told_with_the_bound() -> None:
    assert search_told(search(), ACCURACY) == (
        "2 sizes were cut, repaired and judged on 5,000 validation images: a size is taken if it loses at most 1.00 pp "
        "of accuracy with 95 % confidence, paired on the same images."
    )
    assert search_rows(search(), ACCURACY) == [
        ("75.0 %", "92.50 %", "+0.50 pp", "+0.90 pp", "yes"),
        ("50.0 %", "91.00 %", "+2.00 pp", "+2.80 pp", "no"),
    ]


def test_one_size_and_errors_have_their_words() -> None:
    one = search(tried=search().tried[:1], max_drop=0.5)
    assert search_told(one, DEGREES).startswith("1 size was cut")
    assert "at most 0.500 degrees of mean absolute error" in search_told(one, DEGREES)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"bound_by": "keep_latency", "keep_latency": 0.6, "latency_kept": 0.58},
            "was reached first; a smaller",
        ),
        (
            {"keep_latency": 0.4, "latency_kept": None},
            "ended the search before 40.0 % of the median latency was reached.",
        ),
    ],
)
def test_what_ended_the_search_is_said(changes: dict[str, Any], told: str) -> None:
    assert told in search_told(search(**changes), ACCURACY)
