"""The figures of the report, drawn without pyplot: no global state, no window, nothing left open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from causal_prune.report.drift_figure import drift_by_network
from causal_prune.report.ladder_figure import ladder_by_station
from causal_prune.report.ladder_words import ladder_title
from causal_prune.report.palette import (
    BLUE,
    FAINT,
    INK,
    LOOKS,
    MIDDLE,
    MUTED,
    ORANGE,
    OTHER_LOOK,
    STYLE,
    WIDTH,
)
from causal_prune.report.report import Arm, Curve, LatencySummary, Report
from causal_prune.report.wording import conditions, correlation, plural
from causal_prune.report.yardstick import Yardstick

ROW = 0.23  # inches per layer where each layer is a row
SPREAD_FOR_LOG = 30.0  # largest / smallest score from which a linear axis would hide most filters
LOG_FLOOR = 1e-5  # scores below this share of the largest are drawn at the left edge of a log axis


@dataclass(frozen=True)
class Plate:
    """One figure of the report: its file name, and its caption or the word why it is missing."""

    name: str
    title: str
    caption: str
    drawn: bool


def draw_figures(report: Report, folder: Path) -> list[Plate]:
    """Draw every figure that the report has data for.

    Args:
        report: The report.
        folder: Where the PNG files go; it must exist.

    Returns:
        One plate per figure, also for those that are missing.
    """
    quality, slug = report.yardstick.name.capitalize(), report.yardstick.slug
    plans: tuple[tuple[str, str, Callable[[Report], tuple[Figure | None, str]]], ...] = (
        (f"{slug}_vs_removed", f"{quality} against share removed", quality_against_share),
        (f"latency_{slug}", f"{quality} against latency", quality_against_latency),
        ("widths", "Widths before and after", widths),
        ("importance", "Importance of the filters", importance_per_layer),
        ("agreement", "Agreement with ablation", agreement_by_group),
        *(
            (("drift", "Do the networks look at the same things?", drift_by_network),)
            if report.drifts
            else ()
        ),
        *((("ladder", ladder_title(report.yardstick), ladder_by_station),) if report.ladder else ()),
    )
    plates = []
    with matplotlib.rc_context(STYLE):
        for name, title, draw in plans:
            figure, caption = draw(report)
            if figure is not None:
                # without the Software field the same report gives the same bytes on every matplotlib
                figure.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
            plates.append(Plate(name, title, caption, figure is not None))
    return plates


def quality_against_share(report: Report) -> tuple[Figure | None, str]:
    """Draw the quality of causal and random against the share of units removed.

    Args:
        report: The report.

    Returns:
        The figure, or None without a curve; and its caption.
    """
    curve, yardstick = report.curve, report.yardstick
    if curve is None or not curve.shares:
        return None, f"Left out: no curve of {yardstick.name} was measured in this run."
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    shares = 100 * np.array(curve.shares)
    seeds = len(curve.random[0])
    if seeds:
        random = yardstick.scale * np.array(curve.random)
        axes.fill_between(
            shares, random.min(axis=1), random.max(axis=1), color=ORANGE, alpha=0.18, linewidth=0
        )
        axes.plot(
            shares, random.mean(axis=1), color=ORANGE, marker="o", markersize=4.5, linewidth=2, linestyle="--"
        )
    axes.plot(
        shares,
        yardstick.scale * np.array(curve.causal),
        color=BLUE,
        marker="o",
        markersize=5.5,
        linewidth=2.2,
    )
    axes.set_xlabel("units removed (%)")
    axes.set_ylabel(_axis(yardstick, f"on the {curve.split} split"))
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom=max(0.0, bottom), top=min(101.0, top + 1) if yardstick.kind == "share" else top)
    axes.grid(True)
    figure.legend(handles=_curve_legend(seeds), loc="outside upper left", ncols=3)
    return figure, _curve_caption(curve, report, seeds)


def _curve_legend(seeds: int) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [Line2D([], [], color=BLUE, marker="o", linewidth=2.2, label="causal")]
    if seeds:
        handles += [
            Line2D(
                [],
                [],
                color=ORANGE,
                marker="o",
                linestyle="--",
                linewidth=2,
                label=f"random, mean of {plural(seeds, 'seed')}",
            ),
            Patch(color=ORANGE, alpha=0.18, linewidth=0, label="lowest to highest seed"),
        ]
    return handles


def _curve_caption(curve: Curve, report: Report, seeds: int) -> str:
    images = report.split.model_dump().get(curve.split)
    yardstick = report.yardstick
    size = f" ({plural(images, yardstick.item)})" if images else ""
    random = f"; random over {plural(seeds, 'seed')}, the band from lowest to highest" if seeds else ""
    quality = f"{yardstick.name.capitalize()} on the {curve.split} split{size}{random}."
    return f"{quality} {yardstick.better.capitalize()} is better. {curve.note}".strip()


def _axis(yardstick: Yardstick, after: str, *, before: str = "") -> str:
    """The label of an axis of qualities; in two lines where one would not fit."""
    name = f"{before}{yardstick.name} ({yardstick.unit})" if yardstick.unit else f"{before}{yardstick.name}"
    return f"{name}\n{after}" if yardstick.kind == "number" else f"{name}  {after}"


def quality_against_latency(report: Report) -> tuple[Figure | None, str]:
    """Draw each arm by its median latency and its test quality.

    Args:
        report: The report.

    Returns:
        The figure, or None where no latency was measured; and its caption.
    """
    yardstick = report.yardstick
    timed = [(arm, arm.latency_ms) for arm in (report.dense, *report.arms) if arm.latency_ms is not None]
    if not timed:
        return None, "Left out: no latency was measured in this run."
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    seen: dict[str, Line2D] = {}
    for arm, latency in sorted(timed, key=lambda pair: pair[0].name != "random"):  # random lies below
        seen.setdefault(arm.name, _arm_point(axes, arm, latency, yardstick))
    axes.set_xlabel(f"median latency (ms, {conditions(timed[0][0])})  ← faster")
    arrow = "better →" if yardstick.better == "higher" else "← better"
    axes.set_ylabel(_axis(yardstick, arrow, before="test "))
    axes.set_xlim(left=0)
    axes.grid(True)
    order = [*LOOKS, *seen]
    names = sorted(seen, key=order.index)
    figure.legend([seen[name] for name in names], names, loc="outside upper left", ncols=4)
    missing = len(report.arms) + 1 - len(timed)
    way = "Up is better" if yardstick.better == "higher" else "Down is better"
    left = f" Not shown, because not timed: {plural(missing, 'arm')}." if missing else ""
    return figure, (
        f"{way}, left is faster. Vertical bars: 95 % {yardstick.interval_of} interval of the "
        f"{yardstick.name}; horizontal bars: as long as the interquartile range of the latency.{left}"
    )


def _arm_point(axes: Axes, arm: Arm, latency: LatencySummary, yardstick: Yardstick) -> Line2D:
    color, marker = LOOKS.get(arm.name, OTHER_LOOK)
    faint = arm.name == "random"
    quality, low, high = (yardstick.scale * value for value in (arm.quality, *arm.ci95))
    axes.errorbar(
        latency.median,
        quality,
        xerr=latency.iqr / 2,
        yerr=[[max(0.0, quality - low)], [max(0.0, high - quality)]],
        fmt="none",
        ecolor=color,
        elinewidth=1.2,
        alpha=0.35 if faint else 0.8,
    )
    line: Line2D
    (line,) = axes.plot(
        latency.median,
        quality,
        marker=marker,
        color=color,
        linestyle="none",
        markersize=6 if faint else 9,
        markerfacecolor="white" if faint else color,
        markeredgewidth=1.5,
        label=arm.name,
    )
    return line


def widths(report: Report) -> tuple[Figure | None, str]:
    """Draw the number of filters of each layer before and after.

    Args:
        report: The report.

    Returns:
        The figure, or None without layers; and its caption.
    """
    layers = report.layers
    if not layers:
        return None, "Left out: the report lists no layers."
    figure, axes = _rows_figure([layer.name for layer in layers])
    positions = np.arange(len(layers))
    widest = max(layer.filters_before for layer in layers)
    colors = [MIDDLE if layer.frozen is not None else BLUE for layer in layers]
    axes.barh(positions, [layer.filters_before for layer in layers], height=0.74, color=FAINT)
    axes.barh(positions, [layer.filters_after for layer in layers], height=0.74, color=colors)
    for position, layer in enumerate(layers):
        share = 100 * layer.filters_after / layer.filters_before
        text = f"{layer.filters_before} → {layer.filters_after} ({share:.0f} %)"
        axes.text(
            layer.filters_before + widest * 0.012,
            position,
            f"{layer.filters_before} frozen" if layer.frozen is not None else text,
            va="center",
            ha="left",
            fontsize=9,
            color=MUTED if layer.frozen is not None else INK,
        )
    axes.set_xlim(0, widest * 1.3)
    axes.set_xlabel("filters")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    cut = sum(layer.frozen is None for layer in layers)
    verb = "zeroed" if report.mode == "zero" else "removed"
    handles = [Patch(color=BLUE, label="kept"), Patch(color=FAINT, label=verb)]
    if cut < len(layers):
        handles.append(Patch(color=MIDDLE, label="frozen, not cut"))
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    before = sum(layer.filters_before for layer in layers)
    after = sum(layer.filters_after for layer in layers)
    return figure, (
        f"{plural(len(layers), 'layer')}, {len(layers) - cut} of them frozen; {before:,} "
        f"filters before, {after:,} after ({before - after:,} {verb}). Input side at the top."
    )


def _rows_figure(names: Sequence[str]) -> tuple[Figure, Axes]:
    # a legend and an axis label take about 0.9 inches whatever the number of rows
    figure = Figure(
        figsize=(WIDTH, 0.95 + max(len(names), 4) * (ROW if len(names) > 12 else 1.6 * ROW)),
        layout="constrained",
    )
    axes = figure.add_subplot()
    axes.set_yticks(np.arange(len(names)), [_short(name) for name in names], fontsize=9)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.yaxis.set_tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    return figure, axes


def _short(name: str, limit: int = 26) -> str:
    return name if len(name) <= limit else f"{name[: limit // 2 - 1]}…{name[-limit // 2 :]}"


def importance_per_layer(report: Report) -> tuple[Figure | None, str]:
    """Draw the importance of every filter, one row per layer, with quartiles and median.

    Args:
        report: The report.

    Returns:
        The figure, or None without importances; and its caption.
    """
    scores = {name: np.array(values) for name, values in report.importances.items() if values}
    if not scores:
        return None, "Left out: the report holds no importances."
    figure, axes = _rows_figure(list(scores))
    everything = np.concatenate(list(scores.values()))
    top = float(everything.max())
    smallest = float(np.quantile(everything, 0.01))
    logarithmic = float(everything.min()) >= 0 and top > SPREAD_FOR_LOG * max(smallest, 0.0)
    clipped = int((everything < top * LOG_FLOOR).sum()) if logarithmic else 0
    if logarithmic:
        _log_axis(axes, top / max(smallest, top * LOG_FLOOR))
        scores = {name: np.maximum(values, top * LOG_FLOOR) for name, values in scores.items()}
    for row, values in enumerate(scores.values()):
        _score_row(axes, row, values)
    scale = "; log scale" if logarithmic else ""
    axes.set_xlabel(fill(f"importance ({report.importance_unit}{scale}) →", 58))
    figure.legend(
        handles=[
            Line2D([], [], color=BLUE, marker="o", linestyle="none", markersize=4, alpha=0.5, label="filter"),
            Line2D([], [], color=INK, linewidth=3.5, alpha=0.55, label="middle half"),
            Line2D(
                [],
                [],
                color=ORANGE,
                marker="|",
                linestyle="none",
                markersize=10,
                markeredgewidth=2.2,
                label="median",
            ),
        ],
        loc="outside upper left",
        ncols=3,
    )
    edge = f" {plural(clipped, 'filter')} below {top * LOG_FLOOR:.1g} at the left edge." if clipped else ""
    return figure, (
        f"Importance by “{report.importance}” of {everything.size:,} filters in "
        f"{plural(len(scores), 'layer')}; to the right is more important.{edge}"
    )


def agreement_by_group(report: Report) -> tuple[Figure | None, str]:
    """Draw the rank correlation of the importances with ablation, one row per group.

    Args:
        report: The report.

    Returns:
        The figure, or None where no correlation is known; and its caption.
    """
    agreement = report.agreement
    known = {} if agreement is None else agreement.spearman_by_group
    defined = {name: rho for name, rho in known.items() if rho is not None}
    if agreement is None or agreement.median is None or not defined:
        return None, "Left out: no agreement with ablation was measured in this run."
    figure, axes = _rows_figure(list(defined))
    values, rows = np.array(list(defined.values())), np.arange(len(defined))
    axes.hlines(rows, 0, values, color=FAINT, linewidth=2)
    axes.plot(values, rows, color=BLUE, marker="o", linestyle="none", markersize=5, label="group")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.axvline(agreement.median, color=ORANGE, linewidth=1.6, label="median")
    axes.set_xlim(-1.05, 1.05)
    axes.set_xlabel(fill(f"Spearman correlation of {agreement.method} with {agreement.versus} →", 58))
    figure.legend(loc="outside upper left", ncols=2)
    hidden = len(known) - len(defined)
    undefined = f" {plural(hidden, 'group')} without a defined correlation left out." if hidden else ""
    return figure, (
        f"How far “{agreement.method}” ranks the units of each group as {agreement.versus} does: +1 the same order, "
        f"0 unrelated, −1 reversed; median {correlation(agreement.median)}.{undefined}"
    )


def _log_axis(axes: Axes, span: float) -> None:
    axes.set_xscale("log")
    # over less than three decades, powers of ten alone would leave one or two numbers on the axis
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0) if span < 1e3 else (1.0,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def _score_row(axes: Axes, row: int, values: np.ndarray) -> None:
    # offsets by the golden ratio spread evenly and are the same in every run
    offsets = (np.arange(values.size) * 0.6180339887 % 1 - 0.5) * 0.56
    axes.scatter(values, row + offsets, s=9, color=BLUE, alpha=0.4, linewidths=0)
    low, median, high = np.quantile(values, (0.25, 0.5, 0.75))
    axes.hlines(row, low, high, color=INK, linewidth=3.5, alpha=0.55)
    axes.plot(median, row, marker="|", color=ORANGE, markersize=9, markeredgewidth=2.2)
