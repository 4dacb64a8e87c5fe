"""Scores of the information bottleneck: capacities, summed over space and averaged over images."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.importance.scoring import score
from causal_prune.intervention.bottleneck import InformationBottleneck
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace


@pytest.fixture
def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 9, 2)
        ).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(6)) + 0.2


def test_a_filters_score_is_its_capacity_over_space_and_images(net: nn.Sequential, images: Tensor) -> None:
    labels = torch.arange(40) % 2
    graph = trace(net, images[:1])
    moments = observe(net, graph, [images])
    labelled = list(zip(images.split(15), labels.split(15), strict=True))
    found = score(graph, moments, method="iba", model=net, labelled=labelled, seed=3)
    chosen = torch.tensor([k * 40 // 32 for k in range(32)])
    bottleneck = InformationBottleneck(net, "2", beta=1.0, copies=2, seed=3)
    bottleneck.estimate(images.split(15))
    truth = labels[chosen].repeat(2)
    capacity = bottleneck.analyze(
        images[chosen], lambda logits: F.cross_entropy(logits, truth, reduction="none"), mode="capacity"
    )
    expected = [float(capacity[:, k].double().sum((1, 2)).mean()) for k in range(3)]
    assert found.groups["2"].tolist() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="the inputs are 2 tensors; importance 'iba' takes networks of one"):
        score(graph, moments, method="iba", model=net, labelled=[({"a": images, "b": images}, labels)])


def test_scores_follow_a_permutation_where_the_noise_does(
    net: nn.Sequential, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, labels = torch.tensor([2, 0, 3, 1]), torch.arange(40) % 2
    other = nn.Sequential(nn.Conv2d(1, 4, 3), net[1], nn.Conv2d(4, 3, 2), *net[3:]).eval()
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            other.get_parameter(name).copy_(net.get_parameter(name)[order])
        other.get_parameter("2.weight").copy_(net.get_parameter("2.weight")[:, order])
        other.get_parameter("2.bias").copy_(net.get_parameter("2.bias"))
    monkeypatch.setattr(torch, "randn", lambda shape, **options: torch.full(tuple(shape), 0.1))
    found = []
    for each in (net, other):
        graph = trace(each, images[:1], prove=False)
        moments = observe(each, graph, [images])
        found.append(score(graph, moments, method="iba", model=each, labelled=[(images, labels)]).groups["0"])
    torch.testing.assert_close(found[1], found[0][order], rtol=1e-3, atol=1e-4)
