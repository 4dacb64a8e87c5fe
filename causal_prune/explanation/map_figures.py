"""Pictures of two networks' maps beside the image that they explain."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from causal_prune.explanation.response_maps import ROUNDING, Array, is_constant

CELL, TEXT_LINE = 1.5, 0.16
"""Inches of a picture's side, and of a line of text above it."""
LETTERS = 24
"""Of a line above a picture."""
STRENGTH, SIGNED = "viridis", "RdBu_r"


@dataclass(frozen=True)
class MapRow:
    """An image and what two networks look at in it.

    Attributes:
        image: Colours, shape (H, W, 3), 0 to 1.
        caption: What stands above the image, some short lines.
        first: The dense network's map, shape (height, width); None where only images are shown.
        second: The compressed network's.
        remark: What stands above the difference.
    """

    image: Array
    caption: str
    first: Array | None = None
    second: Array | None = None
    remark: str = ""

    @property
    def maps(self) -> tuple[Array, ...]:
        """Both maps, or none."""
        return () if self.first is None or self.second is None else (self.first, self.second)


def map_figure(
    rows: Sequence[MapRow],
    *,
    heads: tuple[str, str] = ("dense", "compressed"),
    difference: bool = True,
    across: int = 1,
) -> Figure:
    """Draw images beside the maps of two networks.

    Both maps of an image have one scale: from 0 to the largest value of the two, or of the same reach on both sides of
    0 where a value is negative. The difference (second - first) has the reach that it can have, on both sides of 0.

    Args:
        rows: At least one; all with maps, or all without.
        heads: What stands above the maps.
        difference: Whether to draw it.
        across: Images beside each other.

    Returns:
        The figure.

    Example:
        >>> flat = np.zeros((4, 4))
        >>> len(map_figure([MapRow(np.zeros((4, 4, 3)), "3", flat, flat + 1)]).axes)
        6
    """
    width = 1 if not rows[0].maps else 4 if difference else 3
    lines = -(-len(rows) // across)
    text = max(row.caption.count("\n") + 1 for row in rows)
    legend = 0.75 if rows[0].maps else 0.0
    size = (across * width * CELL + 0.2, lines * (CELL + text * TEXT_LINE) + legend)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(lines, across * width, squeeze=False)
    for axes in grid.ravel():
        axes.axis("off")
    signed = any(_signed(each) for row in rows for each in row.maps)
    for number, row in enumerate(rows):
        line, place = divmod(number, across)
        _draw([*grid[line, place * width : (place + 1) * width]], row, heads, signed=signed)
    if rows[0].maps:
        _legend(figure, grid, difference=difference, signed=signed, heads=heads)
    return figure


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole; the same figure gives the same bytes on every matplotlib.

    Args:
        figure: From `map_figure`.
        path: The file.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)  # a name in another script
        figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


def _draw(cells: Sequence[Axes], row: MapRow, heads: tuple[str, str], *, signed: bool) -> None:
    cells[0].imshow(row.image, interpolation="nearest")
    cells[0].set_title(_lines(row.caption), fontsize=8, loc="left", parse_math=False)
    if not row.maps:
        return
    reach = max(float(np.abs(values).max()) for values in row.maps) or 1.0
    scale = (-reach, reach) if signed else (min(0.0, *(float(values.min()) for values in row.maps)), reach)
    for axes, values, head in zip(cells[1:3], row.maps, heads, strict=True):
        axes.imshow(values, cmap=SIGNED if signed else STRENGTH, vmin=scale[0], vmax=scale[1])
        axes.set_title(f"{head} (constant)" if is_constant(values) else head, fontsize=8)
    if len(cells) == 4:
        most = 2 * reach if signed else reach
        cells[3].imshow(row.maps[1] - row.maps[0], cmap=SIGNED, vmin=-most, vmax=most)
        cells[3].set_title(row.remark or "difference", fontsize=8)


def _lines(caption: str) -> str:
    """A caption whose lines fit above a picture."""
    lines = caption.split("\n")
    return "\n".join(line if len(line) <= LETTERS else f"{line[: LETTERS - 1]}…" for line in lines)


def _signed(values: Array) -> bool:
    return bool(values.min() < -ROUNDING * np.abs(values).max())


def _legend(
    figure: Figure, grid: "np.ndarray", *, difference: bool, signed: bool, heads: tuple[str, str]
) -> None:
    """What colours mean: one bar for the maps, one for the difference."""
    maps = "speaks against  ←  0  →  speaks for" if signed else "weak  →  strong"
    bars = [(SIGNED if signed else STRENGTH, f"maps: {maps}")]
    if difference:
        bars.append((SIGNED, f"difference: {heads[1]} less  ←  0  →  more"))
    for name, label in bars:
        bar = figure.colorbar(
            ScalarMappable(Normalize(-1, 1), name),
            ax=list(grid.ravel()),
            location="bottom",
            aspect=60,
            shrink=0.8,
            pad=0.01,
        )
        bar.set_ticks([])
        bar.set_label(label, fontsize=8)
        bar.outline.set_visible(False)
