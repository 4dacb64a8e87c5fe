"""A report where a caller looks at it: as text on a terminal, as a part of a page in a notebook."""

from html import escape
from typing import TYPE_CHECKING

from causal_prune.report.frontier import Frontier
from causal_prune.report.frontier_words import HEADS as FRONTIER_HEADS
from causal_prune.report.frontier_words import frontier_lines, frontier_rows, frontier_table
from causal_prune.report.ladder_words import ladder_heads, ladder_rows, ladder_told
from causal_prune.report.plain_text import tables_as_text
from causal_prune.report.report import Report
from causal_prune.report.summary import summary_lines, summary_table
from causal_prune.report.tables import arm_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

HEADS = (
    "arm",
    "quality",
    "interval",
    "MACs kept",
    "params kept",
    "ONNX kept",
    "median latency",
    "against dense",
)


def as_text(report: Report) -> str:
    """The table of the arms and the sentences that go with it.

    Args:
        report: The report.

    Returns:
        Lines without control codes.
    """
    return "\n".join([tables_as_text([summary_table(report)]), "", *summary_lines(report)])


def frontier_text(frontier: Frontier) -> str:
    """The table of the sizes and the sentences that go with it.

    Args:
        frontier: What was found.

    Returns:
        Lines without control codes.
    """
    return "\n".join([tables_as_text([frontier_table(frontier)]), "", *frontier_lines(frontier)])


def frontier_html(frontier: Frontier) -> str:
    """The same as a part of a page.

    Args:
        frontier: What was found.

    Returns:
        HTML without scripts, styles or links; every text is escaped.
    """
    lines = [f"<p>{escape(line)}</p>" for line in frontier_lines(frontier)]
    return "\n".join(
        [f"<h4>{escape(frontier.title)}</h4>", _table(FRONTIER_HEADS, frontier_rows(frontier)), *lines]
    )


def as_html(report: Report) -> str:
    """The same, with the ladder, as a part of a page.

    Args:
        report: The report.

    Returns:
        HTML without scripts, styles or links; every text is escaped.
    """
    rows = [
        (
            row.label,
            row.quality,
            row.interval,
            row.macs_kept,
            row.params_kept,
            row.bytes_kept,
            row.latency,
            row.speedup,
        )
        for row in arm_rows(report)
        if row.kind != "member"
    ]
    parts = [
        f"<h4>{escape(report.title)}</h4>",
        *(f"<p>{escape(line)}</p>" for line in summary_lines(report)),
    ]
    parts.append(_table((HEADS[0], f"test {report.yardstick.heading}", *HEADS[2:]), rows))
    if report.ladder is not None:
        parts += [f"<p>{escape(ladder_told(report))}</p>", _table(ladder_heads(report), ladder_rows(report))]
    return "\n".join(parts)


def _table(heads: "Sequence[str]", rows: "Sequence[Sequence[str]]") -> str:
    first = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>\n<tr>{first}</tr>\n{body}\n</table>"
