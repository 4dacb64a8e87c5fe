"""A graph as tables for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from causal_prune.tracing.filter_graph import FilterGraph

if TYPE_CHECKING:
    from rich.table import Table

NUMBERS = ("units", "filters", "inputs", "MACs")


def inspection_tables(graph: FilterGraph) -> "tuple[Table, ...]":
    """Lay out a graph for the terminal.

    Args:
        graph: From `trace`.

    Returns:
        Tables of the groups, of the layers, of what is frozen, and of what is silent where something is.
    """
    groups = plain_table("What is cut together", "group", "units", "producers", "passengers", "consumers")
    for group in graph.prunable:
        groups.add_row(
            f"{group.name}{' (approximate)' if group.approximate else ''}",
            str(group.size),
            *(
                "\n".join(dict.fromkeys(member.layer for member in group.of_role(role)))
                for role in ("producer", "passenger", "consumer")
            ),
        )
    layers = plain_table("Layers", "layer", "kind", "filters", "inputs", "MACs", "parents")
    for name, layer in graph.layers.items():
        if layer.inputs:
            layers.add_row(
                name,
                layer.kind,
                str(layer.filters),
                str(layer.inputs),
                f"{layer.macs:,}",
                "\n".join(layer.parents) or "the input",
            )
    for name, other in graph.others.items():
        if other.macs:
            layers.add_row(name or "(the network itself)", "other", "", "", f"{other.macs:,}", "")
    for operation in graph.uncounted:
        layers.add_row(operation, "other", "", "", "not counted", "")
    frozen = plain_table("What is not cut", "frozen layer", "reason")
    for name, reason in graph.frozen.items():
        frozen.add_row(name, reason)
    silent = plain_table(
        "What is silent already: run --remove-silent lets it go", "group", "silent", "can go"
    )
    for group in graph.prunable:
        if units := graph.silence.units.get(group.name):
            gone = group.size - len(graph.silence.kept.get(group.name, range(group.size)))
            silent.add_row(group.name, f"{len(units)} of {group.size}", str(gone))
    return (groups, layers, frozen, silent) if silent.rows else (groups, layers, frozen)


def plain_table(title: str, *columns: str, numbers: Sequence[str] = ()) -> "Table":
    """An empty table for the terminal, without lines between its columns.

    Args:
        title: Above it.
        *columns: Headings of texts, which fold; numbers among them stand at the right where their heading says so.
        numbers: Headings of further columns, of numbers.

    Returns:
        The table.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in NUMBERS else "left")
    for column in numbers:
        table.add_column(column, overflow="fold", justify="right")
    return table
