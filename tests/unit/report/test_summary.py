"""The summary for the terminal: what its table holds, and that it fits."""

from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from causal_prune.report.report import Report
from causal_prune.report.summary import summary_lines, summary_table
from causal_prune.report.yardstick import Yardstick

Fake = Callable[..., Report]


def printed(report: Report) -> str:
    console = Console(width=80, record=True, file=StringIO())
    console.print(summary_table(report))
    return console.export_text()


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_the_terminal_table_fits_and_shows_every_arm(fake: Fake, mode: str) -> None:
    text = printed(fake(mode=mode))
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    assert "94.61 ± 0.89 %" in text and "95.0 to 98.5 %" in text and "49.8 %" in text
    assert ("causal-removed" in text) is (mode == "zero")


def test_every_arm_has_one_row_and_the_random_arms_share_theirs(fake: Fake) -> None:
    first = [line.split()[0] for line in printed(fake()).splitlines() if line.strip()]
    names = [name for name in first if name in ("dense", "causal", "random", "magnitude", "seed")]
    assert names == ["dense", "causal", "random", "magnitude"]


def test_the_columns_are_named_with_their_units(fake: Fake) -> None:
    headings = [str(column.header).replace("\n", " ") for column in summary_table(fake()).columns]
    assert headings[:2] == ["arm", "test accuracy 95 % interval"]
    assert headings[2:] == ["MACs kept", "params kept", "ONNX kept", "median ms", "against dense"]


def test_the_causal_arm_alone_stands_out(fake: Fake) -> None:
    assert [row.style for row in summary_table(fake()).rows] == [None, "bold", None, None]


def test_the_caption_says_how_latency_was_measured(fake: Fake) -> None:
    report = fake()
    text = " ".join(printed(report).split())
    assert "random: mean ± sd and range over its seeds; latency: ONNX Runtime, 1 thread, batch 1" in text


def test_what_was_not_measured_is_a_dash_and_no_error(fake: Fake) -> None:
    bare = {"latency_ms": None, "speedup": None, "onnx_bytes": None}
    whole = fake()
    arms = [arm.model_copy(update=bare) for arm in whole.arms if arm.name == "causal"]
    text = printed(fake(dense=whole.dense.model_copy(update=bare), arms=arms, comparison=None))
    assert text.count("–") >= 2 and "None" not in text


def test_a_name_in_brackets_is_no_markup(fake: Fake) -> None:
    assert "net[bold]" in printed(fake(title="net[bold]"))


def test_another_quality_names_itself_in_the_heading(fake: Fake, errors: Yardstick) -> None:
    whole = fake()
    bare = {"correct": None, "merits": None}
    dense, *arms = (arm.model_copy(update=bare) for arm in (whole.dense, *whole.arms))
    report = fake(yardstick=errors, dense=dense, arms=arms, curve=None)
    heading = summary_table(report).columns[1].header
    assert heading == "test mean\nabsolute error\nin degrees\n95 % interval"
    assert "accuracy" not in printed(report)


def test_the_lines_for_the_terminal_begin_with_the_answer(fake: Fake) -> None:
    answer, choice = summary_lines(fake())
    assert answer.startswith("The network keeps 49.8 % of the MACs") and "\n" not in answer
    assert choice.startswith("The choice of units was worth more than chance: causal beat random. ")


def test_without_random_arms_the_verdict_says_that_nothing_was_compared(fake: Fake) -> None:
    arms = [arm for arm in fake().arms if arm.name != "random"]
    assert summary_lines(fake(arms=arms, comparison=None))[1].startswith(
        "Whether the choice of units was worth more than chance is not known: causal was not compared with random."
    )
