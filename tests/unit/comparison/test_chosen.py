"""What a choice rests on: a value that is whole without a search."""

from causal_prune.comparison.arms import Recipe
from causal_prune.comparison.chosen import Chosen
from causal_prune.planning.unit_choice import plan


def test_a_choice_without_a_search_has_made_no_network(plain: Recipe, known) -> None:
    graph, moments, scores = known
    chosen = Chosen(graph, moments, scores, plan(graph, scores, keep_macs=0.5), lambda _: scores)
    assert chosen.made is None and chosen.search is None
    assert chosen.rescore(moments) is chosen.scores
