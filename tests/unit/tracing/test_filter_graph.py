"""A filter graph written down by hand: what keeping some units asks of layers, parameters and adapters."""

import json
from dataclasses import replace
from itertools import combinations

import pytest

from causal_prune.surgery.cuts import AdapterCut, LayerCut, ParameterCut
from causal_prune.tracing.filter_graph import Adapter, Axis, FilterGraph, Group, Layer, Member, Role


def member(
    layer: str,
    role: Role,
    axis: Axis,
    units: tuple[int, ...],
    *,
    start: int = 0,
    extent: int | None = None,
    dim: int | None = None,
) -> Member:
    """A member whose positions follow each other."""
    positions = tuple(range(start, start + len(units)))
    return Member(layer, role, axis, dim, extent or len(units), positions, units)


def layer(filters: int, inputs: int, *parents: str) -> Layer:
    return Layer("conv" if inputs else "norm", filters, inputs, "dense", 1, 10, 20, parents)


A = Group(
    "a", 3,
    (
        member("a", "producer", "out", (0, 1, 2)),
        member("norm", "passenger", "out", (0, 1, 2), extent=5),
        member("gamma", "passenger", "out", (0, 1, 2), extent=5, dim=1),
        member("c", "consumer", "in", (0, 1, 2), extent=5),
    ),
    None,
)  # fmt: skip
B = Group(
    "b", 2,
    (
        member("b", "producer", "out", (0, 1)),
        member("norm", "passenger", "out", (0, 1), start=3, extent=5),
        member("gamma", "passenger", "out", (0, 1), start=3, extent=5, dim=1),
        member("c", "consumer", "in", (0, 1), start=3, extent=5),
    ),
    None,
)  # fmt: skip
C = Group("c", 4, (member("c", "producer", "out", (0, 1, 2, 3)),), "an output")
GRAPH = FilterGraph(
    {
        "a": layer(3, 2),
        "b": replace(layer(2, 2), grouping="blocks"),
        "norm": layer(5, 0, "a", "b"),
        "c": layer(4, 5, "a", "b"),
    },
    (A, B, C),
    {"a": (), "b": ("a",), "c": ("b",)},
    {"c": "an output"},
    (Adapter("f", "out", 0, 1, "restore", (("a", 0), None, ("b", 1), ("c", 0))),),
)


def test_positions_are_those_of_the_units_in_order_of_the_axis() -> None:
    flat = Member("fc", "consumer", "in", None, 8, (6, 4, 1, 0), (2, 0, 2, 0))
    assert flat.positions_of([2]) == [1, 6]
    assert flat.positions_of({0, 2, 9}) == [0, 1, 4, 6]
    assert flat.positions_of([]) == []


def test_units_of_one_kind_have_channels_in_the_same_places() -> None:
    read_by_one = member("d", "consumer", "in", (2, 0))
    group = replace(A, members=(A.members[0], read_by_one, member("e", "consumer", "in", (1, 1))))
    assert group.kinds() == [[0, 2], [1]]
    twice = replace(A, members=(A.members[0], member("e", "consumer", "in", (1, 1, 0))))
    assert twice.kinds() == [[0], [1], [2]], "a unit of two positions costs twice"
    assert A.kinds() == [[0, 1, 2]]
    assert [each.layer for each in A.of_role("passenger")] == ["norm", "gamma"]


@pytest.mark.parametrize(
    ("reads", "width", "order", "expected"),
    [
        ([], 2, [3, 1, 0, 2], (1, 3)),
        ([(0, 2)], 2, [3, 1, 2, 0], (2, 3)),
        ([(0, 2)], 2, [0, 1, 2, 3], (0, 1)),
        ([(0,), (2,)], 1, [3, 1, 2, 0], (0, 2)),
        ([(0, 1), (0, 1, 2)], 1, [3, 2, 1, 0], (1,)),
        ([(0,)], 4, [3, 1, 2, 0], (0, 1, 2, 3)),
    ],
)
def test_first_units_leave_every_layer_a_channel(
    reads: list[tuple[int, ...]], width: int, order: list[int], expected: tuple[int, ...]
) -> None:
    members = [member(f"r{k}", "consumer", "in", units) for k, units in enumerate(reads)]
    group = Group("a", 4, (member("a", "producer", "out", (0, 1, 2, 3)), *members), None)
    assert group.first(width, order) == expected
    assert all(set(each.units) & set(expected) for each in group.members)


