"""The first two paragraphs: the answer to what was asked, and only such claims as the interval allows."""

from collections.abc import Callable
from typing import Any, Literal

import pytest

from causal_prune.report.report import Comparison, Report
from causal_prune.report.verdict import headline, standing
from causal_prune.report.yardstick import Yardstick

Fake = Callable[..., Report]


def _comparison(
    mean: float,
    bounds: tuple[float, float] | None,
    p: float | None = 0.01,
    over: Literal["images and seeds", "seeds"] = "images and seeds",
) -> Comparison:
    return Comparison(
        arm="causal",
        versus="random",
        mean_difference=mean,
        ci95=bounds,
        paired_p=p,
        wins_of=(3, 5) if bounds else (1, 1),
        ci95_over=over,
    )


def _with_arm(report: Report, name: str, **changes: Any) -> Report:
    arms = [arm.model_copy(update=changes) if arm.name == name else arm for arm in report.arms]
    return report.model_copy(update={"arms": tuple(arms)})


# --- the second paragraph: was the choice worth more than chance? ---

BEAT = "The choice of units was worth more than chance: causal beat random."
LOST = "The choice of units was worth less than chance: random did better than causal."
TIED = (
    "This run does not show that the choice of units was worth more than chance: random did as well as causal, as far "
    "as it can tell."
)
UNKNOWN = "Whether the choice of units was worth more than chance is not known: "
ONE = UNKNOWN + "one random arm gives no interval."
EARLIER = (
    UNKNOWN + "the interval of this report, of an earlier version, leaves the images out; make it again."
)
ABSENT = UNKNOWN + "causal was not compared with random."


@pytest.mark.parametrize(
    ("comparison", "state", "verdict"),
    [
        (None, "absent", ABSENT),
        (_comparison(0.02, (0.01, 0.03)), "ahead", BEAT),
        (_comparison(0.02, (-0.01, 0.05)), "unclear", TIED),
        (_comparison(0.02, (0.0, 0.04)), "unclear", TIED),
        (_comparison(0.0, (0.0, 0.0)), "tied", TIED),
        (_comparison(1e-14, (1e-14, 1e-14)), "tied", TIED),
        (_comparison(-0.01, (-0.05, 0.03)), "tied", TIED),
        (_comparison(-0.02, (-0.03, -0.01)), "behind", LOST),
        (_comparison(0.02, None), "untold", ONE),
        (_comparison(0.0, None), "untold", ONE),
        (_comparison(-0.5, None), "untold", ONE),
        (_comparison(0.02, (0.01, 0.03), over="seeds"), "untold", EARLIER),
        (_comparison(-0.01, (-0.01, -0.01), over="seeds"), "untold", EARLIER),
    ],
)
def test_the_second_paragraph_claims_what_the_interval_allows(
    fake: Fake, comparison: Comparison | None, state: str, verdict: str
) -> None:
    report = fake(comparison=comparison)
    assert standing(report) == state
    assert headline(report)[1].startswith(verdict)


@pytest.mark.parametrize(
    ("comparison", "state"),
    [
        (_comparison(-0.02, (-0.03, -0.01)), "ahead"),
        (_comparison(-0.02, (-0.05, 0.01)), "unclear"),
        (_comparison(0.01, (-0.03, 0.05)), "tied"),
        (_comparison(0.02, (0.01, 0.03)), "behind"),
    ],
)
def test_where_lower_is_better_the_directions_turn_round(
    fake: Fake, errors: Yardstick, comparison: Comparison, state: str
) -> None:
    report = fake(comparison=comparison, yardstick=errors)
    assert standing(report) == state
    answer, choice = headline(report)
    assert "of test mean absolute error" in choice and "Lower is better." in choice
    assert "Wilcoxon p = " in choice and "accuracy" not in choice
    assert "test mean absolute error went from" in answer and "lower is better" in answer


def test_the_second_paragraph_names_its_numbers(fake: Fake) -> None:
    text = headline(fake(comparison=_comparison(0.0211, (0.012, 0.03))))[1]
    assert "+2.11 pp of test accuracy on average over 5 seeds" in text
    assert "the 95 % interval over the images and seeds, +1.20 to +3.00 pp, lies above 0" in text
    assert (
        "ahead of 3 of 5" in text and "median accuracy alone, on the same images, McNemar p = 0.010." in text
    )
    assert "lies below 0" in headline(fake(comparison=_comparison(-0.02, (-0.03, -0.01))))[1]
    assert (
        "interval over the seeds, "
        in headline(fake(comparison=_comparison(0.1, (0.0, 0.2), over="seeds")))[1]
    )


