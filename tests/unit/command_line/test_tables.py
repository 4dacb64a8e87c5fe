"""Tables and lines for the terminal."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console
from torch import nn

from causal_prune.command_line.tables import bench_entries, bench_table, dry_run_lines, inspection_tables
from causal_prune.measure.latency import Latency, measure_latency
from causal_prune.report.report import LayerWidths
from causal_prune.report.target import Target
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace

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


@pytest.fixture
def graph() -> FilterGraph:
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 64, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(256, 5),
    )  # fmt: skip
    return trace(net, torch.zeros(2, 3, 6, 6), freeze=("3",))


def test_the_tables_of_a_graph_hold_groups_layers_and_what_is_frozen(graph: FilterGraph) -> None:
    groups, layers, frozen = inspection_tables(graph)
    assert cells(groups) == {
        "group": ["0"], "units": ["6"], "producers": ["0"], "passengers": ["1"], "consumers": ["3"],
    }  # fmt: skip
    assert cells(layers) == {
        "layer": ["0", "3", "6"],
        "kind": ["conv", "conv", "linear"],
        "filters": ["6", "64", "5"],
        "inputs": ["3", "6", "256"],
        "MACs": ["2,592", "13,824", "1,280"],  # 6*3*9*16, 64*6*9*4, 256*5
        "parents": ["the input", "0", "3"],
    }
    assert cells(frozen) == {
        "frozen layer": ["3", "6"],
        "reason": ["frozen by the caller", "produces an output of the network"],
    }
    titles = [table.title for table in (groups, layers, frozen)]
    assert titles == ["What is cut together", "Layers", "What is not cut"]


def test_numbers_stand_at_the_right(graph: FilterGraph) -> None:
    _, layers, _ = inspection_tables(graph)
    right = [column.header for column in layers.columns if column.justify == "right"]
    assert right == ["filters", "inputs", "MACs"]


def test_layers_that_share_a_role_stand_below_each_other() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.c(self.a(x) + self.b(x))
            return out

    groups, layers, _ = inspection_tables(trace(Sum(), torch.zeros(1, 1, 4, 4)))
    assert cells(groups)["producers"] == ["a\nb"] and cells(groups)["passengers"] == [""]
    assert cells(layers)["parents"] == ["the input", "the input", "a\nb"]


def test_a_group_that_is_cut_approximately_says_so() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    groups, _, _ = inspection_tables(trace(net, torch.zeros(1, 1, 6, 6)))
    assert cells(groups)["group"] == ["0 (approximate)"]


def test_long_names_are_folded_and_not_cut_off(graph: FilterGraph) -> None:
    console = Console(width=40, record=True, file=StringIO())
    for table in inspection_tables(graph):
        console.print(table)
    assert "…" not in console.export_text()


def timed(*files: Path) -> dict[str, Latency]:
    return measure_latency({str(file): file for file in files}, threads=1, batch=3, seconds=0.02)


def test_two_files_are_timed_side_by_side(write_onnx: Callable[..., Path]) -> None:
    first, second = write_onnx("a.onnx"), write_onnx("b.onnx")
    table = bench_table(timed(first, second), threads=1, batch=3)
    assert table.title == "1 thread(s), batch 3, interleaved"
    found = cells(table)
    assert found["file"] == [str(first), str(second)]
    against = found["against the first"]
    assert against[0] == "1.00x as fast"
    median = [float(text) for text in found["median ms"]]
    assert float(against[1].removesuffix("x as fast")) == pytest.approx(median[0] / median[1], rel=0.02)
    quantiles = zip(median, found["p90 ms"], found["p99 ms"], strict=True)
    assert all(0 < m <= float(p90) <= float(p99) for m, p90, p99 in quantiles)
    assert all(float(text) >= 0 for text in found["IQR ms"])


def test_one_file_is_timed_alone(write_onnx: Callable[..., Path]) -> None:
    file = write_onnx("a.onnx")
    table = bench_table(timed(file), threads=2, batch=1)
    assert table.title == "2 thread(s), batch 1, interleaved"
    assert cells(table)["file"] == [str(file)] and cells(table)["against the first"] == ["1.00x as fast"]


def test_entries_are_the_same_as_numbers(write_onnx: Callable[..., Path]) -> None:
    first, second = write_onnx("a.onnx"), write_onnx("b.onnx")
    latencies = timed(first, second)
    entries = bench_entries(latencies)
    assert list(entries) == [str(first), str(second)] and entries[str(first)]["speedup"] == 1
    assert entries[str(second)]["median_ms"] == latencies[str(second)].median
    json.dumps(entries)
