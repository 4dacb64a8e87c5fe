"""Norms of weights against literal sums and against torch-pruning's criterion."""

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace
from tests.unit.importance.conftest import Plain, Traced


def l1(weight: Tensor) -> list[float]:
    """Sum of absolute weights of every filter, one by one, over the mean of the layer."""
    sums = []
    for filter_ in range(weight.shape[0]):
        total = 0.0
        for value in weight[filter_].flatten().tolist():
            total += abs(value)
        sums.append(total)
    return [value * len(sums) / sum(sums) for value in sums]


def test_scores_are_the_literal_norms_of_a_units_filters(traced: Traced) -> None:
    scores = score(traced.graph, traced.moments, method="magnitude")
    expected = {
        name: l1(traced.net.get_parameter(f"{name}.weight").detach())
        for name in ("stem", "a", "b", "c", "d", "hidden")
    }
    for name, norms in expected.items():
        assert scores.layers[name].tolist() == pytest.approx(norms, rel=1e-6)
    stream = [x + y for x, y in zip(expected["stem"], expected["b"], strict=True)]
    assert scores.groups["stem"].tolist() == pytest.approx(stream, rel=1e-6)
    assert scores.groups["hidden"].tolist() == pytest.approx(expected["hidden"], rel=1e-6)


def test_l2_is_the_literal_norm(traced: Traced) -> None:
    scores = score(traced.graph, traced.moments, method="magnitude_l2")
    for name in ("stem", "a", "d", "hidden"):
        weight = traced.net.get_parameter(f"{name}.weight").detach()
        literal = [sum(value**2 for value in row.flatten().tolist()) ** 0.5 for row in weight]
        expected = [value * len(literal) / sum(literal) for value in literal]
        assert scores.layers[name].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("degree", [1, 2])
def test_filters_rank_as_torch_pruning_ranks_them(plain: Plain, degree: int) -> None:
    importance = tp.importance.MagnitudeImportance(p=degree, group_reduction="first", normalizer=None)
    found = plain.scores("magnitude" if degree == 1 else "magnitude_l2")
    for name, values in plain.of_torch_pruning(importance).items():
        norms = values.double() ** (1 / degree)  # torch-pruning leaves the root out
        torch.testing.assert_close(found[name], norms / norms.mean(), rtol=1e-5, atol=0)


def test_a_transposed_convolution_holds_its_filters_in_the_second_dimension() -> None:
    first = nn.ConvTranspose2d(3, 4, 2)
    net = nn.Sequential(first, nn.Conv2d(4, 2, 1))
    nn.init.normal_(first.weight, generator=torch.Generator().manual_seed(1))
    images = torch.zeros(2, 3, 3, 3)
    graph = trace(net, images[:1])
    scores = score(graph, observe(net, graph, [images]), method="magnitude")
    assert scores.groups["0"].tolist() == pytest.approx(l1(first.weight.detach().transpose(0, 1)), rel=1e-6)


def test_a_grouped_transposed_convolution_too() -> None:
    grouped = nn.ConvTranspose1d(4, 6, 2, groups=2)
    net = nn.Sequential(nn.Conv1d(1, 4, 1), grouped, nn.Conv1d(6, 2, 1))
    nn.init.normal_(grouped.weight, generator=torch.Generator().manual_seed(1))
    graph = trace(net, torch.zeros(1, 1, 3))
    scores = score(graph, observe(net, graph, [torch.zeros(2, 1, 3)]), method="magnitude")
    blocks = grouped.weight.detach().reshape(
        2, 2, 3, 2
    )  # (block, input of the block, filter of the block, tap)
    literal = [blocks[k // 3, :, k % 3] for k in range(6)]
    assert scores.layers["1"].tolist() == pytest.approx(l1(torch.stack(literal)), rel=1e-6)


@pytest.mark.parametrize("method", ["magnitude", "magnitude_l2"])
def test_a_filter_without_weights_scores_zero(plain: Plain, method: str) -> None:
    with torch.no_grad():
        plain.net.get_parameter("0.weight")[2] = 0
    found = plain.scores(method)["0"]
    assert found[2] == 0 and int((found == 0).sum()) == 1
