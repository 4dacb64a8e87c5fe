"""The search for the smallest network as data: what is refused, and JSON and back."""

from typing import Any

import pytest
from pydantic import ValidationError

from causal_prune.report.size_search import SizeSearch, SizeTried

TRIED = {"macs_kept": 0.5, "quality": 0.9, "drop": 0.01, "at_most": 0.02, "within": False}
WRITTEN = {
    "max_drop": 0.01, "confidence": 0.95, "images": 500, "dense": 0.91, "tried": [TRIED], "bound_by": "max_drop",
    "keep_latency": None, "latency_kept": None,
}  # fmt: skip


def test_json_gives_the_same_search() -> None:
    made = SizeSearch.model_validate(WRITTEN)
    assert made.model_dump(mode="json") == WRITTEN
    assert made.tried == (SizeTried(**TRIED),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_drop": 0}, "max_drop"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": 0.4}, "confidence"),
        ({"bound_by": "time"}, "bound_by"),
        ({"tried": [TRIED | {"macs_kept": 0}]}, "macs_kept"),
        ({"unit": "%"}, "unit"),
    ],
)
def test_what_is_no_search_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SizeSearch.model_validate(WRITTEN | changes)
