"""Scores of filters from those of units and back, in a graph written down by hand."""

import pytest
import torch
from torch import Tensor

from causal_prune.importance.scores import from_filters, from_units
from causal_prune.tracing.filter_graph import FilterGraph, Group, Member


def member(layer: str, extent: int, positions: tuple[int, ...], units: tuple[int, ...]) -> Member:
    return Member(layer, "producer", "out", None, extent, positions, units)


READER = Member("c", "consumer", "in", None, 5, (0, 1, 2), (0, 1, 2))
STREAM = Group(
    "a", 3, (member("a", 3, (0, 1, 2), (0, 1, 2)), member("b", 5, (4, 1, 3, 0), (2, 0, 2, 1)), READER), None
)
OTHER = Group("d", 2, (member("d", 2, (0, 1), (0, 1)), member("e", 3, (2,), (1,))), None)
FIXED = Group("f", 2, (member("f", 2, (0, 1), (0, 1)), member("e", 3, (0, 1), (0, 1))), "an output")
GRAPH = FilterGraph({}, (STREAM, OTHER, FIXED), {}, {})


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_unit_scores_the_sum_of_the_filters_that_it_holds() -> None:
    filters = {
        "a": numbers(1, 2, 3),
        "b": numbers(10, 20, 30, 40, 50),
        "d": numbers(0.5, 0.25),
        "e": numbers(7, 8, 9),
    }
    given = {name: values.clone() for name, values in filters.items()}
    scores = from_filters("mine", "metres", GRAPH, filters)
    assert (scores.method, scores.unit, scores.curves) == ("mine", "metres", {})
    assert {name: values.tolist() for name, values in scores.groups.items()} == {
        "a": [1 + 20, 2 + 10, 3 + 50 + 40],
        "d": [0.5, 0.25 + 9],
    }
    assert scores.layers == filters and scores.layers is not filters
    assert all(torch.equal(values, given[name]) for name, values in filters.items())


def test_filters_of_which_nothing_is_known_add_nothing() -> None:
    scores = from_filters("mine", "", GRAPH, {"b": numbers(10, 20, 30, 40, 50)})
    assert scores.groups["a"].tolist() == [20, 10, 90] and scores.groups["d"].tolist() == [0, 0]
    assert scores.groups["d"].dtype == torch.float64


def test_a_filter_scores_what_its_unit_does_and_nan_where_it_is_never_cut() -> None:
    of_units = {"a": numbers(1, 2, 3), "d": numbers(0.5, 0.25)}
    asked = []

    def score(group: Group) -> Tensor:
        asked.append(group.name)
        return of_units[group.name]

    scores = from_units("mine", "metres", GRAPH, score)
    assert asked == ["a", "d"], "once per prunable group"
    assert (scores.method, scores.unit, dict(scores.groups)) == ("mine", "metres", of_units)
    assert {name: values.tolist() for name, values in scores.layers.items()} == {
        "a": [1, 2, 3],
        "b": pytest.approx([2, 1, float("nan"), 3, 3], nan_ok=True),
        "d": [0.5, 0.25],
        "e": pytest.approx([float("nan"), float("nan"), 0.25], nan_ok=True),
    }


def test_filters_of_one_layer_may_belong_to_two_groups() -> None:
    left = Group("left", 2, (member("both", 4, (0, 3), (1, 0)),), None)
    right = Group("right", 1, (member("both", 4, (2,), (0,)),), None)
    graph = FilterGraph({}, (left, right), {}, {})
    of_units = {"left": numbers(5, 6), "right": numbers(7)}
    scores = from_units("mine", "", graph, lambda group: of_units[group.name])
    assert scores.layers["both"].tolist() == pytest.approx([6, float("nan"), 7, 5], nan_ok=True)
    known = from_filters("mine", "", graph, {"both": numbers(1, 2, 3, 4)})
    assert known.groups["left"].tolist() == [4, 1] and known.groups["right"].tolist() == [3]


def test_without_prunable_groups_there_is_nothing_to_score() -> None:
    graph = FilterGraph({}, (FIXED,), {}, {})
    assert from_filters("mine", "", graph, {}).groups == {}
    none = from_units("mine", "", graph, lambda group: torch.ones(group.size))
    assert none.groups == {} and none.layers == {}
