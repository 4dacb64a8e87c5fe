"""Tables and lines for the terminal."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from causal_prune.command_line.tables import bench_entries, bench_table, dry_run_lines
from causal_prune.measure.latency import Latency, measure_latency
from causal_prune.report.report import LayerWidths
from causal_prune.report.target import Target

if TYPE_CHECKING:
    from rich.table import Table


def cells(table: "Table") -> dict[str, list[str]]:
    """What a table holds, by heading."""
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def layer(name: str, before: int, after: int, frozen: str | None = None) -> LayerWidths:
    return LayerWidths(name=name, filters_before=before, frozen=frozen, filters_after=after)


def test_a_dry_run_names_the_layers_that_would_be_cut_then_the_target() -> None:
    layers = [
        layer("a", 8, 5),
        layer("b", 16, 16),
        layer("c", 4, 4, "frozen by the caller"),
        layer("d", 3, 1),
    ]
    assert list(dry_run_lines(Target("keep_macs", 0.5, 0.49874), layers)) == [
        "a: 8 -> 5 filters",
        "d: 3 -> 1 filters",
        "keep_macs: requested 0.500, planned 0.499; nothing was written",
    ]


def test_a_dry_run_that_cuts_nothing_still_tells_the_target() -> None:
    assert list(dry_run_lines(Target("remove_filters", 0.1, 0.0), [])) == [
        "remove_filters: requested 0.100, planned 0.000; nothing was written"
    ]


def timed(*files: Path) -> dict[str, Latency]:
    return measure_latency({str(file): file for file in files}, threads=1, batch=3, seconds=0.02)


def test_two_files_are_timed_side_by_side(write_onnx: Callable[..., Path]) -> None:
    first, second = write_onnx("a.onnx"), write_onnx("b.onnx")
    table, told = bench_table(timed(first, second), threads=1, batch=3)
    assert table.title == "1 thread(s), batch 3, interleaved"
    found = cells(table)
    assert found["file"] == ["1", "2"]
    assert told == [f"1: {first}", f"2: {second}"], "the names would not fit"
    against = found["against the first"]
    assert against[0] == "1.00x as fast"
    median = [float(text) for text in found["median ms"]]
    assert float(against[1].removesuffix("x as fast")) == pytest.approx(median[0] / median[1], rel=0.02)
    quantiles = zip(median, found["p90 ms"], found["p99 ms"], strict=True)
    assert all(0 < m <= float(p90) <= float(p99) for m, p90, p99 in quantiles)
    assert all(float(text) >= 0 for text in found["IQR ms"])


def test_one_file_is_timed_alone(write_onnx: Callable[..., Path]) -> None:
    file = write_onnx("a.onnx")
    table, told = bench_table(timed(file), threads=2, batch=1, width=300)
    assert table.title == "2 thread(s), batch 1, interleaved"
    assert told == []
    assert cells(table)["file"] == [str(file)] and cells(table)["against the first"] == ["1.00x as fast"]


def test_entries_are_the_same_as_numbers(write_onnx: Callable[..., Path]) -> None:
    first, second = write_onnx("a.onnx"), write_onnx("b.onnx")
    latencies = timed(first, second)
    entries = bench_entries(latencies)
    assert list(entries) == [str(first), str(second)] and entries[str(first)]["speedup"] == 1
    assert entries[str(second)]["median_ms"] == latencies[str(second)].median
    json.dumps(entries)


@pytest.mark.parametrize("width", [40, 60, 80, 120, 300])
def test_no_name_of_a_file_is_broken_at_any_width(write_onnx: Callable[..., Path], width: int) -> None:
    found = timed(write_onnx("a.onnx"), write_onnx("a rather long name of a model.onnx"))
    table, told = bench_table(found, threads=1, batch=3, width=width)
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    text = "\n".join([*told, file.getvalue()])
    assert "…" not in text and all(name in text for name in found)
