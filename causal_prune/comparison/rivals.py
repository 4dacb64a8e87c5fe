"""Other ways of choosing units: those that the causal one is compared with."""

from dataclasses import dataclass

from causal_prune.comparison.options import Rivals
from causal_prune.importance import FilterScores, score
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph


@dataclass(frozen=True)
class Rival:
    """Another way of choosing units.

    Attributes:
        name: Of the arm.
        seed: Of the scores, where they have one.
        scores: What it chooses by.
    """

    name: str
    seed: int | None
    scores: FilterScores


def rivals_of(graph: FilterGraph, moments: FilterMoments, asked: Rivals, seed: int) -> list[Rival]:
    """Scores of the arms beside the causal one.

    Args:
        graph: From `trace`.
        moments: From `observe`.
        asked: Which arms, and how many random ones.
        seed: The first random arm's seed; the others count on.

    Returns:
        The rivals, random ones first.
    """
    rivals = []
    if "random" in asked.arms:
        rivals += [
            Rival("random", k, score(graph, moments, method="random", seed=k))
            for k in range(seed, seed + asked.seeds)
        ]
    if "magnitude" in asked.arms:
        rivals.append(Rival("magnitude", None, score(graph, moments, method="magnitude")))
    return rivals
