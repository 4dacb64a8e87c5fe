"""Random scores: the baseline that every method must beat."""

import torch
from torch import Tensor, nn

from causal_prune.importance.scores import FilterScores, Labelled, Parents, from_units
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph, Group


def score(
    graph: FilterGraph,
    moments: FilterMoments,
    *,
    parents: Parents,
    seed: int,
    model: nn.Module | None = None,
    labelled: Labelled | None = None,
) -> FilterScores:
    """Independent uniform numbers in [0, 1), one per unit.

    Args:
        graph: From `trace`.
        moments: Not used.
        parents: Not used.
        seed: Of a generator of its own; the global random state is not touched.
        model: Not used.
        labelled: Not used.

    Returns:
        The scores; the same for the same graph and seed.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(group: Group) -> Tensor:
        return torch.rand(group.size, generator=generator, dtype=torch.float64)

    return from_units("random", "uniform random number", graph, draw)
