"""Sizes side by side as a table, as sentences and as a picture."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from causal_prune.report.frontier import FrontierSize
from causal_prune.report.frontier_words import (
    HEADS,
    draw_frontier,
    frontier_lines,
    frontier_markdown,
    frontier_rows,
    frontier_table,
)
from causal_prune.report.yardstick import Yardstick
from tests.unit.report.test_frontier import arm, made, size

UNTIMED = {"median_ms": None, "speedup": None}
DEGREES = Yardstick(
    name="mean absolute error", better="lower", kind="number", unit="degrees", points="degrees"
)


def printed(width: int, **changes: Any) -> str:
    file = io.StringIO()
    Console(width=width, file=file).print(frontier_table(made(**changes)))
    return file.getvalue()


def test_rows_have_a_cell_for_every_head_and_the_dense_network_first() -> None:
    rows = frontier_rows(made())
    assert [len(row) for row in rows] == [len(HEADS)] * 4
    assert rows[0] == ("100.0 %", "200 k", "800 kB", "0.100", "1.00x", "93.00 %", "–", "–", "–")
    assert rows[2] == (
        "50.0 %",
        "100 k",
        "400 kB",
        "0.050",
        "2.00x",
        "91.00 %",
        "+2.50",
        "88.50 ± 0.71 %",
        "91.00 %",
    )
    assert rows[3] == ("0.1 % asked", *["–"] * 8)


@pytest.mark.parametrize("width", [56, 60, 80, 120])
def test_no_number_is_cut_or_broken_in_the_terminal(width: int) -> None:
    text = printed(width)
    assert "…" not in text
    words = text.split()
    for row in frontier_rows(made())[:3]:
        for cell in row:
            assert all(part in words for part in cell.split()), cell


def test_the_size_that_is_taken_is_said_with_the_command() -> None:
    lines = frontier_lines(made())
    assert lines[0].startswith("Accuracy of 500 validation images, without training;")
    assert lines[1] == "0.1 %: out of reach"
    assert lines[2] == (
        "Take 70.0 % of the MACs, 1.43x as fast: the smallest of these that loses at most 1.00 pp of accuracy with "
        "95 % confidence."
    )
    assert lines[3] == made().makes


def test_where_no_size_will_do_that_is_said() -> None:
    assert frontier_lines(made(taken=None, makes=None))[-1] == (
        "Take none of these sizes: all may lose more than 1.00 pp. Fine-tune, or allow more."
    )


def test_errors_are_told_in_their_unit() -> None:
    text = frontier_markdown(made(yardstick=DEGREES))
    assert "size against mean absolute error in degrees" in text and "1.00x" in text
    assert "| --- " not in text and text.count("| 0.930 |") == 1
    assert "at most 0.010 degrees of mean absolute error" in text


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"taken": None},
        {"sizes": (FrontierSize(keep=0.01, unreached="why"),), "taken": None},
        {"sizes": (size(0.5, 0.9, arms=(arm("causal", 0.9),)),), "taken": 0},
        {"sizes": (size(0.5, 0.9, **UNTIMED),), "dense": size(1, 0.9, **UNTIMED), "taken": 0},
        {"yardstick": DEGREES},
    ],
)  # fmt: skip
def test_a_picture_is_drawn_whatever_is_missing(changes: dict[str, Any], tmp_path: Path) -> None:
    draw_frontier(made(**changes), tmp_path / "frontier.png")
    image = imread(tmp_path / "frontier.png")
    assert image.shape[1] == 960 and float(np.ptp(image[..., 0])) > 0.5
