"""Tables and lines for the terminal."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from causal_prune.measure import Latency, speedup
from causal_prune.report import LayerWidths, MapDrift, Target, drift_table
from causal_prune.tracing import FilterGraph, GraphDifference

if TYPE_CHECKING:
    from rich.table import Table


DRIFT_HEADS = ("rank corr.", "overlap", "place", "images", "const.", "differ")
_NUMBERS = {
    *DRIFT_HEADS,
    "units",
    "filters",
    "inputs",
    "MACs",
    "median ms",
    "IQR ms",
    "p90 ms",
    "p99 ms",
    "against the first",
}


def dry_run_lines(target: Target, layers: Iterable[LayerWidths]) -> Iterator[str]:
    """Describe what would be cut.

    Args:
        target: What was asked and planned.
        layers: The widths.

    Yields:
        One line per layer that would be cut, then the target.
    """
    for layer in layers:
        if layer.filters_after < layer.filters_before:
            yield f"{layer.name}: {layer.filters_before} -> {layer.filters_after} filters"
    yield (
        f"{target.kind}: requested {target.requested:.3f}, planned {target.achieved:.3f}; nothing was written"
    )


def inspection_tables(graph: FilterGraph) -> "tuple[Table, ...]":
    """Lay out a graph for the terminal.

    Args:
        graph: From `trace`.

    Returns:
        Tables of the groups, of the layers, of what is frozen, and of what is silent where something is.
    """
    groups = _table("What is cut together", "group", "units", "producers", "passengers", "consumers")
    for group in graph.prunable:
        groups.add_row(
            f"{group.name}{' (approximate)' if group.approximate else ''}",
            str(group.size),
            *(
                "\n".join(dict.fromkeys(member.layer for member in group.of_role(role)))
                for role in ("producer", "passenger", "consumer")
            ),
        )
    layers = _table("Layers", "layer", "kind", "filters", "inputs", "MACs", "parents")
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
    frozen = _table("What is not cut", "frozen layer", "reason")
    for name, reason in graph.frozen.items():
        frozen.add_row(name, reason)
    silent = _table("What is silent already: run --remove-silent lets it go", "group", "silent", "can go")
    for group in graph.prunable:
        if units := graph.silence.units.get(group.name):
            gone = group.size - len(graph.silence.kept.get(group.name, range(group.size)))
            silent.add_row(group.name, f"{len(units)} of {group.size}", str(gone))
    return (groups, layers, frozen, silent) if silent.rows else (groups, layers, frozen)


def drift_lines(drifts: Iterable[MapDrift]) -> "Table":
    """Lay out how far maps drifted.

    Args:
        drifts: By method.

    Returns:
        A table, with a part for each method.
    """
    table = _table("Do the networks look at the same things?", "maps of", *DRIFT_HEADS)
    for drift in drifts:
        table.add_row(f"[bold]{drift.method}[/]", *[""] * len(DRIFT_HEADS))
        for name, *cells in drift_table(drift):
            table.add_row(name, *cells[: len(DRIFT_HEADS)])
        table.add_section()
    return table


def differences_table(found: Iterable[GraphDifference]) -> "Table":
    """Lay out where two graphs differ.

    Args:
        found: From `differences`.

    Returns:
        A table; one row says so where they do not.
    """
    table = _table("Where torch-pruning's graph differs", "layer", "labels", "torch-pruning")
    for each in found:
        table.add_row(each.layer, each.labels, each.torch_pruning)
    if not table.rows:
        table.add_row("", "the two graphs agree", "")
    return table


def _table(title: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in _NUMBERS else "left")
    return table


def bench_table(latencies: Mapping[str, Latency], *, threads: int, batch: int) -> "Table":
    """Lay out the latencies of files that were timed side by side.

    Args:
        latencies: By file; the first is the reference.
        threads: Of ONNX Runtime.
        batch: Images per run.

    Returns:
        A table with the median, quantiles and the ratio of the medians.
    """
    table = _table(
        f"{threads} thread(s), batch {batch}, interleaved",
        "file",
        "median ms",
        "IQR ms",
        "p90 ms",
        "p99 ms",
        "against the first",
    )
    for name, entry in bench_entries(latencies).items():
        table.add_row(
            name,
            f"{entry['median_ms']:.4g}",
            f"{entry['iqr_ms']:.2g}",
            f"{entry['p90_ms']:.4g}",
            f"{entry['p99_ms']:.4g}",
            f"{entry['speedup']:.2f}x as fast",
        )
    return table


def bench_entries(latencies: Mapping[str, Latency]) -> dict[str, dict[str, float]]:
    """The same as plain numbers.

    Args:
        latencies: By file; the first is the reference.

    Returns:
        By file: milliseconds, and the speed as a multiple of the first one's.
    """
    reference = next(iter(latencies.values()))
    return {
        name: {
            "median_ms": latency.median,
            "iqr_ms": latency.iqr,
            "p90_ms": latency.p90,
            "p99_ms": latency.p99,
            "speedup": speedup(reference, latency),
        }
        for name, latency in latencies.items()
    }
