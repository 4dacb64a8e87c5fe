"""Rows of the report's tables: every cell computed from the report, ready to print."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from pydantic import JsonValue

from causal_prune.report.report import Arm, Report, text_to_hits
from causal_prune.report.wording import kept, milliseconds, pace, percent, plural, probability, quantity
from causal_prune.report.yardstick import NONE, Yardstick


@dataclass(frozen=True)
class ArmRow:
    """One row of the table of arms; each cell is text with its unit."""

    kind: Literal["dense", "causal", "summary", "member", "other"]
    label: str
    detail: str
    quality: str
    interval: str
    counted: str
    after_cut: str
    after_batchnorm: str
    after_compensation: str
    change: str
    paired_p: str
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
    rows = [_single(report, report.dense, "dense", "dense", "before pruning")]
    rows.append(_single(report, report.causal, "causal", "causal", report.causal.importance or ""))
    if report.removed is not None:
        rows.append(_single(report, report.removed, "causal", "causal-removed", "same units"))
    if report.random:
        rows.append(_summary(report))
        rows += [_single(report, arm, "member", f"seed {arm.seed}", "random") for arm in report.random]
    for arm in report.arms:
        if arm.name not in ("causal", "causal-removed", "random"):
            detail = arm.importance if arm.importance not in (None, arm.name) else ""
            rows.append(_single(report, arm, "other", arm.name, detail or ""))
    return rows


def _single(
    report: Report, arm: Arm, kind: Literal["dense", "causal", "member", "other"], label: str, detail: str
) -> ArmRow:
    dense, latency, yardstick = report.dense, arm.latency_ms, report.yardstick.in_columns
    return ArmRow(
        kind=kind,
        label=label,
        detail=detail,
        quality=yardstick.text(arm.quality),
        interval=yardstick.interval(arm.ci95),
        counted=f"{arm.total:,}" if arm.correct is None else f"{arm.correct:,} of {arm.total:,}",
        after_cut=yardstick.text(arm.quality_after_cut),
        after_batchnorm=yardstick.text(arm.quality_after_batchnorm),
        after_compensation=yardstick.text(arm.quality_after_compensation),
        change=NONE if kind == "dense" else yardstick.change(arm.quality - dense.quality),
        paired_p=probability(arm.paired_p),
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


def _summary(report: Report) -> ArmRow:
    arms, dense, yardstick = report.random, report.dense, report.yardstick.in_columns
    macs, params, size = (
        _mean_of(arms, part)
        for part in (lambda arm: arm.macs, lambda arm: arm.params, lambda arm: arm.onnx_bytes)
    )
    medians = [arm.latency_ms.median for arm in arms if arm.latency_ms is not None]
    qualities = [arm.quality for arm in arms]
    return ArmRow(
        kind="summary",
        label="random",
        detail="mean ± sd",
        quality=spread_of(qualities, yardstick),
        interval=f"range {yardstick.interval((min(qualities), max(qualities)))}",
        counted=plural(len(arms), "seed"),
        after_cut=spread_of([arm.quality_after_cut for arm in arms], yardstick),
        after_batchnorm=spread_of([arm.quality_after_batchnorm for arm in arms], yardstick),
        after_compensation=spread_of([arm.quality_after_compensation for arm in arms], yardstick),
        change=yardstick.change(fmean(qualities) - dense.quality),
        paired_p="",
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


def spread_of(qualities: Sequence[float | None], yardstick: Yardstick) -> str:
    """Write the mean and the sample standard deviation of qualities.

    Args:
        qualities: None where one was not measured.
        yardstick: Of the report.

    Returns:
        For example "94.44 ± 1.20 %"; the mean alone for one value; a dash where one is missing.
    """
    values = [quality for quality in qualities if quality is not None]
    if not values or len(values) < len(qualities):
        return NONE
    if len(values) == 1:
        return yardstick.text(values[0])
    return yardstick.spread(fmean(values), stdev(values))


def side_rows(report: Report) -> list[SideRow]:
    """Compare the zeroed with the removed network.

    Args:
        report: The report of a run with mode "zero".

    Returns:
        Rows from accuracy to speed; empty where the removed network was not measured.
    """
    zeroed, removed, yardstick = report.causal, report.removed, report.yardstick
    if removed is None:
        return []
    pairs: tuple[tuple[str, Callable[[ArmRow], str]], ...] = (
        (f"test {yardstick.heading}", lambda row: f"{row.quality} ({row.counted})"),
        (f"95 % {yardstick.interval_of} interval", lambda row: row.interval),
        ("change from dense", lambda row: row.change),
        ("MACs (kept)", lambda row: f"{row.macs} ({row.macs_kept})"),
        ("parameters (kept)", lambda row: f"{row.params} ({row.params_kept})"),
        ("ONNX bytes (kept)", lambda row: f"{row.onnx_bytes} ({row.bytes_kept})"),
        ("median latency", lambda row: f"{row.latency} {row.spread}".strip()),
        ("speed against dense", lambda row: row.speedup),
    )
    left = _single(report, zeroed, "causal", "", "")
    right = _single(report, removed, "causal", "", "")
    return [SideRow(question, cell(left), cell(right)) for question, cell in pairs]


def disagreements(report: Report) -> str:
    """Say on how many test images the zeroed and the removed network differ in correctness.

    Args:
        report: The report of a run with mode "zero".

    Returns:
        One sentence or two; empty where the correctness per image is missing.
    """
    zeroed, removed, yardstick = report.causal, report.removed, report.yardstick
    if removed is None or zeroed.merits is None or removed.merits is None or zeroed.total != removed.total:
        return ""
    gap = yardstick.change(removed.quality - zeroed.quality)
    text = f"Removed minus zeroed: {gap} of test {yardstick.name}"
    if yardstick.kind != "share":
        return f"{text}."
    differ = text_to_hits(zeroed.merits, zeroed.total) != text_to_hits(removed.merits, removed.total)
    return (
        f"{text}; one is right and the other wrong on "
        f"{int(differ.sum()):,} of {zeroed.total:,} {yardstick.item}s."
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
    """The qualities at one share of units removed."""

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
    curve, yardstick = report.curve, report.yardstick.in_columns
    if curve is None:
        return []
    return [
        CurveRow(
            percent(share, 1),
            yardstick.text(causal),
            spread_of(random, yardstick),
            yardstick.interval((min(random), max(random))) if random else NONE,
        )
        for share, causal, random in zip(curve.shares, curve.causal, curve.random, strict=True)
    ]


def class_rows(report: Report) -> list[tuple[int, str]]:
    """Which class every label stands for.

    Args:
        report: The report.

    Returns:
        Label and name; empty where the names are the labels.
    """
    numbered = list(enumerate(report.class_names))
    return numbered if any(name != str(label) for label, name in numbered) else []


def option_rows(report: Report) -> list[tuple[str, str]]:
    """The options of the run that were given or have a default.

    Args:
        report: The report.

    Returns:
        Keys of a configuration, and words for their values.
    """
    given = {key: value for key, value in report.options.items() if value not in (None, [], {})}
    return [(key, _in_words(value)) for key, value in given.items()]


def _in_words(value: JsonValue) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_in_words(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ",".join(map(_in_words, value))
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
