"""Layers in series: which layers one reader alone reads, through norms and rectifiers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.output_paths import Bounds


@dataclass(frozen=True)
class Series:
    """Layers of which each reads what a rectifier lets through of the one before, and nothing else reads that.

    Attributes:
        names: Of the layers, in order of execution.
        layers: The layers.
        bounds: The least and the largest value that the rectifier behind each but the last lets through.
    """

    names: tuple[str, ...]
    layers: tuple[CutLayer, ...]
    bounds: tuple[Bounds, ...]

    def read_by_last(self, source: Tensor) -> Tensor:
        """What the last layer reads.

        Args:
            source: What the first one reads.

        Returns:
            The tensor behind the last rectifier.
        """
        for layer, bounds in zip(self.layers, self.bounds, strict=False):
            source = layer.behind_norm(cast(Tensor, layer.module.forward(source))).clamp(*bounds)
        return source

    @property
    def unknowns(self) -> int:
        """Number of weights of all layers."""
        return sum(layer.weight.numel() for layer in self.layers)


def series_in(
    feeders: Mapping[str, str], rectified: Mapping[str, Bounds], layers: Mapping[str, CutLayer]
) -> dict[str, Series]:
    """What is to be refitted together: layers that lost inputs, hence cannot do what they did, and those before them.

    A series begins with the layer before that one, or earlier, as long as no layer in between lost what it mixes: a
    depthwise convolution between two others belongs to a series of three.

    Args:
        feeders: By layer the one whose rectified output it alone reads.
        rectified: By layer the bounds of that rectifier.
        layers: By name those whose weights may change.

    Returns:
        By last layer its series.
    """

    def incomplete(name: str) -> bool:
        """Whether channels are missing in what a layer returns."""
        layer = layers[name]
        return layer.lost_filters or (
            layer.depthwise and feeders.get(name) in layers and incomplete(feeders[name])
        )

    def bereft(name: str) -> bool:
        """Whether a layer lacks what it mixed."""
        if layers[name].depthwise:
            return False
        return layers[name].lost_inputs or (feeders.get(name) in layers and incomplete(feeders[name]))

    found = {}
    for last in layers:
        if feeders.get(last) not in layers or not bereft(last):
            continue
        names = [feeders[last], last]
        while not bereft(names[0]) and feeders.get(names[0]) in layers:
            names.insert(0, feeders[names[0]])
        found[last] = Series(
            tuple(names), tuple(layers[name] for name in names), tuple(rectified[name] for name in names[:-1])
        )
    return found
