"""Small networks to be cut, and what their layers should return then."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.layer_targets import Wanted
from causal_prune.compensation.lockstep import Pair, Stream
from causal_prune.compensation.series import Series
from causal_prune.importance.scores import FilterScores
from causal_prune.planning.unit_choice import plan_widths
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.tracing.network_trace import trace
from tests.unit.drawn_weights import drawn

INFINITE = float("inf")


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def bottleneck() -> nn.Sequential:
    """Three layers in series, the middle one depthwise."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True),
        nn.Conv2d(16, 6, 1, bias=False), nn.BatchNorm2d(6),
    )  # fmt: skip
    return cast(nn.Sequential, drawn(net, mean=0.1, seed=11))


def last_units(net: nn.Module, x: Tensor, keep: Mapping[str, int], freeze: Sequence[str]) -> PruningPlan:
    """Keep the last so many units of some groups; what is frozen stays whole."""
    graph = trace(net, x[:2], freeze=freeze)
    groups = {g.name: torch.arange(g.size).double() for g in graph.prunable}
    return plan_widths(graph, FilterScores("t", "t", groups, {}), keep, kind="keep_macs", requested=0.5)


def series_of(net: nn.Sequential, bounds: tuple[float, float] = (0.0, INFINITE)) -> Series:
    """The layers of a network that consists of layers, batch norms and rectifiers."""
    layers = []
    for k, module in enumerate(net):
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            after = net[k + 1] if k + 1 < len(net) else None
            layers.append(CutLayer(module, after if isinstance(after, nn.BatchNorm2d) else None, None))
    return Series(tuple(str(k) for k in range(len(layers))), tuple(layers), (bounds,) * (len(layers) - 1))


def wanted(
    layer: CutLayer,
    source: Tensor,
    target: Tensor,
    *,
    held_out: bool = False,
    index: int = 0,
    dense_source: Tensor | None = None,
) -> Wanted:
    """A layer that reads `source` should return `target`; no pass of a network waits for it."""
    nobody = cast(Stream, None)
    return Wanted(
        pair=Pair(nobody, nobody, held_out, index),
        source=source,
        dense_source=source if dense_source is None else dense_source,
        residual=layer.masked(target - cast(Tensor, layer.module.forward(source))),
        off=1.0,
        dense_reply=target,
        behind=layer.behind_norm(target),
        slope=layer.slope(),
    )
