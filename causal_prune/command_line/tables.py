"""Tables and lines for the terminal."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from causal_prune.measure import Latency, speedup
from causal_prune.report import LayerWidths, MapDrift, Target, drift_table
from causal_prune.tracing import GraphDifference, plain_table

if TYPE_CHECKING:
    from rich.table import Table


DRIFT_HEADS = ("rank corr.", "overlap", "place", "images", "const.", "differ")
BENCH_COLUMNS = 63
"""What the table of `bench` takes beside the names of its files."""
BENCH_HEADS = ("median ms", "IQR ms", "p90 ms", "p99 ms", "against the first")


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


def drift_lines(drifts: Iterable[MapDrift]) -> "Table":
    """Lay out how far maps drifted.

    Args:
        drifts: By method.

    Returns:
        A table, with a part for each method.
    """
    table = plain_table("Do the networks look at the same things?", "maps of", numbers=DRIFT_HEADS)
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
    table = plain_table("Where torch-pruning's graph differs", "layer", "labels", "torch-pruning")
    for each in found:
        table.add_row(each.layer, each.labels, each.torch_pruning)
    if not table.rows:
        table.add_row("", "the two graphs agree", "")
    return table


def bench_table(
    latencies: Mapping[str, Latency], *, threads: int, batch: int, width: int = 80
) -> "tuple[Table, list[str]]":
    """Lay out the latencies of files that were timed side by side.

    Args:
        latencies: By file; the first is the reference.
        threads: Of ONNX Runtime.
        batch: Images per run.
        width: Of the terminal, in columns.

    Returns:
        A table with the median, quantiles and the ratio of the medians; and lines that say which file a row stands for
        where the names would not fit into it whole.
    """
    from rich.table import Table

    fits = max(map(len, latencies)) + BENCH_COLUMNS <= width
    table = Table(title=f"{threads} thread(s), batch {batch}, interleaved", title_justify="left")
    table.add_column("file", no_wrap=fits)
    for head in BENCH_HEADS:
        table.add_column(head, justify="right", overflow="fold")
    for place, (name, entry) in enumerate(bench_entries(latencies).items(), start=1):
        table.add_row(
            name if fits else str(place),
            f"{entry['median_ms']:.4g}",
            f"{entry['iqr_ms']:.2g}",
            f"{entry['p90_ms']:.4g}",
            f"{entry['p99_ms']:.4g}",
            f"{entry['speedup']:.2f}x as fast",
        )
    return table, [] if fits else [f"{place}: {name}" for place, name in enumerate(latencies, start=1)]


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
