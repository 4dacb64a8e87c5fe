"""What a layer of a cut network should return, image by image, and how far it is from it on those held out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.lockstep import Pair
from causal_prune.compensation.output_paths import Bounds
from causal_prune.network.layer_matrices import channel_dim


@dataclass
class Wanted:
    """What a layer should return for the images of a pair: residual is what its output should be changed by.

    `off` says how far the layer, or the sum that it goes into, is from what the dense network computes, as a share of
    the largest number there. `behind` is what should be behind the layer's batch norm and sum, and `slope`, per filter,
    by how much that changes with the layer's output.
    """

    pair: Pair
    source: Tensor
    dense_source: Tensor
    residual: Tensor
    off: float
    dense_reply: Tensor
    behind: Tensor
    slope: Tensor

    def let_go(self) -> None:
        """Give up what was needed for the refit alone."""
        self.residual = self.source = self.dense_source = self.behind = torch.empty(0)


class Judge:
    """The squared error of a layer on the images that were held out, or on all where none were."""

    def __init__(self, layer: CutLayer, items: Sequence[Wanted]) -> None:
        self.layer = layer
        self.items = [item for item in items if item.pair.held_out] or list(items)
        self.first = layer.state()
        self.outs: list[Tensor] = [layer.module.forward(item.source) for item in self.items]
        self.at_first = self.error()

    def error(self) -> Tensor:
        """One number per filter."""
        return self.errors(None)[0]

    def errors(self, bounds: Bounds | None) -> tuple[Tensor, Tensor]:
        """The error of the output, and that of what a rectifier lets through.

        Args:
            bounds: The least and the largest value that it lets through; None if there is no rectifier.

        Returns:
            One number per filter, twice; the second is behind the batch norm and the sum.
        """
        plain, through = torch.zeros(2, self.layer.filters, dtype=torch.float64, device=self.outs[0].device)
        for item, out in zip(self.items, self.outs, strict=True):
            missing = item.residual - self.layer.change_since(self.first, item.source, out)
            squares = self._squares(missing)
            plain += squares
            if bounds is None:
                through += squares * item.slope.double().square()
                continue
            now = item.behind - self.layer.along(item.slope, missing) * missing
            through += self._squares(item.behind.clamp(*bounds) - now.clamp(*bounds))
        return plain, through

    def _squares(self, values: Tensor) -> Tensor:
        dim = channel_dim(self.layer.module, values)
        axes = [axis for axis in range(values.dim()) if axis != dim]
        return values.square().sum(dim=axes, dtype=torch.float64)
