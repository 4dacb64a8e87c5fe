"""The figure of drift: how far the maps of each network agree with those of the dense one."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator

from causal_prune.report.map_drift import MapDrift, NetworkDrift
from causal_prune.report.palette import INK, LOOKS, MUTED, OTHER_LOOK, WIDTH
from causal_prune.report.wording import plural

if TYPE_CHECKING:
    from causal_prune.report.report import Report

MEASURES = (
    ("spearman", "rank correlation"),
    ("iou", "overlap of the\nlargest fifths"),
    ("pointing", "same place"),
)


def drift_by_network(report: "Report") -> tuple[Figure | None, str]:
    """Draw the three measures of drift, one row per arm, between the floor and what repeating the maps gives.

    Args:
        report: The report.

    Returns:
        The figure, or None where no drift was measured; and its caption.
    """
    if not report.drifts:
        return None, "Left out: no drift was measured in this run."
    rows = [_rows(drift) for drift in report.drifts]
    height = 0.9 + sum(0.55 + 0.26 * len(each) for each in rows)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.subplots(
        len(rows), 3, sharex="col", squeeze=False, height_ratios=[len(each) + 1 for each in rows]
    )
    for line, (drift, named) in enumerate(zip(report.drifts, rows, strict=True)):
        for axes, (measure, title) in zip(grid[line], MEASURES, strict=True):
            _panel(axes, named, measure)
            if line == len(rows) - 1:
                axes.set_xlabel(f"{title} →", fontsize=9)
        grid[line, 0].set_title(drift.method, fontsize=10, loc="left")
        grid[line, 0].set_yticks(range(len(named)), [name for name, _, _ in named], fontsize=9)
    return figure, (
        "Maps of each network against those of the dense one, means over up to "
        f"{plural(report.drifts[0].images, 'test image')} that both classify alike; to the right is closer. Grey: what "
        "a network with its weights in random order reaches, and the dense network's own maps drawn a second time."
    )


def _rows(drift: MapDrift) -> list[tuple[str, str, tuple[NetworkDrift, ...]]]:
    """Label, kind and networks of every row; the seeds of random share one."""
    names = list(dict.fromkeys(each.name for each in drift.networks))
    arms = [(name, name, tuple(each for each in drift.networks if each.name == name)) for name in names]
    return [("dense again", "", (drift.repeated,)), *arms, ("unlearned", "", (drift.unlearned,))]


def _panel(axes: Axes, rows: list[tuple[str, str, tuple[NetworkDrift, ...]]], measure: str) -> None:
    for place, (_, kind, networks) in enumerate(rows):
        values = [value for each in networks if (value := getattr(each, measure)) is not None]
        color, marker = LOOKS.get(kind, OTHER_LOOK) if kind else (MUTED, "|")
        hollow = len(networks) > 1
        axes.plot(
            values,
            [place] * len(values),
            linestyle="none",
            marker=marker,
            color=color,
            markersize=11 if not kind else 6,
            markeredgewidth=2 if not kind else 1.3,
            markerfacecolor="white" if hollow else color,
        )
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    drawn = [value for line in axes.lines for value in np.asarray(line.get_xdata(), dtype=np.float64)]
    axes.set_xlim(min([-0.05, *(value - 0.1 for value in drawn)]), 1.05)
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.grid(True, axis="x")
    axes.tick_params(labelsize=9)
    axes.xaxis.set_major_locator(MultipleLocator(0.5))
