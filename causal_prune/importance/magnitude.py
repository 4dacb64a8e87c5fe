"""Weight magnitude: filters of small weights go first (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""

from causal_prune.filter_graph import FilterGraph
from causal_prune.filter_moments import FilterMoments
from causal_prune.importance.scores import FilterScores, Parents, from_filters


def score(graph: FilterGraph, moments: FilterMoments, *, parents: Parents, seed: int) -> FilterScores:
    """L1 norm of a filter's weights, divided by the mean of its layer.

    m_i = ||W_i||_1 / mean_k ||W_k||_1; a unit's score is the sum over its filters. The original prunes layer by
    layer; the division makes the layers of a coupled group comparable.

    Args:
        graph: From `trace`.
        moments: From `observe`; only the weights are read.
        parents: Not used.
        seed: Not used.

    Returns:
        The scores; 0 for a filter without weights.
    """
    filters = {}
    for group in graph.prunable:
        for member in group.of_role("producer"):
            norms = moments.weights[member.layer].abs().sum(dim=(1, 2))
            filters[member.layer] = norms / norms.mean().clamp_min(1e-300)
    return from_filters("magnitude", "share of the layer's mean L1 norm", graph, filters)
