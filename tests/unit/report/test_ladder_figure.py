"""The figure of the ladder holds every number that the report has, and no label lies on another."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import matplotlib
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from numpy.testing import assert_allclose

from causal_prune.report.ladder_figure import apart, ladder_by_station
from causal_prune.report.palette import STYLE
from causal_prune.report.report import Report
from causal_prune.report.yardstick import Yardstick
from tests.unit.report import made_ladders

Fake = Callable[..., Report]


def drawn(report: Report) -> tuple[Figure, str]:
    figure, caption = ladder_by_station(report)
    assert figure is not None
    return figure, caption


def marks(figure: Figure) -> list[tuple[float, float]]:
    (axes,) = figure.axes
    lines = [line for line in axes.lines if line.get_linestyle() == "None"]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]  # type: ignore[index]


def collisions(figure: Figure) -> list[tuple[str, str]]:
    """Labels that overlap, or leave the figure."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axes,) = figure.axes
    texts: list[Text] = [*axes.texts, *axes.get_yticklabels(), *figure.legends[0].get_texts()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    found = [(a, b) for k, (a, one) in enumerate(boxes) for b, other in boxes[k + 1 :] if one.overlaps(other)]
    outside = [
        (name, "edge")
        for name, box in boxes
        if box.x0 < 0 or box.x1 > renderer.width or box.y1 > renderer.height
    ]
    return found + outside


def cases() -> dict[str, dict[str, Any]]:
    crowded = made_ladders.ladder()
    for rung in crowded["rungs"]:
        rung |= {"cut": 0.9801, "batchnorm": 0.9803, "least_squares": 0.9805, "fine_tuned": 0.9806}
    crowded["rungs"][0] |= {"cut": 0.01}
    return {
        "usual": made_ladders.ladder(),
        "without fine-tuning": made_ladders.ladder("cut", "batchnorm", "least_squares"),
        "cut alone": made_ladders.ladder("cut"),
        "one row": made_ladders.ladder(only=(("causal", "curves"),)),
        "one mark": made_ladders.ladder("cut", only=(("causal", "curves"),)),
        "crowded": crowded,
    }


@pytest.mark.parametrize("case", list(cases()))
def test_every_number_is_a_mark_and_no_label_lies_on_another(fake: Fake, case: str) -> None:
    report = fake(ladder=cases()[case])
    assert report.ladder is not None
    with matplotlib.rc_context(STYLE):
        figure, caption = drawn(report)
        assert collisions(figure) == []
    expected = [
        (100 * value, place)
        for place, rung in enumerate(report.ladder.rungs)
        for name in report.ladder.stations
        if (value := rung.at(name)) is not None
    ]
    assert_allclose(marks(figure), expected)
    assert [text.get_text() for text in figure.axes[0].texts] == [f"{value:.1f}" for value, _ in expected]
    ticks = figure.axes[0].get_xticks()
    assert len(ticks) >= 2 and max(ticks) <= 100, "no share is above 100 %"
    assert caption.endswith("all with the same MACs; further to the right is better.")


def test_rows_and_stations_are_named(fake: Fake) -> None:
    figure, _ = drawn(fake())
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "magnitude\nequal shares",
        "random\nequal shares",
        "magnitude\nwidths from curves",
        "random, 5 seeds\nwidths from curves",
        "causal\nwidths from curves",
    ]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["cut", "batch norm", "least squares", "fine-tuned", "dense"]
    low, high = figure.axes[0].get_ylim()
    assert low > high, "the usual way is at the top"


def test_where_lower_is_better_the_axis_says_so(fake: Fake, errors: Yardstick) -> None:
    whole = fake()
    dense = whole.dense.model_copy(update={"correct": None, "merits": None})
    with matplotlib.rc_context(STYLE):
        figure, caption = drawn(whole.model_copy(update={"yardstick": errors, "dense": dense}))
        assert collisions(figure) == []
    assert figure.axes[0].get_xlabel() == "←  test mean absolute error (degrees)"
    assert "further to the left is better" in caption


def test_the_caption_says_what_the_macs_are(fake: Fake) -> None:
    assert "the same MACs once their units are removed" in drawn(fake(mode="zero"))[1]
    uneven = made_ladders.ladder()
    uneven["rungs"][1]["macs"] = 1_000_000
    assert "with the MACs of the table" in drawn(fake(ladder=uneven))[1]
    assert ladder_by_station(fake(ladder=None))[0] is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 5.0], [1.0, 5.0]),
        ([5.0, 5.0], [4.5, 5.5]),
        ([5.2, 5.0, 8.0], [5.6, 4.6, 8.0]),
        ([5.0, 5.0, 5.9, 6.0], [3.975, 4.975, 5.975, 6.975]),
        ([10.0, 10.0], [8.5, 9.5]),
        ([0.0], [0.5]),
    ],
)
def test_labels_move_apart_as_little_as_need_be(values: list[float], expected: list[float]) -> None:
    found = apart(values, 1.0, 0.0, 10.0)
    assert found == pytest.approx(expected)
    assert all(b - a >= 1 - 1e-9 for a, b in pairwise(sorted(found)))
