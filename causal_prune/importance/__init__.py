"""Filter importances: one file per method, one literal table of methods."""

from collections.abc import Mapping

from causal_prune.errors import InputError
from causal_prune.filter_graph import FilterGraph
from causal_prune.filter_moments import FilterMoments
from causal_prune.importance import documented, magnitude, random, structural
from causal_prune.importance.scores import EliminationCurve, FilterScores, Method, Parents

METHODS: Mapping[str, Method] = {
    "documented": documented.score,
    "structural": structural.score,
    "magnitude": magnitude.score,
    "random": random.score,
}


def score(
    graph: FilterGraph,
    moments: FilterMoments,
    *,
    method: str = "structural",
    parents: Parents | None = None,
    seed: int = 0,
) -> FilterScores:
    """How much every unit matters; units of small scores go first.

    Args:
        graph: From `trace`.
        moments: From `observe`, over the same graph.
        method: A name in `METHODS`.
        parents: For "documented": "chain" for the convolution registered before, as the original does,
            "graph" for the true parents (the default).
        seed: For "random".

    Returns:
        One score per unit of every prunable group, 0 for a unit without effect; never negative or NaN.

    Raises:
        InputError: If the method is unknown.
    """
    if method not in METHODS:
        raise InputError(f"--importance: {method!r} is not one of {', '.join(METHODS)}")
    return METHODS[method](graph, moments, parents=parents or "graph", seed=seed)


__all__ = ["METHODS", "EliminationCurve", "FilterScores", "score"]
