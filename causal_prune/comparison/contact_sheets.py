"""Pictures of the test images that paid: what they are, what the networks say, and where both look."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causal_prune.comparison.arms import Recipe
from causal_prune.comparison.flips import flipped
from causal_prune.comparison.outcome import Outcome, Sheet
from causal_prune.data import evenly
from causal_prune.errors import InputError
from causal_prune.explanation import MapRow, colours_of, map_figure, mapped
from causal_prune.network.running import copied
from causal_prune.progress import status
from causal_prune.report import Harm, Picture

LOST, GAINED, EXEMPLARS = 8, 4, 16
"""So many images of each kind are shown."""
METHOD = "grad_cam"
Map: TypeAlias = NDArray[np.float64] | None


def sheets_of(recipe: Recipe, outcome: Outcome, harm: Harm | None) -> tuple[Sheet, ...]:
    """Draw flipped images with both networks' maps, and exemplars.

    Args:
        recipe: The dense network and its images.
        outcome: The arms.
        harm: From `harm_of`.

    Returns:
        The pictures; none of what there is not.
    """
    if harm is None:
        return ()
    dense, causal = outcome.dense.stages.end, outcome.causal.stages.end
    lost, gained = flipped(dense, causal)
    chosen = [
        int(part[k]) for part, most in ((lost, LOST), (gained, GAINED)) for k in evenly(len(part), most)
    ]
    voted = harm.exemplars.images[:EXEMPLARS]
    with status("draw the images that paid"):
        fetched = {k: recipe.data.test[k][0] for k in {*chosen, *(each.image for each in voted)}}
        found = (_flipped(recipe, outcome, chosen, fetched), _exemplars(recipe, harm, fetched))
    return tuple(sheet for sheet in found if sheet is not None)


def _flipped(
    recipe: Recipe, outcome: Outcome, chosen: Sequence[int], fetched: Mapping[int, Tensor]
) -> Sheet | None:
    if not chosen:
        return None
    dense, causal = outcome.dense.stages.end, outcome.causal.stages.end
    lost, gained = flipped(dense, causal)
    images = torch.stack([fetched[k] for k in chosen])
    labels = torch.from_numpy(dense.labels[chosen])
    maps, how = _maps(recipe, outcome, images, labels)
    rows = [
        MapRow(
            colours_of(image, recipe.data.mean, recipe.data.std),
            f"{'lost' if k in lost else 'gained'}: {_name(recipe, dense.labels[k])}\n"
            f"dense: {_name(recipe, dense.predictions[k])}\ncausal: {_name(recipe, causal.predictions[k])}",
            first,
            second,
        )
        for k, image, (first, second) in zip(chosen, images, maps, strict=True)
    ]
    shown_lost = min(len(lost), LOST)
    caption = (
        f"{shown_lost} of {len(lost):,} test images that were lost and {len(chosen) - shown_lost} of {len(gained):,} "
        f"that were gained, with the right class and what both networks say. {how}"
    )
    told = Picture(name="flipped", title="Images that were lost and gained", caption=caption)
    return Sheet(told, map_figure(rows, heads=("dense", "causal"), difference=False, across=2))


def _maps(
    recipe: Recipe, outcome: Outcome, images: Tensor, labels: Tensor
) -> tuple[Sequence[tuple[Map, Map]], str]:
    """Both networks' maps of every image, and how they were made; none where the network has no maps to show."""
    try:
        dense, causal = (
            mapped(copied(arm.model).to(recipe.device), images.to(recipe.device), labels, method=METHOD).maps
            for arm in (outcome.dense, outcome.causal)
        )
    except InputError as error:
        return [(None, None) for _ in images], f"Without maps: {error}."
    how = "Maps: Grad-CAM of the right class; both of an image have one scale."
    return list(zip(dense, causal, strict=True)), how


def _exemplars(recipe: Recipe, harm: Harm, fetched: Mapping[int, Tensor]) -> Sheet | None:
    found = harm.exemplars
    shown = found.images[:EXEMPLARS]
    if not shown:
        return None
    rows = [
        MapRow(
            colours_of(fetched[each.image], recipe.data.mean, recipe.data.std),
            f"{_name(recipe, each.label)}\ndense: {_name(recipe, each.dense)}\n"
            f"{each.disagreeing} of {found.population}: {_name(recipe, each.arms)}",
        )
        for each in shown
    ]
    caption = (
        f"{len(shown)} of {found.count:,} test images on which most pruned networks predict another class than the "
        "dense one: the right class, what dense says, how many arms disagree and what most of these say."
    )
    told = Picture(name="exemplars", title="Images on which most arms disagree with dense", caption=caption)
    return Sheet(told, map_figure(rows, across=min(8, len(rows))))


def _name(recipe: Recipe, label: int) -> str:
    names = recipe.data.classes
    return names[label] if 0 <= label < len(names) else str(label)
