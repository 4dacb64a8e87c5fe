"""Weight magnitude: filters of small weights go first (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""

from causal_prune.importance.evidence import Evidence
from causal_prune.importance.scores import FilterScores, from_filters
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph


def score(evidence: Evidence) -> FilterScores:
    """L1 norm of a filter's weights, divided by the mean of its layer.

    m_i = ||W_i||_1 / mean_k ||W_k||_1; a unit's score is the sum over its filters. The original prunes layer by
    layer; the division makes the layers of a coupled group comparable.

    Args:
        evidence: The graph, and of the moments the weights.

    Returns:
        The scores; 0 for a filter without weights.
    """
    return _norms("magnitude", 1, evidence.graph, evidence.moments)


def score_l2(evidence: Evidence) -> FilterScores:
    """L2 norm of a filter's weights, divided by the mean of its layer: as `score`, with ||W_i||_2.

    Args:
        evidence: The graph, and of the moments the weights.

    Returns:
        The scores; 0 for a filter without weights.
    """
    return _norms("magnitude_l2", 2, evidence.graph, evidence.moments)


def _norms(method: str, degree: int, graph: FilterGraph, moments: FilterMoments) -> FilterScores:
    filters = {}
    for group in graph.prunable:
        for member in group.of_role("producer"):
            norms = moments.weights[member.layer].flatten(1).norm(p=degree, dim=1)
            filters[member.layer] = norms / norms.mean().clamp_min(1e-300)
    return from_filters(method, f"share of the layer's mean L{degree} norm", graph, filters)
