"""Whether it makes sense to go on: a network that is no better than chance before anything is cut."""

from collections import Counter

import numpy as np
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from torch.utils.data import Subset

from causal_prune.comparison import Recipe
from causal_prune.data import evenly, loader
from causal_prune.errors import warn
from causal_prune.measure import evaluate

MOST_IMAGES = 1000
SURE = 0.01
"""Of a network that guesses so small a share of sets of images would look as good."""
TIMES_CHANCE = 2.0
"""A network that is right less than so many times as often as chance is no trained one, however many images say so."""


def check_dense(recipe: Recipe) -> str | None:
    """Look at the dense network on validation images, before an hour is spent.

    A network is taken for one that guesses where it is right on less than twice as many images as the commonest class
    would be, and on less than half of all; or where an exact one-sided binomial test at 1 % cannot tell it from that
    class. Networks without classes are not judged.

    Args:
        recipe: The dense network, and validation images, of which up to 1,000 are read.

    Returns:
        What is wrong, which is also given as a warning; None where nothing is.

    Cost: one pass over these images.
    """
    if not recipe.data.task.has_classes:
        return None
    positions = evenly(recipe.data.split["validation"], MOST_IMAGES)
    images = loader(Subset(recipe.data.validation, positions))
    found = evaluate(
        {"dense": recipe.dense}, images, task=recipe.data.task, device=recipe.device, label="dense: check"
    )["dense"]
    if found.correct is None or found.total < 2:
        return None
    chance = max(Counter(found.labels.tolist()).values()) / found.total
    guess = float(stats.binom.sf(found.correct - 1, found.total, chance))
    poor = found.value < TIMES_CHANCE * chance and found.value < 0.5 and len(np.unique(found.labels)) > 2
    if guess < SURE and not poor:
        return None
    text = (
        f"the dense network is right on {found.value:.1%} of {found.total:,} validation images, their commonest class "
        f"alone would be on {chance:.1%}: check the normalisation (`mean`, `std`), the order of the classes, and "
        "whether these weights are those of this network"
    )
    warn(text)
    return text
