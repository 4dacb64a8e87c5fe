"""Rows of the report's tables: every cell computed from the report, ready to print."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from causal_prune.report.report import Arm, Report, text_to_hits
from causal_prune.report.wording import (
    NONE,
    interval,
    kept,
    milliseconds,
    pace,
    percent,
    plural,
    points,
    probability,
    quantity,
)


@dataclass(frozen=True)
class ArmRow:
    """One row of the table of arms; each cell is text with its unit."""

    kind: Literal["dense", "causal", "summary", "member", "other"]
    label: str
    detail: str
    accuracy: str
    interval: str
    counted: str
    after_cut: str
    after_batchnorm: str
    after_compensation: str
    change: str
    mcnemar_p: str
    macs: str
    macs_kept: str
    params: str
    params_kept: str
    onnx_bytes: str
    onnx_size: str
    bytes_kept: str
    latency: str
    spread: str
    speedup: str


@dataclass(frozen=True)
class SideRow:
    """One question, answered by the zeroed and by the removed network."""

    question: str
    zeroed: str
    removed: str


def arm_rows(report: Report) -> list[ArmRow]:
    """Make the rows of the table of arms.

    Args:
        report: The report.

    Returns:
        Dense first, then causal, causal-removed, random (summary, then each seed), then all others.
    """
    dense = report.dense
    rows = [_single(dense, dense, "dense", "dense", "before pruning")]
    rows.append(_single(report.causal, dense, "causal", "causal", report.causal.importance or ""))
    if report.removed is not None:
        rows.append(_single(report.removed, dense, "causal", "causal-removed", "same units"))
    if report.random:
        rows.append(_summary(report.random, dense))
        rows += [_single(arm, dense, "member", f"seed {arm.seed}", "random") for arm in report.random]
    for arm in report.arms:
        if arm.name not in ("causal", "causal-removed", "random"):
            detail = arm.importance if arm.importance not in (None, arm.name) else ""
            rows.append(_single(arm, dense, "other", arm.name, detail or ""))
    return rows


def _single(
    arm: Arm, dense: Arm, kind: Literal["dense", "causal", "member", "other"], label: str, detail: str
) -> ArmRow:
    latency = arm.latency_ms
    return ArmRow(
        kind=kind,
        label=label,
        detail=detail,
        accuracy=percent(arm.accuracy),
        interval=interval(arm.ci95),
        counted=f"{arm.correct:,} of {arm.total:,}",
        after_cut=percent(arm.accuracy_after_cut),
        after_batchnorm=percent(arm.accuracy_after_batchnorm),
        after_compensation=percent(arm.accuracy_after_compensation),
        change=NONE if kind == "dense" else points(arm.accuracy - dense.accuracy),
        mcnemar_p=probability(arm.mcnemar_p),
        macs=quantity(arm.macs),
        macs_kept=kept(arm.macs, dense.macs),
        params=quantity(arm.params),
        params_kept=kept(arm.params, dense.params),
        onnx_bytes=NONE if arm.onnx_bytes is None else f"{arm.onnx_bytes:,}",
        onnx_size=_size(arm.onnx_bytes),
        bytes_kept=kept(arm.onnx_bytes, dense.onnx_bytes),
        latency=NONE if latency is None else f"{milliseconds(latency.median)} ms",
        spread="" if latency is None else f"IQR {milliseconds(latency.iqr)} ms",
        speedup=NONE if kind == "dense" or arm.speedup is None else pace(arm.speedup),
    )


def _summary(arms: Sequence[Arm], dense: Arm) -> ArmRow:
    macs, params, size = (
        _mean_of(arms, part)
        for part in (lambda arm: arm.macs, lambda arm: arm.params, lambda arm: arm.onnx_bytes)
    )
    medians = [arm.latency_ms.median for arm in arms if arm.latency_ms is not None]
    accuracies = [arm.accuracy for arm in arms]
    return ArmRow(
        kind="summary",
        label="random",
        detail="mean ± sd",
        accuracy=spread_of(accuracies),
        interval=f"range {interval((min(accuracies), max(accuracies)))}",
        counted=plural(len(arms), "seed"),
        after_cut=spread_of([arm.accuracy_after_cut for arm in arms]),
        after_batchnorm=spread_of([arm.accuracy_after_batchnorm for arm in arms]),
        after_compensation=spread_of([arm.accuracy_after_compensation for arm in arms]),
        change=points(fmean(accuracies) - dense.accuracy),
        mcnemar_p="",
        macs=quantity(macs),
        macs_kept=_kept_mean(macs, dense.macs),
        params=quantity(params),
        params_kept=_kept_mean(params, dense.params),
        onnx_bytes=NONE if size is None else f"{size:,.0f}",
        onnx_size=_size(size),
        bytes_kept=_kept_mean(size, dense.onnx_bytes),
        latency=f"{milliseconds(fmean(medians))} ms" if medians else NONE,
        spread=f"{milliseconds(min(medians))} to {milliseconds(max(medians))} ms" if len(medians) > 1 else "",
        speedup=_mean_pace(arms),
    )


def _size(number: float | None) -> str:
    text = quantity(number)
    return text if number is None else f"{text}B" if " " in text else f"{text} B"


def _mean_of(arms: Sequence[Arm], part: Callable[[Arm], float | None]) -> float | None:
    values = [value for value in map(part, arms) if value is not None]
    return fmean(values) if values else None


def _kept_mean(mean: float | None, whole: int | None) -> str:
    return NONE if mean is None or not whole else percent(mean / whole, 1)


def _mean_pace(arms: Sequence[Arm]) -> str:
    mean = _mean_of(arms, lambda arm: arm.speedup)
    return NONE if mean is None else pace(mean)


def spread_of(shares: Sequence[float | None]) -> str:
    """Write the mean and the sample standard deviation of shares.

    Args:
        shares: 0..1; None where one was not measured.

    Returns:
        For example "94.44 ± 1.20 %"; the mean alone for one value; a dash where one is missing.
    """
    values = [share for share in shares if share is not None]
    if not values or len(values) < len(shares):
        return NONE
    if len(values) == 1:
        return percent(values[0])
    return f"{100 * fmean(values):.2f} ± {100 * stdev(values):.2f} %"


def side_rows(report: Report) -> list[SideRow]:
    """Compare the zeroed with the removed network.

    Args:
        report: The report of a run with mode "zero".

    Returns:
        Rows from accuracy to speed; empty where the removed network was not measured.
    """
    zeroed, removed, dense = report.causal, report.removed, report.dense
    if removed is None:
        return []
    pairs: tuple[tuple[str, Callable[[ArmRow], str]], ...] = (
        ("test accuracy", lambda row: f"{row.accuracy} ({row.counted})"),
        ("95 % Wilson interval", lambda row: row.interval),
        ("change from dense", lambda row: row.change),
        ("MACs (kept)", lambda row: f"{row.macs} ({row.macs_kept})"),
        ("parameters (kept)", lambda row: f"{row.params} ({row.params_kept})"),
        ("ONNX bytes (kept)", lambda row: f"{row.onnx_bytes} ({row.bytes_kept})"),
        ("median latency", lambda row: f"{row.latency} {row.spread}".strip()),
        ("speed against dense", lambda row: row.speedup),
    )
    left = _single(zeroed, dense, "causal", "", "")
    right = _single(removed, dense, "causal", "", "")
    return [SideRow(question, cell(left), cell(right)) for question, cell in pairs]


def disagreements(report: Report) -> str:
    """Say on how many test images the zeroed and the removed network differ in correctness.

    Args:
        report: The report of a run with mode "zero".

    Returns:
        One sentence; empty where the correctness per image is missing.
    """
    zeroed, removed = report.causal, report.removed
    if removed is None or zeroed.hits is None or removed.hits is None or zeroed.total != removed.total:
        return ""
    differ = text_to_hits(zeroed.hits, zeroed.total) != text_to_hits(removed.hits, removed.total)
    gap = points(removed.accuracy - zeroed.accuracy)
    return (
        f"Removed minus zeroed: {gap} of test accuracy; one is right and the other wrong on "
        f"{int(differ.sum()):,} of {zeroed.total:,} images."
    )


@dataclass(frozen=True)
class FrozenRow:
    """The layers that were not cut for one reason."""

    reason: str
    layers: tuple[str, ...]


def frozen_rows(report: Report) -> list[FrozenRow]:
    """Group the frozen layers by their reason.

    Args:
        report: The report.

    Returns:
        One row per reason, in the order of the layers.
    """
    reasons: dict[str, list[str]] = {}
    for layer in report.layers:
        if layer.frozen is not None:
            reasons.setdefault(layer.frozen, []).append(layer.name)
    return [FrozenRow(reason, tuple(layers)) for reason, layers in reasons.items()]


@dataclass(frozen=True)
class CurveRow:
    """The accuracies at one share of units removed."""

    share: str
    causal: str
    random: str
    random_range: str


def curve_rows(report: Report) -> list[CurveRow]:
    """Write the curve as a table.

    Args:
        report: The report.

    Returns:
        One row per share of units removed; empty without a curve.
    """
    curve = report.curve
    if curve is None:
        return []
    return [
        CurveRow(
            percent(share, 1),
            percent(causal),
            spread_of(random),
            interval((min(random), max(random))) if random else NONE,
        )
        for share, causal, random in zip(curve.shares, curve.causal, curve.random, strict=True)
    ]
