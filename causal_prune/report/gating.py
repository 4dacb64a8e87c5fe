"""The gate: does a bundle still hold what its baseline promises? Needs no torch."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from causal_prune.errors import InputError
from causal_prune.report.report import (
    FIRST_NAMES,
    ROUNDING,
    Report,
    checked,
    read_json,
    renamed,
)
from causal_prune.report.strict import Count, Positive, Strict
from causal_prune.report.verdict import standing
from causal_prune.report.wording import plural
from causal_prune.report.yardstick import ACCURACY, Yardstick

PASSED, FAILED, INCONCLUSIVE = 0, 1, 4
_SEVERITY = (PASSED, INCONCLUSIVE, FAILED)
_WORDS = {PASSED: "passed", FAILED: "FAILED", INCONCLUSIVE: "INCONCLUSIVE"}


@dataclass(frozen=True)
class Limits:
    """What a bundle must hold.

    `max_drop`: how much worse than the baseline's the quality may be: of accuracy as a share (0.01 is one percentage
    point), of errors in their unit.
    `min_speedup`: median latency dense / causal, at least; None: not asked.
    `max_bytes`: size of the ONNX file, at most; None: not asked.
    `beat_random`: whether the causal arm must beat the random arms.
    """

    max_drop: float = 0.01
    min_speedup: float | None = None
    max_bytes: int | None = None
    beat_random: bool = False

    def __post_init__(self) -> None:
        """Refuse limits that no measurement can be held against."""
        if not 0 <= self.max_drop < math.inf:
            raise InputError(
                f"`max_drop` {self.max_drop}: must be 0 or more; 0.01 is one percentage point of accuracy"
            )
        if self.min_speedup is not None and not (math.isfinite(self.min_speedup) and self.min_speedup > 0):
            raise InputError(
                f"`min_speedup` {self.min_speedup}: must be above 0; 1.5 is one and a half times as fast"
            )
        if self.max_bytes is not None and self.max_bytes <= 0:
            raise InputError(
                f"`max_bytes` {self.max_bytes}: must be above 0; it is the size of model.onnx in bytes"
            )


@dataclass(frozen=True)
class Verdict:
    """The exit code (0 passed, 1 failed, 4 inconclusive) and one line per limit."""

    exit_code: int
    lines: tuple[str, ...]


class Baseline(Strict):
    """The numbers of a causal arm that later bundles are held against; a file has the keys of a report."""

    schema_version: Literal[1]
    yardstick: Yardstick = ACCURACY
    quality: float
    correct: Count | None
    total: Annotated[int, Field(ge=1)]
    macs: Count
    params: Count
    onnx_bytes: Count | None
    speedup: Positive | None
    predictions_sha256: str | None

    @model_validator(mode="before")
    @classmethod
    def _known_by_first_names(cls, content: Any) -> Any:
        return renamed(content, {first: name for name, first in FIRST_NAMES.items()})

    @model_serializer(mode="wrap")
    def _with_first_names(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        return renamed(content, FIRST_NAMES) if self.yardstick.kind == "share" else content

    def save(self, path: Path) -> None:
        """Write the baseline as indented JSON.

        Args:
            path: The file to write.
        """
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")


def baseline_of(report: Report) -> Baseline:
    """Take the baseline from a report.

    Args:
        report: The report of a bundle that is as it should be.

    Returns:
        The numbers of its causal arm.
    """
    arm = report.causal
    return Baseline(
        schema_version=report.schema_version,
        yardstick=report.yardstick,
        quality=arm.quality,
        correct=arm.correct,
        total=arm.total,
        macs=arm.macs,
        params=arm.params,
        onnx_bytes=arm.onnx_bytes,
        speedup=arm.speedup,
        predictions_sha256=arm.predictions_sha256,
    )


def load_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Args:
        path: What `Baseline.save` wrote, or the `report.json` of a bundle.

    Returns:
        The baseline.

    Raises:
        InputError: Where the file cannot be read or is neither of the two.
    """
    content = read_json(path)
    if "arms" in content:
        return baseline_of(checked(Report, content, path))
    return checked(Baseline, content, path)


