"""What is said of a ladder is computed from it, with the signs that it has."""

from collections.abc import Callable

import pytest
from rich.console import Console

from causal_prune.report.ladder import Ladder, Rung
from causal_prune.report.ladder_words import (
    equal_macs,
    ladder_heads,
    ladder_rows,
    ladder_rows_told,
    ladder_table,
    ladder_title,
    ladder_told,
)
from causal_prune.report.report import Report
from causal_prune.report.yardstick import ACCURACY, Yardstick
from tests.unit.report import made_ladders

Fake = Callable[..., Report]
USUAL = (
    "Magnitude with an equal share from every group and batch norm re-estimated has 49.90 % of test images right at "
    "the same MACs; widths from the curves add 36.60 pp, least squares 4.90 pp, the choice of units 0.08 pp"
)


def of_errors(fake: Fake, errors: Yardstick, **changes: object) -> Report:
    """A report in which quality is an error: the lower, the better."""
    content = made_ladders.ladder("cut", "batchnorm", "least_squares")
    for rung in content["rungs"]:
        for name in made_ladders.STATIONS[:3]:
            rung[name] = round(9 * (1.05 - rung[name]), 4)
    whole = fake(ladder=content, **changes)
    bare = {"correct": None, "merits": None}
    dense = whole.dense.model_copy(update=bare | {"quality": 0.7, "ci95": (0.6, 0.8)})
    return whole.model_copy(update={"yardstick": errors, "dense": dense})


def test_the_sentence_takes_the_advantage_apart(fake: Fake) -> None:
    assert ladder_told(fake()) == (f"{USUAL}, fine-tuning 5.74 pp: 97.22 % in the end (dense 98.06 %).")
    assert ladder_told(fake(ladder=None)) == ""


@pytest.mark.parametrize(
    ("stations", "text"),
    [
        (("cut", "batchnorm", "least_squares"), f"{USUAL}: 91.48 % in the end"),
        (
            ("cut", "batchnorm"),
            "widths from the curves add 36.60 pp, the choice of units 0.60 pp: 87.10 % in the end",
        ),
        (
            ("cut",),
            ", just cut, has 15.80 % of test images right at the same MACs; widths from the curves add 30.50 pp, ",
        ),
        (("cut", "fine_tuned"), "the choice of units 9.20 pp, fine-tuning 41.72 pp: 97.22 % in the end"),
    ],
)
def test_stations_that_are_missing_are_passed_over(fake: Fake, stations: tuple[str, ...], text: str) -> None:
    report = fake(ladder=made_ladders.ladder(*stations))
    assert text in ladder_told(report)
    assert len(ladder_heads(report)) == 3 + len(stations)
    assert all(len(row) == 3 + len(stations) for row in ladder_rows(report))


def test_a_step_that_loses_says_so_and_one_that_does_nothing_too(fake: Fake) -> None:
    content = made_ladders.ladder("cut", "batchnorm", "least_squares")
    magnitude, causal = content["rungs"][2], content["rungs"][4]
    magnitude |= {"batchnorm": 0.45, "least_squares": 0.45004}
    causal |= {"least_squares": 0.4}
    assert (
        "widths from the curves take away 4.90 pp, least squares changes nothing, the choice of units takes away "
        "5.00 pp: 40.00 % in the end"
    ) in ladder_told(fake(ladder=content))
    magnitude |= {"least_squares": 0.41}
    assert (
        "widths from the curves take away 4.90 pp, least squares 4.00 pp, the choice of units 1.00 pp: 40.00 %"
    ) in ladder_told(fake(ladder=content))


def test_where_lower_is_better_it_says_so(fake: Fake, errors: Yardstick) -> None:
    told = ladder_told(of_errors(fake, errors))
    assert told == (
        "Magnitude with an equal share from every group and batch norm re-estimated has a test mean absolute error of "
        "4.959 degrees at the same MACs; widths from the curves take away 3.294 degrees, least squares 0.441 degrees, "
        "the choice of units 0.007 degrees: 1.217 degrees in the end (dense 0.700 degrees). Lower is better."
    )
    assert ladder_title(errors) == "Where the quality comes from"
    assert ladder_title(ACCURACY) == "Where the accuracy comes from"
    report = of_errors(fake, errors)
    assert ladder_rows(report)[0][3:] == ["8.028", "4.959", "1.728"]
    assert ladder_rows_told(report).startswith(
        "Test mean absolute error in degrees of 360 images (lower is better);"
    )


