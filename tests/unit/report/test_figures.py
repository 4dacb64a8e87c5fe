"""The figures: that what is drawn is what the report says, and a word where there is nothing to draw."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.testing import assert_allclose

from causal_prune.report.figures import (
    Plate,
    agreement_by_group,
    draw_figures,
    importance_per_layer,
    quality_against_latency,
    quality_against_share,
    widths,
)
from causal_prune.report.report import AgreementSummary, Curve, Report
from causal_prune.report.yardstick import Yardstick

Fake = Callable[..., Report]
NAMES = ("accuracy_vs_removed", "latency_accuracy", "widths", "importance", "agreement", "ladder")


def drawn(pair: tuple[Figure | None, str]) -> Figure:
    assert pair[0] is not None
    return pair[0]


def points(line: Line2D) -> npt.NDArray[np.float64]:
    """The points of a line, shape (points, 2)."""
    return np.asarray(line.get_xydata(), dtype=np.float64)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_figure_has_a_plate_and_those_that_are_drawn_a_file(fake: Fake, tmp_path: Path) -> None:
    plates = draw_figures(fake(curve=None, importances={}, agreement=None), tmp_path)
    assert [plate.name for plate in plates] == list(NAMES)
    left_out = "Left out: no curve of accuracy was measured in this run."
    assert plates[0] == Plate("accuracy_vs_removed", "Accuracy against share removed", left_out, False)
    assert [plate.name for plate in plates if plate.drawn] == ["latency_accuracy", "widths", "ladder"]
    files = {"latency_accuracy.png", "widths.png", "ladder.png"}
    assert {path.name for path in tmp_path.iterdir()} == files
    # a report that cannot have one does not say that it lacks one
    assert [plate.name for plate in draw_figures(fake(ladder=None), tmp_path)] == list(NAMES[:-1])


@pytest.mark.parametrize(
    ("draw", "missing", "text"),
    [
        (quality_against_share, {"curve": None}, "no curve of accuracy was measured in this run"),
        (widths, {"layers": []}, "the report lists no layers"),
        (importance_per_layer, {"importances": {}}, "the report holds no importances"),
        (importance_per_layer, {"importances": {"conv1": []}}, "the report holds no importances"),
        (agreement_by_group, {"agreement": None}, "no agreement with ablation was measured in this run"),
    ],
)
def test_what_is_missing_is_left_out_with_a_word(
    fake: Fake, draw: Callable[[Report], tuple[Figure | None, str]], missing: dict[str, object], text: str
) -> None:
    assert draw(fake(**missing)) == (None, f"Left out: {text}.")


def test_the_curve_is_that_of_the_report_in_per_cent(fake: Fake) -> None:
    report = fake()
    assert report.curve is not None
    (axes,) = drawn(quality_against_share(report)).axes
    random, causal = map(points, axes.lines)
    shares = [0, 10, 20, 30, 40, 50, 60, 70]
    assert_allclose(causal, np.array([shares, 100 * np.array(report.curve.causal)]).T)
    assert_allclose(random[:, 1], np.array([100 * sum(seeds) / 5 for seeds in report.curve.random]))
    (band,) = axes.collections
    heights = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert math.isclose(heights.min(), 100 * min(map(min, report.curve.random)))
    assert math.isclose(heights.max(), 100 * max(map(max, report.curve.random)))
    assert axes.get_ylabel() == "accuracy (%)  on the validation split"
    low, high = axes.get_ylim()
    assert low >= 0 and high <= 101
    caption = quality_against_share(report)[1]
    assert caption.startswith("Accuracy on the validation split (180 images); random over 5 seeds, the band")
    assert "Higher is better." in caption


def test_a_curve_without_random_seeds_has_one_line(fake: Fake) -> None:
    curve = Curve(shares=(0.0, 0.5), causal=(0.9, 0.8), random=((), ()), split="elsewhere", note="")
    figure, caption = quality_against_share(fake(curve=curve))
    assert figure is not None and len(figure.axes[0].lines) == 1 and legend(figure) == ["causal"]
    assert caption == "Accuracy on the elsewhere split. Higher is better."


def test_a_curve_without_shares_is_none(fake: Fake) -> None:
    curve = Curve(shares=(), causal=(), random=(), split="validation", note="")
    assert quality_against_share(fake(curve=curve))[0] is None


def test_arms_stand_at_their_latency_and_quality(fake: Fake) -> None:
    report = fake()
    figure = drawn(quality_against_latency(report))
    (axes,) = figure.axes
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    found = {(line.get_label(), *points(line)[0].tolist()) for line in lines}
    arms = [(arm, arm.latency_ms) for arm in (report.dense, *report.arms)]
    assert found == {(arm.name, time.median, 100 * arm.quality) for arm, time in arms if time is not None}
    assert legend(figure) == ["dense", "causal", "random", "magnitude"]
    assert axes.get_xlim()[0] == 0
    assert axes.get_xlabel() == "median latency (ms, ONNX Runtime, 1 thread, batch 1)  ← faster"
    assert axes.get_ylabel() == "test accuracy (%)  better →"


def test_bars_are_the_interval_of_the_quality_and_the_spread_of_the_latency(fake: Fake) -> None:
    report = fake(arms=[arm for arm in fake().arms if arm.name == "causal"], comparison=None)
    (axes,) = drawn(quality_against_latency(report)).axes
    causal = report.causal
    assert causal.latency_ms is not None
    bars = [each for box in axes.containers for part in box[2] for each in part.get_segments()]
    middle, half = causal.latency_ms.median, causal.latency_ms.iqr / 2
    low, high = (100 * bound for bound in causal.ci95)
    expected = [[(middle - half, 100 * causal.quality), (middle + half, 100 * causal.quality)]]
    expected.append([(middle, low), (middle, high)])
    assert all(any(np.allclose(bar, wanted) for bar in bars) for wanted in expected)


def test_arms_that_were_not_timed_are_counted(fake: Fake) -> None:
    whole = fake()
    arms = [
        arm.model_copy(update={"latency_ms": None}) if arm.name == "random" else arm for arm in whole.arms
    ]
    figure, caption = quality_against_latency(fake(arms=arms))
    assert figure is not None and legend(figure) == ["dense", "causal", "magnitude"]
    assert caption.endswith("Not shown, because not timed: 5 arms.")
    assert "Not shown" not in quality_against_latency(whole)[1]
    bare = {"latency_ms": None}
    nothing = fake(
        dense=whole.dense.model_copy(update=bare), arms=[arm.model_copy(update=bare) for arm in arms]
    )
    assert quality_against_latency(nothing) == (None, "Left out: no latency was measured in this run.")


def test_where_lower_is_better_the_axes_say_so(fake: Fake, errors: Yardstick) -> None:
    whole = fake()
    bare = {"correct": None, "merits": None}
    dense, *arms = (arm.model_copy(update=bare) for arm in (whole.dense, *whole.arms))
    report = fake(yardstick=errors, dense=dense, arms=arms)
    figure, caption = quality_against_latency(report)
    assert figure is not None
    assert figure.axes[0].get_ylabel() == "test mean absolute error (degrees)\n← better"
    assert caption.startswith("Down is better, left is faster. Vertical bars: 95 % Student interval")
    figure, caption = quality_against_share(report)
    assert figure is not None and "Lower is better." in caption
    assert figure.axes[0].get_ylabel() == "mean absolute error (degrees)\non the validation split"
    assert whole.curve is not None
    assert points(figure.axes[0].lines[-1])[:, 1].tolist() == list(whole.curve.causal)


@pytest.mark.parametrize(("mode", "verb"), [("remove", "removed"), ("zero", "zeroed")])
def test_bars_are_as_long_as_layers_are_wide(fake: Fake, mode: str, verb: str) -> None:
    report = fake(mode=mode)
    figure = drawn(widths(report))
    (axes,) = figure.axes
    lengths = [bar.get_width() for bar in axes.patches if isinstance(bar, Rectangle)]
    before = [layer.filters_before for layer in report.layers]
    after = [layer.filters_after for layer in report.layers]
    assert lengths == [*before, *after]
    texts = [text.get_text() for text in axes.texts]
    assert (
        texts[0] == "16 frozen"
        and texts[1] == f"{before[1]} → {after[1]} ({100 * after[1] / before[1]:.0f} %)"
    )
    assert legend(figure) == ["kept", verb, "frozen, not cut"]
    frozen = sum(layer.frozen is not None for layer in report.layers)
    assert widths(report)[1] == (
        f"5 layers, {frozen} of them frozen; {sum(before)} filters before, {sum(after)} after "
        f"({sum(before) - sum(after)} {verb}). Input side at the top."
    )
    low, high = axes.get_ylim()
    assert low > high, "the input side is at the top"


def test_long_names_are_shortened_in_the_middle(fake: Fake) -> None:
    name = "backbone.stage3.block12.conv_expand.weight"
    figure = drawn(importance_per_layer(fake(importances={name: [0.1, 0.2], "b": [0.3]})))
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == ["backbone.sta…expand.weight", "b"] and len(shown[0]) == 26


@pytest.mark.parametrize(
    "scores", [[0.0, 0.0, 0.0], [1.0], [-0.5, 0.2, 0.9], [0.0, 1e-12, 1e-3, 4.0], [2.0, 2.0, 2.0]]
)
def test_importances_of_any_kind_can_be_drawn(fake: Fake, scores: list[float]) -> None:
    figure, caption = importance_per_layer(fake(importances={"only": scores, "empty": []}))
    assert figure is not None and f"{len(scores)} filter" in caption
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("scores", "scale", "clipped"),
    [
        ([1.0, 2.0, 29.0], "linear", 0),
        ([1.0, 2.0, 100.0], "log", 0),
        ([-1e-3, 2.0, 100.0], "linear", 0),  # a log axis has no place below zero
        ([0.0, 1e-9, 1.0, 2.0, 100.0], "log", 2),
    ],
)
def test_a_log_axis_is_taken_where_a_linear_one_would_hide_filters(
    fake: Fake, scores: list[float], scale: str, clipped: int
) -> None:
    figure, caption = importance_per_layer(fake(importances={"only": scores}))
    assert figure is not None
    axes = figure.axes[0]
    assert axes.get_xscale() == scale and ("log scale" in axes.get_xlabel()) is (scale == "log")
    places = np.asarray(axes.collections[0].get_offsets())[:, 0]
    assert_allclose(places, np.maximum(scores, 100 * 1e-5) if scale == "log" else scores)
    assert (f"{clipped} filters below 0.001 at the left edge" in caption) is (clipped > 0)


def test_a_row_of_importances_marks_its_median_and_quartiles(fake: Fake) -> None:
    figure = drawn(importance_per_layer(fake(importances={"a": [1.0, 2.0, 3.0, 4.0, 9.0], "b": [5.0]})))
    axes = figure.axes[0]
    assert [points(line)[0, 0] for line in axes.lines] == [3.0, 5.0]
    (quartiles,) = axes.collections[1].get_segments()  # type: ignore[attr-defined]  # of hlines
    assert quartiles[:, 0].tolist() == [2.0, 4.0]


def test_agreement_is_drawn_for_the_groups_that_have_one(fake: Fake) -> None:
    known = {"conv1": 0.5, "conv2": None, "conv3": -0.25}
    agreement = AgreementSummary(method="direct", versus="ablation", median=0.125, spearman_by_group=known)
    figure, caption = agreement_by_group(fake(agreement=agreement))
    assert figure is not None
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv1", "conv3"]
    groups, zero, median = map(points, axes.lines)
    assert groups.tolist() == [[0.5, 0], [-0.25, 1]]
    assert zero[:, 0].tolist() == [0, 0] and median[:, 0].tolist() == [0.125, 0.125]
    assert axes.get_xlim() == (-1.05, 1.05)
    assert "median +0.12." in caption and caption.endswith("1 group without a defined correlation left out.")


@pytest.mark.parametrize(("median", "rho"), [(None, 0.5), (0.5, None)])
def test_agreement_that_is_nowhere_defined_is_left_out(
    fake: Fake, median: float | None, rho: float | None
) -> None:
    agreement = AgreementSummary(
        method="direct", versus="ablation", median=median, spearman_by_group={"conv1": rho}
    )
    assert agreement_by_group(fake(agreement=agreement))[0] is None
