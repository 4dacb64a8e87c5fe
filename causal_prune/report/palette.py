"""Colours, marks and type that all figures of a report share."""

from typing import Any

# Okabe and Ito's palette: told apart by readers with any common kind of colour vision
INK, MUTED, MIDDLE, FAINT = "#1f2933", "#66717c", "#9aa5b1", "#dde2e7"
BLUE, ORANGE, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#a2558c"
LOOKS = {
    "dense": (INK, "s"),
    "causal": (BLUE, "o"),
    "causal-removed": (BLUE, "D"),
    "random": (ORANGE, "o"),
    "magnitude": (GREEN, "^"),
}
OTHER_LOOK = (PURPLE, "v")
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": "#e6eaee",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "legend.columnspacing": 1.4,
    "legend.fontsize": 10,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
}
WIDTH = 6.4  # inches; two figures stand side by side on a wide screen
