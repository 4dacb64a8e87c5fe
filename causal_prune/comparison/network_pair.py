"""Two networks side by side: their maps of some images as a picture, and how far these drifted."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from causal_prune.comparison.kept_reasons import drift_of_maps
from causal_prune.data import evenly
from causal_prune.explanation import MapRow, between, colours_of, map_figure, mapped
from causal_prune.report import MapDrift, correlation

SHOWN = 12
"""So many images are drawn at most."""


@dataclass(frozen=True)
class SideBySide:
    """Two networks' maps by one method.

    Attributes:
        drift: Of the compressed network, with its floors.
        figure: Image, dense map, compressed map and difference, a row for each image.
        shown: Images that are drawn.
    """

    drift: MapDrift
    figure: Figure
    shown: int


@dataclass(frozen=True)
class Shown:
    """Images that are explained.

    Attributes:
        images: As the networks read them, shape (N, C, H, W).
        names: What each is called.
        classes: Names of the classes; those that are missing go by their number.
        mean: What was subtracted from pixels in 0..1, per channel; empty where that is not known.
        std: What they were divided by.
    """

    images: Tensor
    names: Sequence[str]
    classes: Sequence[str] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def called(self, label: int) -> str:
        """A class's name."""
        return self.classes[label] if label < len(self.classes) else str(label)


def side_by_side(
    dense: nn.Module,
    compressed: nn.Module,
    shown: Shown,
    methods: Sequence[str],
    *,
    calibration: Iterable[Any] | None = None,
    seed: int = 0,
) -> Iterator[SideBySide]:
    """Explain what the dense network predicts, by both networks.

    Args:
        dense: The network before.
        compressed: The network after, on the same device.
        shown: The images.
        methods: Of the maps.
        calibration: Batches for methods that learn statistics of a layer; None for the images themselves.
        seed: Of the network that has learned nothing.

    Yields:
        One value for each method.

    Raises:
        InputError: If a method is unknown or cannot explain a network.

    Cost: every method, thrice for the dense network and once for the other.
    """
    for method in methods:
        first = mapped(dense, shown.images, method=method, calibration=calibration)
        targets = first.targets.tolist()
        second = mapped(compressed, shown.images, targets, method=method, calibration=calibration)
        others = [("compressed", None, second)]
        drift = drift_of_maps(dense, shown.images, first, others, calibration=calibration, seed=seed)
        spearman = between(first, second).spearman
        chosen = evenly(len(shown.images), SHOWN)
        rows = [
            MapRow(
                colours_of(shown.images[k], shown.mean, shown.std),
                f"{shown.names[k]}\ndense: {shown.called(int(first.predicted[k]))}\n"
                f"compressed: {shown.called(int(second.predicted[k]))}",
                first.maps[k],
                second.maps[k],
                _remark(float(spearman[k])),
            )
            for k in chosen
        ]
        yield SideBySide(drift, map_figure(rows), len(rows))


def _remark(spearman: float) -> str:
    return "difference" if np.isnan(spearman) else f"difference (corr. {correlation(spearman)})"