@pytest.mark.parametrize(
    ("correct", "p", "sentence"),
    [
        (
            0,
            0.4,
            "did as well as causal, as far as this run can tell: causal minus magnitude 0.00 pp, McNemar p = 0.400.",
        ),
        (-30, 0.00001, "did worse than causal: causal minus magnitude +8.33 pp, McNemar p < 0.0001."),
        (1, 0.04, "did better than causal: causal minus magnitude −0.28 pp, McNemar p = 0.040."),
    ],
)
def test_the_second_paragraph_says_how_magnitude_did(
    fake: Fake, correct: int, p: float, sentence: str
) -> None:
    report = fake(comparison=_comparison(0.02, (0.01, 0.03)))
    right, total = report.causal.correct, report.causal.total
    assert right is not None
    report = _with_arm(
        report,
        "magnitude",
        correct=right + correct,
        quality=(right + correct) / total,
        ci95=(0.0, 1.0),
        merits=None,
        paired_p=p,
    )
    assert headline(report)[1].endswith(f" Magnitude {sentence}")
    others = tuple(arm for arm in report.arms if arm.name != "magnitude")
    assert "agnitude" not in headline(report.model_copy(update={"arms": others}))[1]


def test_one_seed_gives_numbers_and_no_interval(fake: Fake) -> None:
    text = headline(fake(comparison=_comparison(0.02, None, p=None)))[1]
    assert "+2.00 pp of test accuracy, from 1 seed of random; causal was ahead of 1 of 1." in text
    assert "on the same images" not in text and "95 % interval" not in text


# --- the first paragraph: what became of the network ---


def test_the_first_sentence_answers_what_was_asked(fake: Fake) -> None:
    report = _with_arm(fake(), "causal", change_ci95=(-0.0212, 0.0046))
    assert headline(report)[0] == (
        "The network keeps 49.8 % of the MACs and 48.3 % of the parameters and runs 1.71x faster (median 0.212 ms "
        "against 0.362 ms; ONNX Runtime, 1 thread, batch 1); test accuracy went from 98.06 % to 97.22 % (−0.83 pp, "
        "95 % interval −2.12 to +0.46 pp, on 360 images); asked to keep 50.0 % of the MACs: met."
    )  # 353 and 350 of 360


def test_a_report_of_an_earlier_version_gives_the_interval_that_it_has(fake: Fake) -> None:
    text = headline(fake())[0]
    assert "(−0.83 pp, 95 % interval of the latter 95.0 to 98.5 %, on 360 images)" in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"speedup": 0.8}, "runs 1.25x slower (median 0.212 ms"),
        ({"speedup": 1.001}, "runs as fast (1.00x, median"),
        ({"speedup": None, "latency_ms": None}, "of the parameters and its latency was not measured; test"),
    ],
)
def test_speed_is_told_as_it_was_measured(fake: Fake, changes: dict[str, Any], told: str) -> None:
    assert told in headline(_with_arm(fake(), "causal", **changes))[0]


def test_a_quality_that_stayed_is_not_said_to_have_gone(fake: Fake) -> None:
    report = fake()
    same = _with_arm(report, "causal", quality=report.dense.quality, correct=353, merits=None)
    assert "test accuracy stayed at 98.06 % (0.00 pp" in headline(same)[0]


@pytest.mark.parametrize(
    ("kind", "mode", "achieved", "ends"),
    [
        ("keep_macs", "remove", 0.498, "asked to keep 50.0 % of the MACs: met."),
        ("keep_macs", "remove", 0.5, "asked to keep 50.0 % of the MACs: met."),
        ("keep_macs", "remove", 0.512, "asked to keep 50.0 % of the MACs: NOT met (51.2 % stay)."),
        ("keep_macs", "zero", 0.498, "keep 50.0 % of the MACs: met once the filters are removed."),
        ("keep_params", "remove", 0.498, "asked to keep 50.0 % of the parameters: met."),
        ("remove_filters", "remove", 0.498, "remove 50.0 % of the filters that can be cut: met."),
        ("remove_filters", "zero", 0.498, "remove 50.0 % of the filters that can be cut: met."),
        ("remove_filters", "remove", 0.4, "the filters that can be cut: NOT met (40.0 % went)."),
        ("remove_silent", "remove", 0.5, "remove the 50.0 % of the filters that are silent: met."),
        # 0.2117 of 0.362 ms are 58.5 %, whatever was timed when the plan was made
        ("keep_latency", "remove", 0.498, "of the median latency: NOT met (58.5 % stay)."),
        (
            "keep_latency",
            "zero",
            0.498,
            "of the median latency: NOT met once the filters are removed (58.5 % stay).",
        ),
    ],
)
def test_the_first_sentence_says_whether_the_target_is_met(
    fake: Fake, kind: str, mode: str, achieved: float, ends: str
) -> None:
    report = fake(mode=mode, target={"kind": kind, "requested": 0.5, "achieved": achieved})
    assert headline(report)[0].endswith(ends)


def test_a_latency_that_was_not_measured_at_the_end_is_the_plans(fake: Fake) -> None:
    asked = {"kind": "keep_latency", "requested": 0.5, "achieved": 0.498}
    report = _with_arm(fake(target=asked), "causal", speedup=None, latency_ms=None)
    assert headline(report)[0].endswith("keep 50.0 % of the median latency: met.")


def test_zeroed_filters_make_nothing_smaller(fake: Fake) -> None:
    text = headline(fake(mode="zero"))[0]
    assert text.startswith(
        "The filters are zeroed, so the network keeps 100.0 % of the MACs and 100.0 % of the parameters and runs as "
        "fast (1.00x, median 0.361 ms against 0.362 ms; "
    )
