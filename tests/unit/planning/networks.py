"""Networks with every term of the cost, their graphs, and curves for them."""

from collections.abc import Callable
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from causal_prune.importance.scores import EliminationCurve, FilterScores
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace


class Residual(nn.Module):
    """Biases, a projection, a layer scale and a linear layer after flatten: every term of the cost."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.a, self.b = nn.Conv2d(24, 20, 3, padding=1), nn.Conv2d(20, 24, 3, padding=1, bias=False)
        self.c, self.shortcut = nn.Conv2d(24, 40, 3, stride=2, padding=1), nn.Conv2d(24, 40, 1, stride=2)
        self.hidden, self.fc = nn.Linear(40 * 9, 30), nn.Linear(30, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.b(F.relu(self.a(x))))
        x = F.relu(self.c(x) + self.shortcut(x))
        return cast(Tensor, self.fc(F.relu(self.hidden(x.flatten(1)))))


def mixed() -> nn.Module:
    """Depthwise, grouped by block and by position, transposed, and an affine activation."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=32), nn.BatchNorm2d(32), nn.ReLU6(),
        nn.Conv2d(32, 48, 1), nn.Conv2d(48, 48, 3, padding=1, groups=24), nn.PReLU(48),
        nn.Conv2d(48, 64, 1), nn.Conv2d(64, 32, 3, groups=2, bias=False), nn.ReLU(),
        nn.ConvTranspose2d(32, 40, 3, stride=2), nn.BatchNorm2d(40), nn.Conv2d(40, 3, 1),
    )  # fmt: skip


def torchvision_net(name: str) -> Callable[[], nn.Module]:
    return lambda: cast(nn.Module, getattr(torchvision.models, name)(weights=None, num_classes=10))


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "residual": (Residual, 6),
    "mixed": (mixed, 8),
    "resnet18": (torchvision_net("resnet18"), 32),
    "mobilenet_v2": (torchvision_net("mobilenet_v2"), 32),
    "squeezenet1_1": (torchvision_net("squeezenet1_1"), 32),
}


@cache
def network(name: str) -> tuple[nn.Module, Tensor, FilterGraph]:
    """One of `NETS`, an image for it and its graph; made once."""
    factory, size = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = factory().eval()
    example = torch.zeros(1, 3, size, size)
    return net, example, trace(net, example)


def curved(graph: FilterGraph, flat: str) -> FilterScores:
    """Quadratic curves; those of one group rise a hundred times slower."""
    groups, curves = {}, {}
    for group in graph.prunable:
        order = torch.arange(group.size).flip(0)
        steps = torch.arange(group.size + 1, dtype=torch.float64) / group.size
        lost = steps**2 * (0.01 if group.name == flat else 1.0)
        curves[group.name] = EliminationCurve(order, lost.flip(0), lost)  # plans go by the price alone
        groups[group.name] = torch.argsort(order).double()
    return FilterScores("test", "", groups, {}, curves)
