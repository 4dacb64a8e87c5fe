"""Rungs of a ladder, as a report holds them."""

import pytest
from pydantic import ValidationError

from causal_prune.report.ladder import Ladder
from tests.unit.report import made_ladders


def test_a_ladder_is_read_and_written_as_it_is() -> None:
    content = made_ladders.ladder(left_out=["why"])
    found = Ladder.model_validate(content)
    assert found.model_dump(mode="json") == content
    assert found.causal.at("cut") == 0.555 and found.causal.widths == "curves"
    rung = found.rung("random", "equal")
    assert rung is not None and rung.at("batchnorm") == 0.431 and rung.seeds == (0,)
    assert found.rung("causal", "equal") is None


def test_stations_are_those_that_any_rung_has() -> None:
    assert Ladder.model_validate(made_ladders.ladder()).stations == made_ladders.STATIONS
    assert Ladder.model_validate(made_ladders.ladder("cut", "fine_tuned")).stations == ("cut", "fine_tuned")
    content = made_ladders.ladder()
    for rung in content["rungs"][:2]:
        rung["fine_tuned"] = None
    assert Ladder.model_validate(content).stations == made_ladders.STATIONS


@pytest.mark.parametrize("kept", [(), (("random", "equal"),)])
def test_a_ladder_ends_in_the_causal_arm(kept: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ValidationError, match="no single rung of causal units|at least 1 item"):
        Ladder.model_validate(made_ladders.ladder(only=kept))
    twice = made_ladders.ladder()
    twice["rungs"].append(twice["rungs"][-1])
    with pytest.raises(ValidationError, match="no single rung of causal units"):
        Ladder.model_validate(twice)


@pytest.mark.parametrize("station", ["batchnorm", "least_squares"])
def test_all_rungs_were_repaired_alike(station: str) -> None:
    content = made_ladders.ladder()
    content["rungs"][1][station] = None
    with pytest.raises(ValidationError, match=f"some rungs have the station {station} and others do not"):
        Ladder.model_validate(content)
