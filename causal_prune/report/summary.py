"""The summary for the terminal: a table of the arms and the sentences that go with it."""

from textwrap import wrap
from typing import TYPE_CHECKING

from causal_prune.report.report import Report
from causal_prune.report.tables import arm_rows
from causal_prune.report.verdict import headline
from causal_prune.report.wording import conditions

if TYPE_CHECKING:
    from rich.table import Table


def summary_lines(report: Report) -> list[str]:
    """Say in plain lines what came out.

    Args:
        report: The report.

    Returns:
        What became of the network and whether that was asked; then whether the choice was worth more than chance.
    """
    return list(headline(report))


def summary_table(report: Report) -> "Table":
    """Lay out the arms for the terminal: dense, causal, random as mean and spread, the others.

    Args:
        report: The report.

    Returns:
        A rich table of at most 80 columns.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(report.title),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=f"random: mean ± sd and range over its seeds; latency: {conditions(report.causal)}",
        caption_justify="left",
    )
    table.add_column("arm", no_wrap=True)
    for heading in (_judged(report), "MACs\nkept", "params\nkept", "ONNX\nkept", "median\nms"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("against\ndense", justify="right", max_width=12)
    for row in arm_rows(report):
        if row.kind == "member":
            continue
        detail = row.counted if row.kind == "summary" else row.detail
        table.add_row(
            f"{escape(row.label)}\n[dim]{escape(detail)}[/]",
            f"{row.quality}\n{row.interval.removeprefix('range ')}",
            f"{row.macs}\n{row.macs_kept}",
            f"{row.params}\n{row.params_kept}",
            f"{row.onnx_size}\n{row.bytes_kept}",
            row.latency.removesuffix(" ms"),
            row.speedup,
            style="bold" if row.label == "causal" else None,
        )
    return table


def _judged(report: Report) -> str:
    """The heading of the quality, in lines that leave room for the other columns."""
    return "\n".join((*wrap(f"test {report.yardstick.heading}", 16), "95 % interval"))
