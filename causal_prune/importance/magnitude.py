"""Weight magnitude: filters of small weights go first (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""

from torch import nn

from causal_prune.importance.scores import FilterScores, Labelled, Parents, from_filters
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph


def score(
    graph: FilterGraph,
    moments: FilterMoments,
    *,
    parents: Parents,
    seed: int,
    model: nn.Module | None = None,
    labelled: Labelled | None = None,
) -> FilterScores:
    """L1 norm of a filter's weights, divided by the mean of its layer.

    m_i = ||W_i||_1 / mean_k ||W_k||_1; a unit's score is the sum over its filters. The original prunes layer by
    layer; the division makes the layers of a coupled group comparable.

    Args:
        graph: From `trace`.
        moments: From `observe`; only the weights are read.
        parents: Not used.
        seed: Not used.
        model: Not used.
        labelled: Not used.

    Returns:
        The scores; 0 for a filter without weights.
    """
    return _norms("magnitude", 1, graph, moments)


def score_l2(
    graph: FilterGraph,
    moments: FilterMoments,
    *,
    parents: Parents,
    seed: int,
    model: nn.Module | None = None,
    labelled: Labelled | None = None,
) -> FilterScores:
    """L2 norm of a filter's weights, divided by the mean of its layer: as `score`, with ||W_i||_2.

    Args:
        graph: From `trace`.
        moments: From `observe`; only the weights are read.
        parents: Not used.
        seed: Not used.
        model: Not used.
        labelled: Not used.

    Returns:
        The scores; 0 for a filter without weights.
    """
    return _norms("magnitude_l2", 2, graph, moments)


def _norms(method: str, degree: int, graph: FilterGraph, moments: FilterMoments) -> FilterScores:
    filters = {}
    for group in graph.prunable:
        for member in group.of_role("producer"):
            norms = moments.weights[member.layer].flatten(1).norm(p=degree, dim=1)
            filters[member.layer] = norms / norms.mean().clamp_min(1e-300)
    return from_filters(method, f"share of the layer's mean L{degree} norm", graph, filters)
