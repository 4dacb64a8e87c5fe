"""Networks that meet in additions, concatenations and gates, plans that cut half of each, and an oracle for the cut."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from causal_prune.importance.scores import FilterScores
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.tracing.network_trace import trace


class Residual(nn.Module):
    """Two blocks on one stream, with a strided projection between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.a, self.a_norm = nn.Conv2d(8, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.b, self.b_norm = nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.c, self.c_norm = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.b_norm(self.b(F.relu(self.a_norm(self.a(x))))))
        x = F.relu(self.shortcut(x) + self.c_norm(self.c(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Concat(nn.Module):
    """Two branches side by side under one batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(14)
        self.mix, self.head = nn.Conv2d(14, 6, 3), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((F.relu(self.left(x)), self.right(x)), dim=1)
        out: Tensor = self.head(F.relu(self.mix(F.relu(self.norm(x)))))
        return out


class SqueezeExcite(nn.Module):
    """A channel gate, whose own channels are cut as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.reduce, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.conv(x)))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        out: Tensor = self.head(x * gate)
        return out


class Scaled(nn.Module):
    """A bare parameter and a bare buffer along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.gamma = nn.Parameter(torch.linspace(0.5, 2.0, 8).reshape(8, 1, 1))
        self.register_buffer("shift", torch.linspace(-1.0, 1.0, 8).reshape(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(F.relu(self.first(x) * self.gamma + self.shift))
        return out


class Tied(nn.Module):
    """Two names for one layer, and two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.a, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b.weight = self.a.weight
        self.alias = self.stem
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.b(F.relu(self.a(F.relu(self.alias(x)))))))
        return out


def plain() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, dilation=2),
        nn.BatchNorm2d(12), nn.PReLU(12), nn.Conv2d(12, 3, 1),
    )  # fmt: skip


def depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 16, 1), nn.Conv2d(16, 32, 3, groups=16), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 3, 1),
    )  # fmt: skip


def grouped(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, groups=groups),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 3, 1),
    )  # fmt: skip


def transposed(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 3, stride=2, padding=1, groups=groups), nn.BatchNorm2d(12), nn.ReLU(),
        nn.ConvTranspose2d(12, 3, 2),
    )  # fmt: skip


def flattened() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(8 * 4, 10), nn.ReLU(),
        nn.Linear(10, 3),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(32, 2)
    )


def three_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 6, 2), nn.BatchNorm3d(6), nn.ReLU(), nn.Conv3d(6, 4, 2), nn.ReLU(), nn.Conv3d(4, 2, 1)
    )


def short_resnet() -> nn.Module:
    """A ResNet of torchvision with one block per stage."""
    block = torchvision.models.resnet.BasicBlock
    net: nn.Module = torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=5)
    return net


def mobilenet() -> nn.Module:
    net: nn.Module = torchvision.models.mobilenet_v3_small(weights=None, num_classes=5)
    return net


Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
CASES: dict[str, Case] = {
    "plain": (plain, (3, 11, 11)),
    "residual": (Residual, (3, 8, 8)),
    "concat": (Concat, (3, 7, 7)),
    "squeeze-excite": (SqueezeExcite, (3, 6, 6)),
    "bare parameters": (Scaled, (3, 7, 7)),
    "tied": (Tied, (3, 6, 6)),
    "depthwise": (depthwise, (3, 7, 7)),
    "grouped by position": (lambda: grouped(2), (3, 7, 7)),
    "grouped by block": (lambda: grouped(4), (3, 7, 7)),
    "transposed": (lambda: transposed(1), (3, 6, 6)),
    "transposed by position": (lambda: transposed(2), (3, 6, 6)),
    "transposed by block": (lambda: transposed(4), (3, 6, 6)),
    "linear after flatten": (flattened, (3, 8, 8)),
    "conv1d": (one_dimensional, (3, 12)),
    "conv3d": (three_dimensional, (2, 5, 5, 5)),
    "resnet of torchvision": (short_resnet, (3, 32, 32)),
    "mobilenet_v3_small": (mobilenet, (3, 32, 32)),
}


def made(name: str, seed: int = 5) -> tuple[nn.Module, Tensor]:
    """A network of CASES in eval mode with statistics far from 0 and 1, and four images for it."""
    factory, shape = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = factory()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.get_buffer("running_mean"), 0.5)
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 3.0)
        return net.eval(), torch.randn(4, *shape)


def planned(net: nn.Module, x: Tensor, *, prove: bool = True) -> PruningPlan:
    """Half of the units of every group go, drawn by chance."""
    graph, draw = trace(net, x[:1], prove=prove), torch.Generator().manual_seed(3)
    scores = {group.name: torch.rand(group.size, generator=draw) for group in graph.prunable}
    return plan(graph, FilterScores("drawn", "", scores, {}), remove_filters=0.5)


@cache
def plan_of(name: str) -> PruningPlan:
    """The plan for a network of CASES; trial cuts could hide a mistake."""
    return planned(*made(name), prove=False)


@dataclass(frozen=True)
class Planned:
    """A network, images for it and a plan that cuts half of it."""

    net: nn.Module
    images: Tensor
    plan: PruningPlan


def case(name: str) -> Planned:
    """A network of CASES with its plan."""
    return Planned(*made(name), plan_of(name))


def silenced(net: nn.Module, chosen: PruningPlan, x: Tensor) -> Tensor:
    """The oracle: the dense network, with what every layer reads of a dropped channel set to 0 on the way in."""
    with ExitStack() as stack, torch.no_grad():
        for name, cut in chosen.layers.items():
            if cut.keep_inputs is not None:
                module = net.get_submodule(name)
                dropped = sorted(set(range(cut.inputs)) - set(cut.keep_inputs))
                channel = -1 if isinstance(module, nn.Linear) else 1

                def hook(
                    _: nn.Module, args: tuple[Tensor], dropped: list[int] = dropped, channel: int = channel
                ) -> Tensor:
                    return args[0].index_fill(channel, torch.tensor(dropped), 0.0)

                stack.callback(module.register_forward_pre_hook(hook).remove)
        out: Tensor = net(x)
        return out


def gap(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((a - b).abs().max() / b.abs().max())
