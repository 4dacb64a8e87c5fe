"""A small network, its images and a recipe for its arms."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from causal_prune.comparison.arms import Recipe
from causal_prune.compensation.options import Repair
from causal_prune.data.data import Data
from causal_prune.fine_tuning.options import Tuning
from causal_prune.importance.scores import FilterScores
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace
from tests.unit.counted_images import Counted


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.BatchNorm2d(10), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3),
        ).eval()  # fmt: skip


@pytest.fixture
def recipe() -> Recipe:
    data = Data(
        train=Counted(60, 1),
        validation=Counted(20, 9),
        calibration=Counted(30, 2),
        test=Counted(40, 3),
        classes=("a", "b", "c"),
        name="noise",
        calibration_source="30 images",
    )
    return Recipe(network(), data, torch.zeros(2, 2, 6, 6), tuning=Tuning(epochs=1, lr=0.05), seed=7)


def random_images(size: int, seed: int) -> TensorDataset:
    draw = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(size, 1, 6, 6, generator=draw), torch.randint(3, (size,), generator=draw)
    )


@pytest.fixture
def plain() -> Recipe:
    """A network of one input channel on noise, without repair or training."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 20, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(80, 3),
        ).eval()  # fmt: skip
    train, calibration, test, validation = (random_images(40, seed) for seed in (0, 1, 2, 9))
    data = Data(train, validation, calibration, test, ("a", "b", "c"), "noise", "40 images")
    return Recipe(net, data, torch.zeros(2, 1, 6, 6), repair=Repair(compensation="none"))


@pytest.fixture
def known(plain: Recipe) -> tuple[FilterGraph, FilterMoments, FilterScores]:
    """What is known of it."""
    graph = trace(plain.dense, plain.example)
    moments = observe(plain.dense, graph, [plain.data.calibration.tensors[0]])
    return graph, moments, score(graph, moments)