def test_without_curves_all_widths_are_equal_shares(fake: Fake) -> None:
    rungs = [made_ladders.rung(units, "equal", 0.2, 0.5, 0.8) for units in ("magnitude", "random", "causal")]
    told = ladder_told(fake(ladder={"rungs": rungs}))
    assert "widths from the curves" not in told and "least squares adds 30.00 pp" in told
    assert told.endswith(" “direct” has no curves to spread the cut by: all widths are equal shares.")


@pytest.mark.parametrize(
    ("only", "text"),
    [
        (
            (("causal", "curves"),),
            "Causal with widths from the curves and batch norm re-estimated has 87.10 %",
        ),
        (
            (("random", "curves"), ("causal", "curves")),
            "Random (mean of 5 seeds) with widths from the curves",
        ),
        # magnitude is the causal choice at these widths, and has no rung of its own
        (
            (("magnitude", "equal"), ("causal", "curves")),
            "widths from the curves add 37.20 pp, least squares 4.38 pp, fine-tuning 5.74 pp",
        ),
    ],
)
def test_a_ladder_begins_at_the_most_usual_rung_that_it_has(
    fake: Fake, only: tuple[tuple[str, str], ...], text: str
) -> None:
    told = ladder_told(fake(ladder=made_ladders.ladder(only=only, left_out=["one: why", "two: why"])))
    assert text in told and told.endswith(" Left out: one: why; two: why.")
    assert ("at the same MACs" in told) is (len(only) > 1), "the causal arm is not held against itself"


def test_one_station_of_one_rung_is_no_step(fake: Fake) -> None:
    alone = made_ladders.ladder("cut", only=(("causal", "curves"),))
    assert ladder_told(fake(ladder=alone)) == (
        "Causal with widths from the curves, just cut, has 55.50 % of test images right (dense 98.06 %)."
    )


def test_macs_that_differ_are_told(fake: Fake) -> None:
    content = made_ladders.ladder()
    content["rungs"][0]["macs"] = round(made_ladders.MACS * 0.9)
    assert "right at 90.0 % of the causal arm's MACs;" in ladder_told(fake(ladder=content))
    first, *_, last = Ladder.model_validate(content).rungs
    assert not equal_macs(first, last) and equal_macs(last, last)
    near = Rung.model_validate(last.model_dump() | {"macs": round(0.991 * last.macs)})
    assert equal_macs(near, last) and equal_macs(last, near)


def test_a_zeroed_network_has_its_macs_once_it_is_removed(fake: Fake) -> None:
    report = fake(mode="zero")
    assert "right at the same MACs once removed;" in ladder_told(report)
    assert "once their units are removed" in ladder_rows_told(report)
    assert "once their units are removed" not in ladder_rows_told(fake())


def test_the_table_has_every_rung_and_station(fake: Fake) -> None:
    report = fake()
    assert ladder_heads(report) == [
        "units", "widths", "MACs (kept)", "cut", "batch norm", "least squares", "fine-tuned"
    ]  # fmt: skip
    rows = ladder_rows(report)
    assert rows[0] == [
        "magnitude",
        "equal shares",
        "1.70 M (49.8 %)",
        "15.80 %",
        "49.90 %",
        "85.80 %",
        "90.10 %",
    ]
    assert [row[0] for row in rows] == [
        "magnitude",
        "random",
        "magnitude",
        "random, 5 seeds",
        "causal (direct)",
    ]
    assert [row[1] for row in rows] == ["equal shares"] * 2 + ["from the curves"] * 3
    content = made_ladders.ladder()
    content["rungs"][0]["fine_tuned"] = None
    assert ladder_rows(fake(ladder=content))[0][-1] == "–"
    assert "Of several seeds: the mean." in ladder_rows_told(report)
    assert ladder_rows(fake(ladder=None)) == []


def test_the_terminal_shows_the_same_in_80_columns(fake: Fake, errors: Yardstick) -> None:
    for report in (fake(), fake(mode="zero"), of_errors(fake, errors)):
        table = ladder_table(report)
        assert table is not None
        console = Console(width=80, record=True)
        console.print(table)
        text = console.export_text()
        assert "…" not in text and all(len(line) <= 80 for line in text.splitlines())
        lines = [line for line in text.splitlines() if "%" in line]
        for row, line in zip(ladder_rows(report), lines, strict=True):
            assert all(entry in line for entry in (row[1], *row[3:]))
    assert ladder_table(fake(ladder=None)) is None
