"""Drift of maps, as a report holds it."""

import pytest
from pydantic import ValidationError

from causal_prune.report.map_drift import MapDrift
from tests.unit.report import made_reasons


def test_drift_is_read_and_written_as_it_is() -> None:
    content = made_reasons.drift()
    assert MapDrift.model_validate(content).model_dump(mode="json") == content


def test_a_correlation_is_one() -> None:
    for wrong in (1.5, -2.0, float("nan")):
        with pytest.raises(ValidationError, match="spearman"):
            MapDrift.model_validate(
                made_reasons.drift(repeated=made_reasons.network("repeated", wrong, iou=1, pointing=1))
            )
