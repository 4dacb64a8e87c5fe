"""The frontier as a table, as sentences and as a picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from causal_prune.report.frontier import Frontier, FrontierSize
from causal_prune.report.palette import BLUE, INK, LOOKS, STYLE, WIDTH
from causal_prune.report.tables import spread_of
from causal_prune.report.wording import kept, milliseconds, percent, plural, quantity
from causal_prune.report.yardstick import NONE

if TYPE_CHECKING:
    from rich.table import Table

HEADS = (
    "MACs kept",
    "parameters",
    "ONNX",
    "median ms",
    "speed",
    "causal",
    "lost at most",
    "random",
    "magnitude",
)


def frontier_rows(frontier: Frontier) -> list[tuple[str, ...]]:
    """Write the sizes as cells, the dense network first.

    Args:
        frontier: What was found.

    Returns:
        Rows with a cell for each of `HEADS`; of a size that cannot be reached the first cell says what was asked.
    """
    return [_row(frontier, size) for size in (frontier.dense, *frontier.sizes)]


def _row(frontier: Frontier, size: FrontierSize) -> tuple[str, ...]:
    yardstick = frontier.yardstick.in_columns
    if size.unreached is not None:
        return (f"{percent(size.keep, 1)} asked", *[NONE] * (len(HEADS) - 1))
    bytes_ = quantity(size.onnx_bytes)
    return (
        kept(size.macs, frontier.dense.macs),
        quantity(size.params),
        bytes_ if size.onnx_bytes is None else f"{bytes_}B",
        milliseconds(size.median_ms),
        NONE if size.speedup is None else f"{size.speedup:.2f}x",
        yardstick.text(None if size.causal is None else size.causal.quality),
        NONE if size.at_most is None else yardstick.signed(size.at_most),
        *(spread_of(size.quality_of(name), yardstick) for name in ("random", "magnitude")),
    )


def frontier_lines(frontier: Frontier) -> list[str]:
    """Say which size is taken, and what the numbers are.

    Args:
        frontier: What was found.

    Returns:
        Sentences; the last one is the command that makes the size that is taken.
    """
    yardstick = frontier.yardstick
    limit, sure = yardstick.change(frontier.max_drop).removeprefix("+"), percent(frontier.confidence, 0)
    judged = (
        f"{yardstick.name.capitalize()} of {plural(frontier.images, f'validation {yardstick.item}')}, without "
        f"training; what is lost at most, with {sure} confidence. Test {yardstick.item}s were not read."
    )
    lines = [
        judged,
        *(f"{percent(each.keep, 1)}: {each.unreached}" for each in frontier.sizes if each.unreached),
    ]
    if frontier.taken is None:
        return [
            *lines,
            f"Take none of these sizes: all may lose more than {limit}. Fine-tune, or allow more.",
        ]
    size = frontier.sizes[frontier.taken]
    pace = "" if size.speedup is None else f", {size.speedup:.2f}x as fast"
    lines.append(
        f"Take {kept(size.macs, frontier.dense.macs)} of the MACs{pace}: the smallest of these that loses at most "
        f"{limit} of {yardstick.name} with {sure} confidence."
    )
    return [*lines, *([frontier.makes] if frontier.makes else [])]


def frontier_table(frontier: Frontier) -> "Table":
    """Lay out the sizes for the terminal.

    Args:
        frontier: What was found.

    Returns:
        A rich table; the size that is taken is bold.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(f"{frontier.title}: size against {frontier.yardstick.heading} and speed"),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    heads = ("MACs kept\nparams", "ONNX\nmedian ms", "speed", "causal\nat most lost", "random", "magnitude")
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for place, row in enumerate(frontier_rows(frontier), start=-1):
        macs, params, size, ms, speed, causal, lost, random, magnitude = row
        cells = (
            f"{macs}\n{params}",
            f"{size}\n{ms}",
            speed,
            f"{causal}\n{lost}",
            random.replace(" ± ", "\n± "),
        )
        table.add_row(*cells, magnitude, style="bold" if place == frontier.taken else None)
    return table


def frontier_markdown(frontier: Frontier) -> str:
    """The same as text of a file.

    Args:
        frontier: What was found.

    Returns:
        Markdown.
    """
    lines = [f"# {frontier.title}: size against {frontier.yardstick.heading} and speed", ""]
    lines += [
        "| " + " | ".join(HEADS) + " |",
        "|" + " ---: |" * len(HEADS),
    ]
    lines += ["| " + " | ".join(row) + " |" for row in frontier_rows(frontier)]
    told = frontier_lines(frontier)
    lines += ["", "![size against quality and speed](frontier.png)", ""]
    lines += [f"`{line}`" if line == frontier.makes else line + "\n" for line in told]
    return "\n".join([*lines, "", *(f"- {note}" for note in frontier.notes)]).rstrip() + "\n"


def draw_frontier(frontier: Frontier, path: Path) -> None:
    """Draw quality against the MACs that are kept, and against the median latency.

    Args:
        frontier: What was found.
        path: Of the PNG file.
    """
    with matplotlib.rc_context(STYLE):
        timed = frontier.dense.median_ms is not None
        figure = Figure(figsize=(WIDTH, 6.6 if timed else 3.9), layout="constrained")
        panels = figure.subplots(2 if timed else 1, 1, squeeze=False)[:, 0]
        whole = frontier.dense.macs or 1
        _panel(panels[0], frontier, [100 * (size.macs or 0) / whole for size in _reached(frontier)])
        panels[0].set_xlabel("MACs kept (%)")
        if timed:
            _panel(panels[1], frontier, [size.median_ms or np.nan for size in _reached(frontier)])
            panels[1].set_xlabel(
                f"median latency (ms, ONNX Runtime, {plural(frontier.threads, 'thread')})  ← faster"
            )
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _reached(frontier: Frontier) -> list[FrontierSize]:
    return [size for size in (frontier.dense, *frontier.sizes) if size.unreached is None]


def _panel(axes: Axes, frontier: Frontier, places: list[float]) -> None:
    yardstick, sizes = frontier.yardstick, _reached(frontier)
    for name in ("random", "magnitude"):
        found = [
            (x, size.quality_of(name)) for x, size in zip(places, sizes, strict=True) if size.quality_of(name)
        ]
        if found:
            color, marker = LOOKS[name]
            means = [yardstick.scale * float(np.mean(values)) for _, values in found]
            axes.plot(
                [x for x, _ in found],
                means,
                color=color,
                marker=marker,
                linewidth=1.6,
                linestyle="--",
                label=name,
            )
    causal = [(x, size.causal) for x, size in zip(places, sizes, strict=True) if size.causal is not None]
    values = np.array([yardstick.scale * arm.quality for _, arm in causal])
    bounds = yardstick.scale * np.array([arm.ci95 for _, arm in causal])
    spans = np.abs(bounds.T - values)
    line: dict[str, Any] = {"color": BLUE, "marker": "o", "linewidth": 2.2, "label": "causal"}
    axes.errorbar([x for x, _ in causal], values, yerr=spans, elinewidth=1, capsize=3, **line)
    if frontier.taken is not None:
        place = _reached(frontier).index(frontier.sizes[frontier.taken])
        ring: dict[str, Any] = {
            "markersize": 15,
            "markerfacecolor": "none",
            "markeredgecolor": INK,
            "linestyle": "none",
        }
        axes.plot(causal[place][0], values[place], marker="o", label="taken", **ring)
    unit = f" ({yardstick.unit})" if yardstick.unit else ""
    axes.set_ylabel(f"validation {yardstick.name}{unit}")
    axes.grid(True)