def gate(report: Report, baseline: Baseline, limits: Limits) -> Verdict:
    """Hold a bundle against its baseline and the limits.

    Quality: with the limit L = baseline accuracy - `max_drop` and the 95 % interval [lo, hi] of the causal arm's
    accuracy a on the test split, the bundle passes (0) where a >= L, fails (1) where hi < L, and is inconclusive (4)
    between: a is below, but the test split is too small to tell. For errors, of which lower is better, L is the
    baseline + `max_drop` and all signs turn round.
    Speed-up: passes where it is `min_speedup` or more, else fails. Bytes: passes where the ONNX file has
    `max_bytes` or fewer, else fails.
    Beat random: with the 95 % interval [lo, hi] over images and seeds of the mean difference causal - random, it
    passes where lo > 0 and fails where hi < 0; else, and without such an interval (one seed, or a report of an
    earlier version, whose interval is over the seeds alone), it is inconclusive.
    The worst verdict is the verdict: 1 over 4 over 0. Differences below 1e-12 count as none.

    Args:
        report: The report of the bundle.
        baseline: What it is held against.
        limits: Which limits, how wide.

    Returns:
        The exit code, and per limit a line with the measured number, the limit and the verdict.

    Raises:
        InputError: Where a limit is asked for whose number the bundle does not hold.
    """
    results = [_quality(report, baseline, limits.max_drop)]
    if limits.min_speedup is not None:
        results.append(_speedup(report, limits.min_speedup))
    if limits.max_bytes is not None:
        results.append(_bytes(report, limits.max_bytes))
    if limits.beat_random:
        results.append(_beat_random(report))
    worst = max((code for code, _ in results), key=_SEVERITY.index)
    return Verdict(worst, tuple(f"{text}: {_WORDS[code]}" for code, text in results))


def _quality(report: Report, baseline: Baseline, max_drop: float) -> tuple[int, str]:
    arm, yardstick = report.causal, report.yardstick
    if not yardstick.agrees_with(baseline.yardstick):
        raise InputError(
            f"baseline: it measures {baseline.yardstick.told}, the bundle {yardstick.told}; "
            "give a baseline of the same task"
        )
    if yardstick.kind == "share" and max_drop > 1:
        raise InputError(f"`max_drop` {max_drop}: must be a share from 0 to 1; 0.01 is one percentage point")
    upwards = yardstick.better == "higher"
    limit = baseline.quality + (-max_drop if upwards else max_drop)
    best = arm.ci95[1 if upwards else 0]
    passed = yardstick.gain(arm.quality - limit) >= -ROUNDING
    code = PASSED if passed else FAILED if yardstick.gain(best - limit) < -ROUNDING else INCONCLUSIVE
    other = f" (of {baseline.total:,} {yardstick.item}s)" if baseline.total != arm.total else ""
    return code, (
        f"{yardstick.heading} {arm.quality:.4f} [{arm.ci95[0]:.3f}, {arm.ci95[1]:.3f}] "
        f"of {arm.total:,} {yardstick.item}s; "
        f"limit {limit:.4f} = baseline {baseline.quality:.4f}{other} {'-' if upwards else '+'} {max_drop:.4f}"
    )


def _speedup(report: Report, limit: float) -> tuple[int, str]:
    speedup = report.causal.speedup
    if speedup is None:
        raise InputError(
            "min_speedup: the bundle holds no latency of the causal network; "
            "make it with latency measured, or leave the limit out"
        )
    code = PASSED if speedup >= limit - ROUNDING else FAILED
    return code, f"speed-up {speedup:.3f}x (median latency dense / causal); limit at least {limit:.3f}x"


def _bytes(report: Report, limit: int) -> tuple[int, str]:
    size = report.causal.onnx_bytes
    if size is None:
        raise InputError(
            "max_bytes: the bundle holds no size of an ONNX file; "
            "make it with an export, or leave the limit out"
        )
    return PASSED if size <= limit else FAILED, f"ONNX file {size:,} bytes; limit at most {limit:,} bytes"


def _beat_random(report: Report) -> tuple[int, str]:
    comparison = report.comparison
    if comparison is None:
        raise InputError(
            "beat_random: the bundle holds no comparison with random; "
            "make it with random arms, or leave the limit out"
        )
    state, bounds, (_, seeds) = standing(report), comparison.ci95, comparison.wins_of
    code = {"ahead": PASSED, "behind": FAILED}.get(state, INCONCLUSIVE)
    if bounds is None:
        shown = f"(no interval from {plural(seeds, 'seed')})"
    else:
        over = plural(seeds, "seed")
        if comparison.ci95_over != "seeds":
            over += f" and {plural(report.causal.total, report.yardstick.item)}"
        shown = f"[{bounds[0]:+.4f}, {bounds[1]:+.4f}] over {over}"
    side = "above" if report.yardstick.better == "higher" else "below"
    return code, (
        f"causal - random {comparison.mean_difference:+.4f} {shown}; "
        f"limit: an interval over images and seeds {side} 0"
    )
