"""Random scores: the baseline that every method must beat."""

import torch
from torch import Tensor

from causal_prune.importance.evidence import Evidence
from causal_prune.importance.scores import FilterScores, from_units
from causal_prune.tracing import Group


def score(evidence: Evidence) -> FilterScores:
    """Independent uniform numbers in [0, 1), one per unit.

    Args:
        evidence: The graph, and the seed of a generator of its own; the global random state is not touched.

    Returns:
        The scores; the same for the same graph and seed.
    """
    generator = torch.Generator().manual_seed(evidence.seed)

    def draw(group: Group) -> Tensor:
        return torch.rand(group.size, generator=generator, dtype=torch.float64)

    return from_units("random", "uniform random number", evidence.graph, draw)
