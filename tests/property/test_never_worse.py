"""The repair is never worse than the cheap ways: small networks of random widths, trained for a moment, few images.

Judged on images that neither the plan nor the repair has seen, by the mean KL divergence from the dense network.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import causal_prune as cp
from causal_prune.compensation import repair

pytestmark = pytest.mark.filterwarnings("ignore::causal_prune.errors.CausalPruneWarning")
IMAGES = (8, 12, 16, 24, 32, 48, 64)
QUICK, ALL = 10, 30
Draw = Callable[[int], tuple[Tensor, Tensor]]


class Residual(nn.Module):
    def __init__(self, channels: int, norm: bool) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1, bias=not norm) for _ in range(2))
        self.na, self.nb = (nn.BatchNorm2d(channels) if norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.nb(self.b(F.relu(self.na(self.a(x))))))


def learned(seed: int) -> tuple[nn.Module, Draw]:
    """A network that has learned noisy prototypes, and its images."""
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    kind, widths, channels = seed % 3, torch.randint(8, 25, (4,), generator=draw).tolist(), 3
    layers: list[nn.Module] = []
    for place, width in enumerate(widths):
        layers += [nn.Conv2d(channels, width, 3, padding=1, stride=1 + (place == 2), bias=kind == 2)]
        layers += [nn.ReLU()] if kind == 2 else [nn.BatchNorm2d(width), nn.ReLU()]
        layers += [Residual(width, norm=True)] if kind == 1 and place % 2 else []
        channels = width
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    prototypes = torch.randn(10, 3, 12, 12, generator=draw)

    def images(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 10, (count,), generator=draw)
        return 0.7 * prototypes[labels] + torch.randn(count, 3, 12, 12, generator=draw), labels

    optimiser = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    for _ in range(60):
        x, y = images(64)
        optimiser.zero_grad()
        F.cross_entropy(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    return net.eval(), images


def divergence(model: nn.Module, dense: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        ours, theirs = (net(x).double().log_softmax(1) for net in (model, dense))
    return float(F.kl_div(ours, theirs, log_target=True, reduction="batchmean"))


@pytest.mark.parametrize(
    "seed", [seed if seed < QUICK else pytest.param(seed, marks=pytest.mark.slow) for seed in range(ALL)]
)
def test_the_repair_is_never_worse_than_batch_norm_or_the_cut(seed: int) -> None:
    with torch.random.fork_rng():
        net, images = learned(seed)
        (x, _), (unseen, _) = images(IMAGES[seed % len(IMAGES)]), images(600)
        batches = list(x.split(16))
        graph = cp.trace(net, x[:1])
        small = cp.remove(
            net, cp.plan(graph, cp.score(graph, cp.observe(net, graph, batches)), keep_macs=0.5)
        )
        for limit in (None, 2_000_000):
            repaired = cp.compensate(small, net, batches, max_memory=limit)
            found = divergence(repaired, net, unseen)
            cheap = divergence(cp.compensate(small, net, batches, method="batchnorm"), net, unseen)
            assert found <= min(cheap, divergence(small, net, unseen)) * 1.001 + 1e-9


def test_what_was_kept_is_told_with_its_numbers() -> None:
    with torch.random.fork_rng():
        net, images = learned(0)
        x, _ = images(48)
        graph = cp.trace(net, x[:1])
        small = cp.remove(net, cp.plan(graph, cp.score(graph, cp.observe(net, graph, [x])), keep_macs=0.5))
        verdict = repair(small, net, [x]).verdict
    assert verdict is not None and verdict.images == 48
    assert verdict.means.keys() == {"batch norm", "as cut", "least squares"}
    assert verdict.best == min(verdict.means, key=lambda name: verdict.means[name])
