"""A graph as tables for the terminal and as text."""

from io import StringIO
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console
from torch import nn

from causal_prune.report.plain_text import tables_as_text
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.graph_tables import inspection_tables, plain_table
from causal_prune.tracing.network_trace import trace

if TYPE_CHECKING:
    from rich.table import Table


def cells(table: "Table") -> dict[str, list[str]]:
    """What a table holds, by heading."""
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


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


def test_a_graph_prints_as_its_tables(graph: FilterGraph) -> None:
    text = str(graph)
    assert text == tables_as_text(inspection_tables(graph)) and "\x1b" not in text
    for told in ("What is cut together", "Layers", "What is not cut", "frozen by the caller"):
        assert told in text
    assert not any(line.endswith(" ") for line in text.splitlines())
    assert repr(graph).startswith("FilterGraph(")


def test_numbers_have_columns_of_their_own() -> None:
    table = plain_table("title", "name", numbers=("ms",))
    assert [(column.header, column.justify) for column in table.columns] == [
        ("name", "left"),
        ("ms", "right"),
    ]
