"""The comparison of arms: which ones run, what they export, and what the report says of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from causal_prune.errors import InputError
from causal_prune.importance import FilterScores, score
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph

ARMS = ("causal", "random", "magnitude")


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


def rivals_of(
    graph: FilterGraph, moments: FilterMoments, arms: Sequence[str], random_seeds: int, seed: int
) -> list[Rival]:
    """Scores of the arms beside the causal one.

    Args:
        graph: From `trace`.
        moments: From `observe`.
        arms: Names; "causal" is passed over.
        random_seeds: Number of random arms.
        seed: The first random arm's seed; the others count on.

    Returns:
        The rivals, random ones first.

    Raises:
        InputError: If an arm is unknown, or `random_seeds` is below 1.
    """
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise InputError(f"arms: {unknown[0]!r} is not one of {', '.join(ARMS)}")
    if random_seeds < 1:
        raise InputError(f"random_seeds: {random_seeds} is not at least 1")
    rivals = []
    if "random" in arms:
        rivals += [
            Rival("random", k, score(graph, moments, method="random", seed=k))
            for k in range(seed, seed + random_seeds)
        ]
    if "magnitude" in arms:
        rivals.append(Rival("magnitude", None, score(graph, moments, method="magnitude")))
    return rivals
