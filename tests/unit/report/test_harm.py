"""Counts of images that were lost and gained, as a report holds them."""

import pytest
from pydantic import ValidationError

from causal_prune.report.harm import Harm
from tests.unit.report import made_reasons


def test_harm_is_read_and_written_as_it_is() -> None:
    content = made_reasons.harm()
    found = Harm.model_validate(content)
    assert found.model_dump(mode="json") == content
    assert found.causal.lost == 9
    assert found.classes[1].change == pytest.approx(-7 / 40)


def test_more_images_than_a_class_has_cannot_change() -> None:
    content = made_reasons.harm()
    content["classes"][0] |= {"lost": 30, "gained": 7}
    with pytest.raises(ValidationError, match="class 0 has 36 images but more that changed"):
        Harm.model_validate(content)
