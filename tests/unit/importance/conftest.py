"""Two small networks and images for them: one with every kind of layer, one that torch-pruning ranks too."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace


class Net(nn.Module):
    """A residual stream, a grouped layer and a linear layer after flatten.

    Groups: stem + b (6 units, read by a, c and the gate of nobody else), a (5), c (8, read in two blocks), d (4).
    """

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
        return cast(Tensor, self.head(F.relu(self.hidden(x.flatten(1)))))


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
        statistics = dict(net.norm.named_buffers())
        for tensor in (statistics["running_mean"], net.norm.bias):
            nn.init.normal_(tensor, 0.3)
        nn.init.uniform_(statistics["running_var"], 0.5, 2.0)
        images = torch.randn(60, 2, 8, 8) + torch.linspace(-1, 1, 60).reshape(-1, 1, 1, 1)
    graph = trace(net, images[:1])
    labels = (images.mean((1, 2, 3)) * 4).round().long().remainder(3)
    batches = list(zip(images.split(25), labels.split(25), strict=True))
    return Traced(net, images, graph, observe(net, graph, images.split(25)), batches)


@dataclass(frozen=True)
class Plain:
    """A chain of two convolutions, "0" and "3", each with a batch norm of random scales, and labelled images."""

    net: nn.Sequential
    images: Tensor
    labels: Tensor

    @property
    def convolutions(self) -> Iterator[tuple[str, nn.Conv2d, nn.BatchNorm2d]]:
        """Name, layer and the batch norm behind it."""
        for place in (0, 3):
            yield str(place), cast(nn.Conv2d, self.net[place]), cast(nn.BatchNorm2d, self.net[place + 1])

    def scores(self, method: str) -> Mapping[str, Tensor]:
        """Of every group, from the images in two batches of different sizes."""
        graph = trace(self.net, self.images[:1])
        moments = observe(self.net, graph, [self.images])
        halves = [(self.images[:13], self.labels[:13]), (self.images[13:], self.labels[13:])]
        return score(graph, moments, method=method, model=self.net, labelled=halves).groups

    def of_torch_pruning(self, importance: Callable[[object], Tensor]) -> dict[str, Tensor]:
        """What a criterion of torch-pruning says of both layers."""
        graph = tp.DependencyGraph().build_dependency(self.net, example_inputs=self.images[:1])
        return {
            name: importance(
                graph.get_pruning_group(
                    layer, tp.prune_conv_out_channels, idxs=list(range(layer.out_channels))
                )
            )
            for name, layer, _ in self.convolutions
        }


@pytest.fixture
def plain() -> Plain:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        norms = nn.BatchNorm2d(6), nn.BatchNorm2d(5)
        net = nn.Sequential(
            nn.Conv2d(2, 6, 3), norms[0], nn.ReLU(), nn.Conv2d(6, 5, 3), norms[1], nn.ReLU(),
            nn.Flatten(), nn.Linear(5 * 16, 3),
        )  # fmt: skip
        for norm in norms:
            nn.init.normal_(norm.weight)
        return Plain(net.eval(), torch.randn(20, 2, 8, 8), torch.randint(0, 3, (20,)))
