"""The table of methods, and the verb `score` that calls them."""

from collections.abc import Mapping

from torch import nn

from causal_prune.errors import InputError
from causal_prune.importance import (
    ablation,
    batchnorm_scale,
    documented,
    geometric_median,
    iba,
    magnitude,
    pcace,
    random,
    structural,
    taylor,
)
from causal_prune.importance.scores import FilterScores, Labelled, Method, Parents
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph

METHODS: Mapping[str, Method] = {
    "documented": documented.score,
    "structural": structural.score,
    "magnitude": magnitude.score,
    "magnitude_l2": magnitude.score_l2,
    "taylor": taylor.score,
    "geometric_median": geometric_median.score,
    "batchnorm_scale": batchnorm_scale.score,
    "ablation": ablation.score,
    "pcace": pcace.score,
    "iba": iba.score,
    "random": random.score,
}

WITH_LABELS = frozenset({"taylor", "ablation", "pcace", "iba"})
"""Methods that look at the loss: they need the network and labelled images."""


def score(
    graph: FilterGraph,
    moments: FilterMoments,
    *,
    method: str = "structural",
    parents: Parents | None = None,
    seed: int = 0,
    model: nn.Module | None = None,
    labelled: Labelled | None = None,
) -> FilterScores:
    """How much every unit matters; units of small scores go first.

    Args:
        graph: From `trace`.
        moments: From `observe`, over the same graph.
        method: A name in `METHODS`.
        parents: For "documented": "chain" for the convolution registered before, as the original does,
            "graph" for the true parents (the default).
        seed: Of all that a method draws at random.
        model: The dense network that `graph` was traced from; it is not changed. Methods that look at more than
            the moments (all but "documented", "structural", "magnitude", "magnitude_l2", "geometric_median" and
            "random") need it.
        labelled: Batches (inputs, labels) of images that the network was not trained on, in a list or a loader;
            the methods in `WITH_LABELS` need them.

    Returns:
        One score per unit of every prunable group, 0 for a unit without effect; never negative or NaN.

    Raises:
        InputError: If the method is unknown, or lacks the network or the images that it needs.
    """
    if method not in METHODS:
        raise InputError(f"score: method {method!r} is not one of {', '.join(METHODS)}")
    return METHODS[method](
        graph, moments, parents=parents or "graph", seed=seed, model=model, labelled=labelled
    )