def test_first_units_are_as_few_as_can_be_where_layers_read_parts_that_do_not_overlap() -> None:
    parts = [(0, 3), (1, 4, 5)]
    members = [member("a", "producer", "out", tuple(range(7)))]
    group = Group("a", 7, (*members, *[member(f"r{p}", "consumer", "in", p) for p in parts]), None)
    for width in range(1, 8):
        found = group.first(width, [6, 5, 4, 3, 2, 1, 0])
        fits = [
            kept
            for size in range(1, 8)
            for kept in combinations(range(7), size)
            if all(set(part) & set(kept) for part in parts)
        ]
        assert found in fits and len(found) == max(width, min(map(len, fits)))


def test_cuts_join_what_the_groups_drop_of_one_layer() -> None:
    cuts = GRAPH.cuts({"a": (0, 2), "b": (1,)})
    assert cuts.layers == {
        "a": LayerCut((0, 2), None, 3, 2),
        "b": LayerCut((1,), None, 2, 2, "blocks"),
        "norm": LayerCut((0, 2, 4), None, 5, 0),
        "c": LayerCut(None, (0, 2, 4), 4, 5),
    }
    assert cuts.parameters == {"gamma": ParameterCut(1, (0, 2, 4), 5)}
    assert cuts.adapters == (), "of the units that it holds none went"
    assert list(GRAPH.cuts({"a": range(3), "b": (1,)}).layers) == ["b", "norm", "c"]
    assert GRAPH.cuts({"a": range(3), "b": range(2)}) == GRAPH.cuts({"b": (1, 0), "a": (2, 1, 0)})
    assert GRAPH.cuts({"a": range(3), "b": range(2)}).layers == {}


def test_an_adapter_keeps_what_belongs_to_nobody_or_to_units_that_stay() -> None:
    (adapter,) = GRAPH.adapters
    expected = AdapterCut("f", "out", 0, 1, "restore", (1, 3), 4)
    assert adapter.cut({"a": {1, 2}, "b": {0}}) == expected
    assert GRAPH.cuts({"a": (1,), "b": (0,)}).adapters == (expected,)
    assert adapter.cut({"a": {0}}) is None and adapter.cut({}) is None


def test_what_is_prunable_and_who_makes_it() -> None:
    both = replace(B, members=(*A.members[:1], *B.members))
    graph = replace(GRAPH, groups=(A, both, C))
    assert graph.prunable == (A, both)
    assert graph.producers == ("a", "b")


def test_parents_are_the_true_ones_or_those_of_the_chain() -> None:
    assert GRAPH.parents("graph") == {"a": (), "b": (), "c": ("a", "b")}, "norms have none of their own"
    assert GRAPH.parents("chain") == {"a": (), "b": ("a",), "c": ("b",)}


def test_failing_groups_are_frozen_with_their_producers_and_stand_behind_the_others() -> None:
    found = GRAPH.without({"a": "a trial cut fails", "c": "is frozen already"})
    assert [group.name for group in found.groups] == ["b", "a", "c"]
    assert [group.frozen for group in found.groups] == [None, "a trial cut fails", "an output"]
    assert found.frozen == {"a": "a trial cut fails", "c": "an output"}
    assert GRAPH.frozen == {"c": "an output"} and GRAPH.prunable == (A, B)


def test_json_holds_the_whole_graph() -> None:
    plain = json.loads(json.dumps(GRAPH.to_json()))
    assert plain["layers"]["c"]["parents"] == ["a", "b"] and plain["layers"]["c"]["inputs"] == 5
    assert plain["frozen"] == {"c": "an output"} and plain["chain"]["b"] == ["a"]
    assert [group["name"] for group in plain["groups"]] == ["a", "b", "c"]
    assert plain["groups"][0]["members"][3] == {
        "layer": "c", "role": "consumer", "axis": "in", "dim": None, "extent": 5,
        "positions": [0, 1, 2], "units": [0, 1, 2], "reads": False,
    }  # fmt: skip
    assert plain["adapters"] == [{"module": "f", "side": "out", "leaf": 0, "dim": 1, "form": "restore"}]
