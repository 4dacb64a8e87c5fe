"""The figure of the ladder: every rung a row, every station a mark, from the cut to the end."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from causal_prune.report.ladder import Rung
from causal_prune.report.ladder_words import STATIONS, WIDTHS, equal_macs
from causal_prune.report.palette import INK, LOOKS, MUTED, OTHER_LOOK, WIDTH

if TYPE_CHECKING:
    from causal_prune.report.report import Report

MARKS = {"cut": "x", "batchnorm": "o", "least_squares": "o", "fine_tuned": "D"}
HOLLOW = ("batchnorm",)
ROW, LETTER = 0.62, 0.095  # inches: of a row, and of a letter of a label
DRAWN = 4.4  # inches that are left for the marks, about


def ladder_by_station(report: "Report") -> tuple[Figure | None, str]:
    """Draw the quality of every rung at every station.

    Args:
        report: The report.

    Returns:
        The figure, or None without a ladder; and its caption.
    """
    ladder, yardstick = report.ladder, report.yardstick
    if ladder is None:
        return None, "Left out: no ladder was measured in this run."
    rungs = ladder.rungs
    figure = Figure(figsize=(WIDTH, 1.15 + ROW * max(len(rungs), 2)), layout="constrained")
    axes = figure.add_subplot()
    dense = yardstick.scale * report.dense.quality
    values = [[yardstick.scale * value for value in _reached(rung).values()] for rung in rungs]
    everything = [dense, *(value for row in values for value in row)]
    low, high = min(everything), max(everything)
    margin = 0.09 * (high - low) or 0.05 * abs(high) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.axvline(dense, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
    for place, (rung, row) in enumerate(zip(rungs, values, strict=True)):
        digits = 1 if yardstick.kind == "share" else yardstick.digits
        _row(axes, place, rung, row, [f"{value:.{digits}f}" for value in row])
    axes.set_yticks(range(len(rungs)), [_label(rung) for rung in rungs], fontsize=11)
    axes.set_ylim(len(rungs) - 0.6, -0.75)
    axes.yaxis.set_tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")
    ticks = MaxNLocator(nbins=6, steps=[1, 2, 5, 10]).tick_values(low, high)
    top = (
        100 if yardstick.kind == "share" else high + margin
    )  # no share is above 100 %, though labels need the room
    axes.set_xticks([tick for tick in ticks if low - margin <= tick <= top])
    unit = f" ({yardstick.unit})" if yardstick.unit else ""
    axes.set_xlabel(f"test {yardstick.name}{unit}{'  →' if yardstick.better == 'higher' else ''}")
    if yardstick.better == "lower":
        axes.set_xlabel(f"←  {axes.get_xlabel()}")
    handles = [_mark(name, MUTED, label=STATIONS[name]) for name in ladder.stations]
    handles.append(Line2D([], [], color=INK, linewidth=1.2, linestyle=(0, (3, 2)), label="dense"))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=len(handles), handlelength=1.3, handletextpad=0.4
    )
    way = "right" if yardstick.better == "higher" else "left"
    return figure, (
        f"Every row is a network on its way from the cut to the end{_macs(report)}; further to the {way} is better."
    )


def _macs(report: "Report") -> str:
    assert report.ladder is not None, "its figure is drawn"
    removed = " once their units are removed" if report.mode == "zero" else ""
    alike = all(equal_macs(each, report.ladder.causal) for each in report.ladder.rungs)
    return f", all with the same MACs{removed}" if alike else ", with the MACs of the table"


def _reached(rung: Rung) -> dict[str, float]:
    found = {name: rung.at(name) for name in STATIONS}
    return {name: value for name, value in found.items() if value is not None}


def _label(rung: Rung) -> str:
    seeds = f", {len(rung.seeds)} seeds" if len(rung.seeds) > 1 else ""
    widths = WIDTHS[rung.widths].replace("from the", "widths from")
    return f"{rung.units}{seeds}\n{widths}"


def _mark(station: str, color: str, **options: object) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=MARKS[station],
        color=color,
        markersize=7,
        markeredgewidth=1.8,
        markerfacecolor="white" if station in HOLLOW else color,
        **options,  # type: ignore[arg-type]
    )


def _row(axes: Axes, place: int, rung: Rung, values: list[float], texts: list[str]) -> None:
    color, _ = LOOKS.get(rung.units, OTHER_LOOK)
    axes.plot(values, [place] * len(values), color=color, linewidth=2, alpha=0.45)
    for station, value in zip(_reached(rung), values, strict=True):
        mark = _mark(station, color)
        mark.set_data([value], [place])
        axes.add_line(mark)
    low, high = axes.get_xlim()
    gap = (high - low) * LETTER * (max(map(len, texts)) + 0.8) / DRAWN
    places = apart(values, gap, low, high)
    for number, (spot, text) in enumerate(zip(places, texts, strict=True)):
        last = number == len(texts) - 1
        axes.text(
            spot,
            place - 0.2,
            text,
            ha="center",
            va="bottom",
            fontsize=11,
            color=INK if last else MUTED,
            fontweight="bold" if last else "normal",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},  # the dense line passes behind
        )


def apart(values: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move numbers apart as little as leaves room for their labels, in their order.

    Args:
        values: Where labels belong.
        gap: Between neighbours, at least.
        low: Where the axis begins.
        high: Where it ends.

    Returns:
        Where they stand, in the order of `values`.
    """
    order = np.argsort(values, kind="stable")
    runs: list[list[float]] = []
    for value in np.asarray(values, dtype=np.float64)[order]:
        runs.append([float(value)])
        while (
            len(runs) > 1
            and _middle(runs[-1], gap, low, high) - _middle(runs[-2], gap, low, high)
            < gap * (len(runs[-1]) + len(runs[-2])) / 2
        ):
            last = runs.pop()
            runs[-1] += last
    spots = [
        _middle(run, gap, low, high) + gap * (number - (len(run) - 1) / 2)
        for run in runs
        for number in range(len(run))
    ]
    placed = np.empty(len(values))
    placed[order] = spots
    return placed.tolist()


def _middle(run: list[float], gap: float, low: float, high: float) -> float:
    half = gap * len(run) / 2
    return float(np.clip(np.mean(run), low + half, max(high - half, low + half)))
