"""The gate: every rule on both sides of its limit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from causal_prune.errors import InputError
from causal_prune.report.gating import Baseline, Limits, baseline_of, gate, load_baseline
from causal_prune.report.report import Report
from causal_prune.report.yardstick import Yardstick

Fake = Callable[..., Report]


def _with_causal(report: Report, **changes: Any) -> Report:
    arms = [arm.model_copy(update=changes) if arm.name == "causal" else arm for arm in report.arms]
    return report.model_copy(update={"arms": tuple(arms)})


def _scored(report: Report, correct: int) -> Report:
    interval = binomtest(correct, 360).proportion_ci(method="wilson")
    return _with_causal(
        report, correct=correct, quality=correct / 360, ci95=(interval.low, interval.high), merits=None
    )


def _baseline(report: Report, **changes: Any) -> Baseline:
    return baseline_of(report).model_copy(update=changes)


def test_a_bundle_passes_its_own_baseline(fake: Fake) -> None:
    verdict = gate(fake(), baseline_of(fake()), Limits())
    assert verdict.exit_code == 0 and len(verdict.lines) == 1


def test_the_line_names_number_limit_and_verdict(fake: Fake) -> None:
    report = fake()
    lines = gate(_scored(report, 342), _baseline(report, quality=1.0), Limits()).lines
    expected = "accuracy 0.9500 [0.922, 0.968] of 360 images; limit 0.9900 = baseline 1.0000 - 0.0100: FAILED"
    assert lines == (expected,)


@pytest.mark.parametrize("correct", range(330, 361, 3))
@pytest.mark.parametrize("accuracy", [0.9, 0.95, 0.98, 1.0])
def test_accuracy_against_the_literal_rule(fake: Fake, correct: int, accuracy: float) -> None:
    report = fake()
    high = binomtest(correct, 360).proportion_ci(method="wilson").high
    limit = accuracy - 0.01
    expected = 0 if correct / 360 >= limit else 1 if high < limit else 4
    assert gate(_scored(report, correct), _baseline(report, quality=accuracy), Limits()).exit_code == expected


def test_rounding_noise_is_no_loss(fake: Fake) -> None:
    report = _scored(fake(), 324)  # 0.9 exactly
    assert 0.9 < 1.0 - 0.1 + 1e-13
    assert gate(report, _baseline(report, quality=1.0 + 0.0), Limits(max_drop=0.1 - 1e-13)).exit_code == 0
    assert gate(report, _baseline(report, quality=1.0), Limits(max_drop=0.1 - 1e-9)).exit_code == 4


def test_another_number_of_images_is_named(fake: Fake) -> None:
    lines = gate(fake(), _baseline(fake(), total=1000), Limits()).lines
    assert "baseline 0.9722 (of 1,000 images) - 0.0100: passed" in lines[0]


@pytest.mark.parametrize(("limit", "code"), [(1.5, 0), (1.71, 1), (None, 0)])
def test_speedup(fake: Fake, limit: float | None, code: int) -> None:
    verdict = gate(fake(), baseline_of(fake()), Limits(min_speedup=limit))
    assert verdict.exit_code == code  # measured: 0.362 / 0.2117 = 1.70997
    if limit is not None:
        assert (
            f"speed-up 1.710x (median latency dense / causal); limit at least {limit:.3f}x"
            in verdict.lines[1]
        )


@pytest.mark.parametrize(("limit", "code"), [(180_969, 0), (180_968, 1)])
def test_bytes(fake: Fake, limit: int, code: int) -> None:
    verdict = gate(fake(), baseline_of(fake()), Limits(max_bytes=limit))
    assert verdict.exit_code == code
    assert f"ONNX file 180,969 bytes; limit at most {limit:,} bytes" in verdict.lines[1]


@pytest.mark.parametrize(
    ("mean", "bounds", "code"),
    [
        (0.02, [0.01, 0.03], 0),
        (0.02, [-0.01, 0.05], 4),
        (0.02, [1e-14, 0.04], 4),
        (-0.01, [-0.03, 0.01], 4),
        (-0.02, [-0.03, -0.01], 1),
        (0.02, None, 4),
        (0.0, None, 4),
        (-0.02, None, 4),
        (0.0, [0.0, 0.0], 4),
    ],
)
def test_beat_random(fake: Fake, mean: float, bounds: list[float] | None, code: int) -> None:
    comparison = {
        "arm": "causal",
        "versus": "random",
        "mean_difference": mean,
        "ci95": bounds,
        "paired_p": 0.5,
        "wins_of": [1, 1] if bounds is None else [3, 5],
        "ci95_over": "images and seeds",
    }
    verdict = gate(fake(comparison=comparison), baseline_of(fake()), Limits(beat_random=True))
    assert verdict.exit_code == code
    over = (
        "(no interval from 1 seed)"
        if bounds is None
        else f"[{bounds[0]:+.4f}, {bounds[1]:+.4f}] over 5 seeds and"
    )
    assert verdict.lines[1].startswith(f"causal - random {mean:+.4f} {over}")
    told = {0: "passed", 1: "FAILED", 4: "INCONCLUSIVE"}[code]
    assert verdict.lines[1].endswith(f"; limit: an interval over images and seeds above 0: {told}")
    assert bounds is None or "over 5 seeds and 360 images; limit" in verdict.lines[1]


@pytest.mark.parametrize("bounds", [[0.01, 0.03], [-0.01, -0.01]])
def test_an_interval_over_seeds_alone_decides_nothing(fake: Fake, bounds: list[float]) -> None:
    comparison = fake().comparison
    assert comparison is not None
    earlier = comparison.model_copy(update={"ci95": tuple(bounds), "ci95_over": "seeds"})
    verdict = gate(fake(comparison=earlier), baseline_of(fake()), Limits(beat_random=True))
    assert verdict.exit_code == 4 and "] over 5 seeds; limit: an interval over images" in verdict.lines[1]


def test_the_worst_verdict_wins(fake: Fake) -> None:
    unclear = fake(comparison=None).model_copy(update={"comparison": fake().comparison})
    report = _scored(unclear, 345)
    inconclusive = _baseline(report, quality=0.98)
    assert gate(report, inconclusive, Limits()).exit_code == 4
    assert gate(report, inconclusive, Limits(max_bytes=10**9)).exit_code == 4
    assert gate(report, inconclusive, Limits(max_bytes=1)).exit_code == 1


@pytest.mark.parametrize(
    ("limits", "changes", "message"),
    [
        (Limits(min_speedup=1.5), {"speedup": None}, "min_speedup: the bundle holds no latency"),
        (Limits(max_bytes=10), {"onnx_bytes": None}, "max_bytes: the bundle holds no size"),
    ],
)
def test_a_limit_without_its_measurement_is_refused(
    fake: Fake, limits: Limits, changes: dict[str, None], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        gate(_with_causal(fake(), **changes), baseline_of(fake()), limits)


def test_beat_random_needs_a_comparison(fake: Fake) -> None:
    with pytest.raises(InputError, match="beat_random: the bundle holds no comparison with random"):
        gate(fake(comparison=None), baseline_of(fake()), Limits(beat_random=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_drop": -0.1}, "`max_drop` -0.1: must be 0 or more"),
        ({"max_drop": float("inf")}, "`max_drop` inf"),
        ({"max_drop": float("nan")}, "`max_drop` nan"),
        ({"min_speedup": 0.0}, "`min_speedup` 0.0: must be above 0"),
        ({"min_speedup": float("inf")}, "`min_speedup` inf"),
        ({"max_bytes": 0}, "`max_bytes` 0: must be above 0"),
    ],
)
def test_limits_that_nothing_can_be_held_against(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Limits(**changes)


def test_a_whole_accuracy_is_the_most_that_can_be_lost(fake: Fake) -> None:
    with pytest.raises(InputError, match="`max_drop` 1.5: must be a share from 0 to 1"):
        gate(fake(), baseline_of(fake()), Limits(max_drop=1.5))


@pytest.mark.parametrize(
    ("quality", "bounds", "code"), [(3.4, (3.0, 3.8), 0), (3.6, (3.2, 4.0), 4), (4.2, (3.8, 4.6), 1)]
)
def test_errors_must_not_rise(
    fake: Fake, errors: Yardstick, quality: float, bounds: tuple[float, float], code: int
) -> None:
    report = fake(yardstick=errors)
    changes = {"quality": quality, "ci95": bounds, "correct": None, "merits": None}
    report = _with_causal(report, **changes)
    baseline = _baseline(report, quality=3.0)
    verdict = gate(report, baseline, Limits(max_drop=0.5))
    assert verdict.exit_code == code
    assert verdict.lines[0].startswith(f"mean absolute error in degrees {quality:.4f} [")
    assert "of 360 images; limit 3.5000 = baseline 3.0000 + 0.5000: " in verdict.lines[0]
    comparison = fake().comparison.model_copy(update={"mean_difference": -0.2, "ci95": (-0.3, -0.1)})
    better = report.model_copy(update={"comparison": comparison})
    assert gate(better, baseline, Limits(max_drop=2, beat_random=True)).lines[1].endswith("below 0: passed")


def test_a_baseline_is_read_in_both_forms(fake: Fake, tmp_path: Path) -> None:
    report = fake()
    report.save(tmp_path / "report.json")
    baseline_of(report).save(tmp_path / "baseline.json")
    assert (
        load_baseline(tmp_path / "report.json")
        == load_baseline(tmp_path / "baseline.json")
        == baseline_of(report)
    )
    assert set(json.loads((tmp_path / "baseline.json").read_text())) == {
        "schema_version",
        "yardstick",
        "accuracy",
        "correct",
        "total",
        "macs",
        "params",
        "onnx_bytes",
        "speedup",
        "predictions_sha256",
    }


def test_a_baseline_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    with pytest.raises(InputError, match="baseline.json: cannot be read"):
        load_baseline(path)
    path.write_text('{"schema_version": 1, "accuracy": 0.9}')
    with pytest.raises(InputError, match="baseline.json: correct: Field required"):
        load_baseline(path)
    path.write_text('{"schema_version": 9}')
    with pytest.raises(InputError, match="schema_version is 9"):
        load_baseline(path)


def test_a_baseline_of_another_task_or_unit_is_refused(fake: Fake, errors: Yardstick) -> None:
    report = fake()
    other = _baseline(report, yardstick=errors)
    told = "it measures mean absolute error in degrees .lower is better., the bundle accuracy .higher is better.; "
    with pytest.raises(InputError, match=f"^baseline: {told}give a baseline of the same task$"):
        gate(report, other, Limits())
    radians = errors.model_copy(update={"unit": "radians"})
    with pytest.raises(InputError, match="in radians .*, the bundle mean absolute error in degrees"):
        gate(
            report.model_copy(update={"yardstick": errors}),
            other.model_copy(update={"yardstick": radians}),
            Limits(),
        )
