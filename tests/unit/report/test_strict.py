"""Parts of a report hold nothing that was not meant, and do not change."""

import pytest
from pydantic import ValidationError

from causal_prune.report.strict import Count, Positive, Share, Strict


class Part(Strict):
    count: Count
    share: Share
    more: Positive


def test_values_are_frozen_finite_and_known() -> None:
    part = Part(count=1, share=0.5, more=2)
    with pytest.raises(ValidationError, match="frozen"):
        part.count = 2
    for wrong in (
        {"count": -1},
        {"share": 1.1},
        {"more": 0},
        {"share": float("nan")},
        {"more": float("inf")},
    ):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Part(**{"count": 1, "share": 0.5, "more": 2, **wrong})
    with pytest.raises(ValidationError, match="extra"):
        Part(count=1, share=0.5, more=2, other=3)
