"""Distances between filters against literal loops and against torch-pruning's criterion."""

import pytest
import torch
import torch_pruning as tp
from torch import nn

from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace
from tests.unit.importance.conftest import Plain, Traced


def test_scores_are_the_literal_sums_of_distances(traced: Traced) -> None:
    scores = score(traced.graph, traced.moments, method="geometric_median")
    expected = {}
    for name in ("stem", "a", "b", "d", "hidden"):
        rows = traced.net.get_parameter(f"{name}.weight").detach().double().flatten(1).tolist()
        literal = [
            sum(sum((x - y) ** 2 for x, y in zip(row, other, strict=True)) ** 0.5 for other in rows)
            for row in rows
        ]
        expected[name] = [value * len(literal) / sum(literal) for value in literal]
        assert scores.layers[name].tolist() == pytest.approx(expected[name], rel=1e-6)
    stream = [x + y for x, y in zip(expected["stem"], expected["b"], strict=True)]
    assert scores.groups["stem"].tolist() == pytest.approx(stream, rel=1e-6)


def test_scores_are_torch_prunings_where_weights_are_not_negative(plain: Plain) -> None:
    with torch.no_grad():  # torch-pruning measures distances between |w|^p
        for _, layer, _ in plain.convolutions:
            layer.weight.abs_()
    expected = plain.of_torch_pruning(tp.importance.FPGMImportance(p=1, group_reduction="first"))
    found = plain.scores("geometric_median")
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.double(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("filters", [1, 3])
def test_equal_filters_are_no_distance_apart(filters: int) -> None:
    first = nn.Conv2d(1, filters, 1)
    net = nn.Sequential(first, nn.Conv2d(filters, 2, 1))
    nn.init.constant_(first.weight, 0.3)
    images = torch.rand(2, 1, 2, 2)
    graph = trace(net, images[:1])
    scores = score(graph, observe(net, graph, [images]), method="geometric_median")
    assert scores.groups["0"].tolist() == [0] * filters


def test_a_filter_without_weights_is_as_far_from_the_others_as_they_are_long(plain: Plain) -> None:
    weight = plain.net.get_parameter("0.weight")
    with torch.no_grad():
        weight[2] = 0
    found = plain.scores("geometric_median")["0"]
    lengths = weight.detach().double().flatten(1).norm(dim=1)
    others = torch.cdist(weight.detach().double().flatten(1), weight.detach().double().flatten(1)).sum(dim=1)
    assert float(found[2] / found[0]) == pytest.approx(float(lengths.sum() / others[0]), rel=1e-6)
