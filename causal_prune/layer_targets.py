"""What a layer of a cut network should return, image by image, and how far it is from it on those held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from causal_prune.cut_layer import CutLayer
from causal_prune.layer_inputs import channel_dim
from causal_prune.lockstep import Pair
from causal_prune.output_paths import Bounds


@dataclass
class Item:
    """What a pair says about a layer: residual is what its output should be changed by.

    `off` says how far the layer, or the sum that it goes into, is from what the dense network computes, as a share of
    the largest number there. `wanted` is what should be behind the layer's batch norm and sum, and `slope`, per filter,
    by how much that changes with the layer's output.
    """

    pair: Pair
    source: Tensor
    dense_source: Tensor
    residual: Tensor
    off: float
    dense_reply: Tensor
    wanted: Tensor
    slope: Tensor

    def let_go(self) -> None:
        """Give up what was needed for the refit alone."""
        self.residual = self.source = self.dense_source = self.wanted = torch.empty(0)


class Judge:
    """The squared error of a layer on the images that were held out, or on all where none were."""

    def __init__(self, layer: CutLayer, items: Sequence[Item]) -> None:
        self.layer = layer
        self.items = [item for item in items if item.pair.held_out] or list(items)
        self.first = layer.state()
        self.outs: list[Tensor] = [layer.module.forward(item.source) for item in self.items]
        self.at_first = self.error()

    def error(self, bounds: Bounds | None = None) -> Tensor:
        """One number per filter: of the output or, given bounds, of what a rectifier with these lets through."""
        total = torch.zeros(self.layer.filters, dtype=torch.float64, device=self.outs[0].device)
        for item, out in zip(self.items, self.outs, strict=True):
            missing = item.residual - self.layer.moved(self.first, item.source, out)
            if bounds is not None:
                now = item.wanted - self.layer.along(item.slope, missing) * missing
                missing = item.wanted.clamp(*bounds) - now.clamp(*bounds)
            dim = channel_dim(self.layer.module, missing)
            total += missing.double().square().sum(dim=[axis for axis in range(missing.dim()) if axis != dim])
        return total
