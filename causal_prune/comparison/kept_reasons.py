"""Whether the arms look at the same things as the dense network, beside the floors that drift must be read against."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causal_prune.comparison.arms import Recipe
from causal_prune.comparison.outcome import Outcome
from causal_prune.data import Images, held_out, loader
from causal_prune.errors import InputError
from causal_prune.explanation import Drift, Mapped, between, mapped, mapped_anew, randomised
from causal_prune.measure import paired_difference
from causal_prune.network.running import copied
from causal_prune.progress import track
from causal_prune.report import DriftDifference, MapDrift, NetworkDrift

EXPLAINED_IMAGES = 128
"""So many test images are explained, spread evenly over the split."""


def drifts_of(recipe: Recipe, outcome: Outcome, methods: Sequence[str]) -> tuple[MapDrift, ...]:
    """Drift of every arm.

    Args:
        recipe: The dense network and its images, of which some test images are explained; no label is used.
        outcome: The arms.
        methods: Of the maps.

    Returns:
        One value for each method.

    Raises:
        InputError: If a method cannot explain the network.

    Cost: every method, once for each arm and thrice for the dense network.
    """
    if not methods:
        return ()
    images = explained_images(recipe.data.test).to(recipe.device)
    return tuple(_drift(recipe, outcome, images, method) for method in methods)


def check_explained(recipe: Recipe, methods: Sequence[str]) -> None:
    """Try methods on two images, before hours are spent.

    Both are calibration images.

    Args:
        recipe: The dense network and its images.
        methods: Of the maps.

    Raises:
        InputError: If one cannot explain the network, or the data have no classes.
    """
    if methods and not recipe.data.task.has_classes:
        raise InputError("`explain`: maps explain classes, and these data have none")
    images = [recipe.data.calibration[k % recipe.data.split["calibration"]][0] for k in range(2)]
    for method in methods:
        mapped(recipe.dense, torch.stack(images).to(recipe.device), method=method)


def explained_images(images: Images, most: int = EXPLAINED_IMAGES) -> Tensor:
    """Some images of a split, spread evenly.

    Args:
        images: The split.
        most: How many at most.

    Returns:
        Shape (images, channels, height, width).
    """
    return torch.cat([batch for batch, _ in held_out(images, most)])


def _drift(recipe: Recipe, outcome: Outcome, images: Tensor, method: str) -> MapDrift:
    calibration = loader(recipe.data.calibration)
    dense = mapped(recipe.dense, images, method=method, calibration=calibration)
    targets, maps = dense.targets.tolist(), []
    for arm in track((outcome.causal, *outcome.others), f"drift of {method}", unit="arm"):
        network = copied(arm.model).to(recipe.device)
        found = mapped(network, images, targets, method=method, calibration=calibration)
        maps.append((arm.name, arm.seed, found))
    return drift_of_maps(recipe.dense, images, dense, maps, calibration=calibration, seed=recipe.seed)


def drift_of_maps(
    network: nn.Module,
    images: Tensor,
    dense: Mapped,
    others: Sequence[tuple[str, int | None, Mapped]],
    *,
    calibration: Iterable[Any] | None = None,
    seed: int = 0,
) -> MapDrift:
    """Compare maps, and find what they must be read against.

    Args:
        network: The dense network.
        images: What was mapped.
        dense: Its maps.
        others: Name, seed and maps of other networks, of the classes that `dense` explains.
        calibration: As for `mapped`.
        seed: Of the network that has learned nothing.

    Returns:
        The drift of each, the floors, and the causal one against the random ones where there are both.

    Cost: the method's, twice.
    """
    method, targets = dense.method, dense.targets.tolist()
    bare = randomised(network, seed, images=images)
    unlearned = between(dense, mapped(bare, images, targets, method=method, calibration=calibration))
    repeated = between(dense, mapped_anew(network, images, targets, method=method, calibration=calibration))
    found = {(name, number): between(dense, maps) for name, number, maps in others}
    causal = next((drift for (name, _), drift in found.items() if name == "causal"), None)
    random = [drift for (name, _), drift in found.items() if name == "random"]
    return MapDrift(
        method=method,
        images=len(images),
        networks=tuple(_told(name, number, drift) for (name, number), drift in found.items()),
        # it classifies few images alike, and those by chance: all of them count
        unlearned=_told("unlearned", None, unlearned, everywhere=True),
        repeated=_told("repeated", None, repeated),
        causal_minus_random=None if causal is None else _difference(causal, random),
    )


def _told(name: str, seed: int | None, drift: Drift, *, everywhere: bool = False) -> NetworkDrift:
    counted = replace(drift, alike=np.ones_like(drift.alike)) if everywhere else drift
    summary = counted.summary()
    return NetworkDrift(
        name=name,
        seed=seed,
        compared=int((counted.alike & ~drift.constant).sum()),
        constant=int(drift.constant.sum()),
        disagreeing=int((~drift.alike).sum()),
        spearman=summary["spearman"],
        iou=summary["iou"],
        pointing=summary["pointing"],
        spearman_disagreeing=summary["spearman_disagreeing"],
    )


def _difference(causal: Drift, random: Sequence[Drift]) -> DriftDifference | None:
    """Causal less each random arm, on the images that both classify as the dense network does."""
    differences = []
    for other in random:
        both = causal.alike & other.alike & ~causal.constant & ~other.constant
        if both.any():
            differences.append(float(np.mean(causal.spearman[both] - other.spearman[both])))
    if not differences:
        return None
    found = paired_difference(differences)
    return DriftDifference(mean=found.mean, ci95=found.ci95, wins_of=(found.wins, found.of))
