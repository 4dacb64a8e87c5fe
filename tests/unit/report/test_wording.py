"""Numbers carry units and directions; sentences claim only what the numbers allow."""

from collections.abc import Callable

import pytest

from causal_prune.report import wording
from causal_prune.report.report import Comparison, Report
from causal_prune.report.yardstick import Yardstick

Fake = Callable[..., Report]


def _comparison(mean: float, bounds: tuple[float, float] | None, p: float | None = 0.01) -> Comparison:
    return Comparison(
        arm="causal", versus="random", mean_difference=mean, ci95=bounds, paired_p=p, wins_of=(3, 5)
    )


@pytest.mark.parametrize(
    ("comparison", "state", "verdict"),
    [
        (None, "absent", "Causal was not compared with random."),
        (_comparison(0.02, (0.01, 0.03)), "ahead", "Causal beat random."),
        (
            _comparison(0.02, (-0.01, 0.05)),
            "unclear",
            "Random did as well as causal, as far as this run can tell.",
        ),
        (
            _comparison(0.02, (0.0, 0.04)),
            "unclear",
            "Random did as well as causal, as far as this run can tell.",
        ),
        (_comparison(0.02, None), "unclear", "One random arm cannot tell whether causal beats random."),
        (_comparison(0.0, (0.0, 0.0)), "tied", "Random did as well as causal, or better."),
        (_comparison(1e-14, (1e-14, 1e-14)), "tied", "Random did as well as causal, or better."),
        (_comparison(-0.01, (-0.05, 0.03)), "tied", "Random did as well as causal, or better."),
        (_comparison(-0.01, None), "tied", "Random did as well as causal, or better."),
        (_comparison(-0.02, (-0.03, -0.01)), "behind", "Random did better than causal."),
    ],
)
def test_the_first_paragraph_claims_what_the_interval_allows(
    fake: Fake, comparison: Comparison | None, state: str, verdict: str
) -> None:
    report = fake(comparison=comparison)
    assert wording.standing(report) == state
    assert wording.headline(report)[0] == verdict


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
    assert wording.standing(report) == state
    text = wording.headline(report)[1]
    assert "of test mean absolute error" in text and "Lower is better." in text
    assert "Wilcoxon p = " in text and "accuracy" not in text


def test_the_first_paragraph_names_its_numbers(fake: Fake) -> None:
    text = wording.headline(fake(comparison=_comparison(0.0211, (0.012, 0.03))))[1]
    assert "+2.11 pp of test accuracy on average over 5 seeds" in text
    assert "+1.20 to +3.00 pp, lies above 0" in text
    assert "ahead of 3 of 5" in text and "McNemar p = 0.010." in text


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
def test_the_first_paragraph_says_how_magnitude_did(
    fake: Fake, correct: int, p: float, sentence: str
) -> None:
    report = fake(comparison=_comparison(0.02, (0.01, 0.03)))
    causal = report.causal
    changes = {
        "name": "magnitude",
        "correct": causal.correct + correct,
        "quality": (causal.correct + correct) / causal.total,
        "ci95": (0.0, 1.0),
        "merits": None,
        "paired_p": p,
    }
    others = [arm for arm in report.arms if arm.name != "magnitude"]
    report = report.model_copy(update={"arms": (*others, causal.model_copy(update=changes))})
    assert wording.headline(report)[1].endswith(f" Magnitude {sentence}")
    without = report.model_copy(update={"arms": tuple(others)})
    assert "agnitude" not in wording.headline(without)[1]


def test_seeds_that_agree_do_not_hide_too_few_images(fake: Fake) -> None:
    text = wording.headline(fake(comparison=_comparison(0.02, (0.01, 0.03), p=0.4)))[1]
    assert "this many test images alone would not settle it" in text


def test_one_seed_gives_no_interval(fake: Fake) -> None:
    comparison = Comparison(
        arm="causal", versus="random", mean_difference=0.02, ci95=None, paired_p=None, wins_of=(1, 1)
    )
    text = wording.headline(fake(comparison=comparison))[1]
    assert "from 1 seed of random; that gives no interval" in text and "On the same images" not in text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.percent(0.97223), "97.22 %"),
        (wording.percent(0.498, 1), "49.8 %"),
        (wording.percent(None), "–"),
        (wording.quantity(812), "812"),
        (wording.quantity(3_421_184), "3.42 M"),
        (wording.quantity(78_042), "78.0 k"),
        (wording.quantity(999_700), "1.00 M"),
        (wording.quantity(330_115), "330 k"),
        (wording.quantity(4.1e9), "4.10 G"),
        (wording.quantity(0), "0"),
        (wording.quantity(None), "–"),
        (wording.milliseconds(0.3421), "0.342"),
        (wording.milliseconds(12.34), "12.3"),
        (wording.milliseconds(1250.4), "1250"),
        (wording.milliseconds(5.0), "5.00"),
        (wording.milliseconds(None), "–"),
        (wording.probability(0.0312), "0.031"),
        (wording.probability(0.00312), "0.0031"),
        (wording.probability(1e-7), "< 0.0001"),
        (wording.probability(None), "–"),
        (wording.pace(1.7099), "1.71x faster"),
        (wording.pace(0.893), "1.12x slower"),
        (wording.pace(1.001), "as fast (1.00x)"),
        (wording.pace(None), "speed not measured"),
        (wording.plural(1, "seed"), "1 seed"),
        (wording.plural(1024, "image"), "1,024 images"),
        (wording.kept(498, 1000), "49.8 %"),
        (wording.kept(None, 10), "–"),
        (wording.kept(1, 0), "–"),
    ],
)
def test_numbers_are_written_with_unit_and_direction(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("kind", "mode", "asked", "achieved"),
    [
        ("keep_macs", "remove", "keep 50.0 % of the MACs", "MACs kept 49.8 %"),
        (
            "keep_macs",
            "zero",
            "keep 50.0 % of the MACs",
            "MACs kept 49.8 % once the zeroed filters are removed",
        ),
        ("keep_params", "remove", "keep 50.0 % of the parameters", "parameters kept 49.8 %"),
        ("keep_latency", "remove", "keep 50.0 % of the median latency", "median latency kept 49.8 %"),
        (
            "remove_filters",
            "zero",
            "remove 50.0 % of the filters that can be cut",
            "filters zeroed 49.8 %",
        ),
    ],
)
def test_the_target_is_said_in_words(fake: Fake, kind: str, mode: str, asked: str, achieved: str) -> None:
    report = fake(mode=mode, target={"kind": kind, "requested": 0.5, "achieved": 0.498})
    assert (wording.asked(report), wording.achieved(report)) == (asked, achieved)


def test_the_outcome_is_computed_from_the_arms(fake: Fake) -> None:
    text = wording.outcome(fake())
    assert "98.06 % dense, 97.22 % causal (−0.83 pp" in text  # 353/360, 350/360 and their difference
    assert "keeps 49.8 % of the MACs and 48.3 % of the parameters; it runs 1.71x faster" in text
    assert "median 0.212 ms against 0.362 ms (ONNX Runtime, 1 thread, batch 1)" in text
