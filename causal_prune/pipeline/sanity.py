"""Whether the network that is to be pruned knows its images at all: asked before an hour is spent."""

import numpy as np
import torch
from scipy import stats

from causal_prune.comparison import Recipe
from causal_prune.data import held_out
from causal_prune.errors import warn
from causal_prune.measure import Measured, change_interval, evaluate

ALPHA = 0.05
FEWEST = 20
"""Fewer images do not tell a network that knows them from chance, and are not looked at."""
NEAR, HALF = 2, 0.5
"""A share of right images below so many times chance, and below one half, is near chance."""


def doubts(recipe: Recipe) -> tuple[str, ...]:
    """Look at the dense network on at most 1,000 validation images, and warn where it is no better than a guess.

    The guess knows the labels and no image. For classes it always names the largest class of these images, whose share
    q is chance; of n images the network has c right, a share a. It is doubted where c is not above chance
    (binomial(n, q), one-sided, p > 0.05), or near it: a < 2 q and a < 1/2. A network that was trained and is fed as it
    was trained is far above both; a wrong normalisation, a wrong order of classes or wrong weights leave it there. For
    numbers the guess always names the mean label, and the network is doubted unless the 95 % interval of its gain, on
    the same images, lies above 0. A network may be meant to know nothing: this is a warning. Other tasks, and fewer
    than 20 images, are not looked at.

    Args:
        recipe: The network and its images.

    Returns:
        What was warned of, for the notes of the report; empty where the network knows its images.

    Raises:
        InputError: If the network and the labels do not fit together.

    Cost:
        One forward pass over these images.
    """
    task, data = recipe.data.task, recipe.data
    if data.split["validation"] < FEWEST:
        return ()
    images = held_out(data.validation)
    found = evaluate(
        {"dense": recipe.dense}, images, task=task, device=recipe.device, label="check the network"
    )["dense"]
    text = _of_classes(recipe, found) if task.has_classes else _of_numbers(recipe, found)
    if text is None:
        return ()
    warn(text)
    return (text,)


def _of_classes(recipe: Recipe, found: Measured) -> str | None:
    """What is wrong with a classifier; None where nothing is, or its labels are no classes."""
    if found.correct is None or found.labels.ndim != 1:
        return None
    chance = float(np.unique(found.labels, return_counts=True)[1].max()) / found.total
    above = stats.binomtest(found.correct, found.total, chance, alternative="greater").pvalue <= ALPHA
    near = found.value < NEAR * chance and found.value < HALF
    if above and not near:
        return None
    yardstick = recipe.data.task.yardstick
    return (
        f"the dense network is right on {yardstick.text(found.value, 1)} of {found.total:,} validation "
        f"{yardstick.item}s, and always naming their largest class would be on {yardstick.text(chance, 1)}: check the "
        "normalisation (mean, std), the order of the classes, and whether the weights are those of this network"
    )


def _of_numbers(recipe: Recipe, found: Measured) -> str | None:
    """The same of a network that returns numbers."""
    task, yardstick = recipe.data.task, recipe.data.task.yardstick
    plain = found.labels.dtype.kind == "f" and found.predictions.shape == found.labels.shape
    if not plain or yardstick.kind != "number":
        return None
    labels = torch.from_numpy(found.labels)
    guessed = task.merits(torch.full_like(labels, float(labels.double().mean())), labels).numpy()
    low = min(map(yardstick.gain, change_interval(found.merits, guessed)))
    if low > 0:
        return None
    guess = yardstick.text(float(guessed.mean()))
    return (
        f"the dense network has a {yardstick.name} of {yardstick.text(found.value)} on {found.total:,} validation "
        f"{yardstick.item}s, and always naming their mean label would have {guess}: check "
        "the normalisation (mean, std), the unit of the labels, and whether the weights are those of this network"
    )
