"""One small network with a residual stream, a grouped layer and a linear layer after flatten, and images for it."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace


class Net(nn.Module):
    """Groups: stem + b (6 units, read by a, c and the gate of nobody else), a (5), c (8, read in two blocks), d (4)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.a = nn.Conv2d(6, 5, 3, padding=1)
        self.b = nn.Conv2d(5, 6, 1)
        self.c = nn.Conv2d(6, 8, 2, stride=2)
        self.d = nn.Conv2d(8, 4, 2, groups=2)
        self.hidden, self.head = nn.Linear(4 * 4, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        x = F.relu(self.d(F.relu(self.c(x))))
        return self.head(F.relu(self.hidden(x.flatten(1))))


@dataclass(frozen=True)
class Traced:
    """A network with what the scores need."""

    net: nn.Module
    images: Tensor
    graph: FilterGraph
    moments: FilterMoments
    labelled: list[tuple[Tensor, Tensor]]


@pytest.fixture
def traced() -> Traced:
    with torch.random.fork_rng():
        torch.manual_seed(12)
        net = Net().eval()
        for tensor in (net.norm.running_mean, net.norm.bias):
            nn.init.normal_(tensor, 0.3)
        nn.init.uniform_(net.norm.running_var, 0.5, 2.0)
        images = torch.randn(60, 2, 8, 8) + torch.linspace(-1, 1, 60).reshape(-1, 1, 1, 1)
    graph = trace(net, images[:1])
    labels = (images.mean((1, 2, 3)) * 4).round().long().remainder(3)
    batches = list(zip(images.split(25), labels.split(25), strict=True))
    return Traced(net, images, graph, observe(net, graph, images.split(25)), batches)
