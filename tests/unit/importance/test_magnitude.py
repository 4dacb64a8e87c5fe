import pytest
import torch
from torch import nn

from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace


def l1(weight: torch.Tensor) -> list[float]:
    """Sum of absolute weights of every filter, one by one, over the mean of the layer."""
    sums = []
    for filter_ in range(weight.shape[0]):
        total = 0.0
        for value in weight[filter_].flatten().tolist():
            total += abs(value)
        sums.append(total)
    return [value * len(sums) / sum(sums) for value in sums]


def test_scores_are_the_literal_norms_of_a_units_filters(traced) -> None:
    scores, net = score(traced.graph, traced.moments, method="magnitude"), traced.net
    for name in ("stem", "a", "b", "c", "d", "hidden"):
        assert scores.layers[name].tolist() == pytest.approx(
            l1(net.get_submodule(name).weight.detach()), rel=1e-6
        )
    stream = [x + y for x, y in zip(l1(net.stem.weight.detach()), l1(net.b.weight.detach()), strict=True)]
    assert scores.groups["stem"].tolist() == pytest.approx(stream, rel=1e-6)
    assert scores.groups["hidden"].tolist() == pytest.approx(l1(net.hidden.weight.detach()), rel=1e-6)


def test_a_transposed_convolution_holds_its_filters_in_the_second_dimension() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.Conv2d(4, 2, 1))
    nn.init.normal_(net[0].weight, generator=torch.Generator().manual_seed(1))
    images = torch.zeros(2, 3, 3, 3)
    graph = trace(net, images[:1])
    scores = score(graph, observe(net, graph, [images]), method="magnitude")
    assert scores.groups["0"].tolist() == pytest.approx(l1(net[0].weight.detach().transpose(0, 1)), rel=1e-6)


def test_a_grouped_transposed_convolution_too() -> None:
    net = nn.Sequential(nn.Conv1d(1, 4, 1), nn.ConvTranspose1d(4, 6, 2, groups=2), nn.Conv1d(6, 2, 1))
    nn.init.normal_(net[1].weight, generator=torch.Generator().manual_seed(1))
    graph = trace(net, torch.zeros(1, 1, 3))
    scores = score(graph, observe(net, graph, [torch.zeros(2, 1, 3)]), method="magnitude")
    blocks = (
        net[1].weight.detach().reshape(2, 2, 3, 2)
    )  # (block, input of the block, filter of the block, tap)
    literal = [blocks[k // 3, :, k % 3] for k in range(6)]
    assert scores.layers["1"].tolist() == pytest.approx(l1(torch.stack(literal)), rel=1e-6)


def test_a_filter_without_weights_scores_zero() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        net[0].weight[1] = 0
    graph = trace(net, torch.zeros(1, 1, 2, 2))
    scores = score(graph, observe(net, graph, [torch.ones(2, 1, 2, 2)]), method="magnitude")
    assert scores.groups["0"][1] == 0 and bool((scores.groups["0"][[0, 2]] > 0).all())
