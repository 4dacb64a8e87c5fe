"""Geometric median: filters that the others of their layer can stand in for go first (He et al. 2019, FPGM)."""

import torch

from causal_prune.importance.evidence import Evidence
from causal_prune.importance.scores import FilterScores, from_filters


def score(evidence: Evidence) -> FilterScores:
    """Sum of a filter's distances to all filters of its layer, divided by the mean of the layer.

    g_i = sum_k ||W_i - W_k||_2 (He et al. 2019, "Filter Pruning via Geometric Median", eq. 6), with W_i the filter's
    weights as one vector; a unit's score is the sum over its filters. The original prunes layer by layer; the
    division makes the layers of a coupled group comparable. A filter without weights is as far from the others as
    they are long: it does not score 0.

    Args:
        evidence: The graph, and of the moments the weights.

    Returns:
        The scores; 0 where all filters of a layer are the same.

    Cost: quadratic in the filters of a layer.
    """
    filters = {}
    for group in evidence.graph.prunable:
        for member in group.of_role("producer"):
            rows = evidence.moments.weights[member.layer].flatten(1)
            # the exact form: the one by matrix products leaves 1e-8 between equal rows
            distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(dim=1)
            filters[member.layer] = distances / distances.mean().clamp_min(1e-300)
    return from_filters("geometric_median", "share of the layer's mean distance", evidence.graph, filters)
