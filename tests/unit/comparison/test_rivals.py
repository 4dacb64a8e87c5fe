"""Other ways of choosing units."""

import torch

from causal_prune.comparison.options import Rivals
from causal_prune.comparison.rivals import rivals_of
from causal_prune.importance.scoring import score


def test_random_rivals_count_their_seeds_on_and_magnitude_has_none(known) -> None:
    graph, moments, _ = known
    rivals = rivals_of(graph, moments, Rivals(random_seeds=3), seed=5)
    assert [(rival.name, rival.seed) for rival in rivals] == [
        ("random", 5), ("random", 6), ("random", 7), ("magnitude", None)
    ]  # fmt: skip
    expected = score(graph, moments, method="random", seed=6).groups["0"]
    assert torch.equal(rivals[1].scores.groups["0"], expected)
    assert rivals_of(graph, moments, Rivals(arms=("causal",)), seed=5) == []
