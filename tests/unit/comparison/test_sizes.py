"""Sizes side by side: the widths of all arms, the images that are read, and sizes that cannot be reached."""

from dataclasses import replace

import pytest
import torch

from causal_prune.comparison.arms import Recipe, make_arm
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.rivals import rivals_of
from causal_prune.comparison.sizes import sizes_of
from causal_prune.measure import count_cost, largest_loss
from causal_prune.planning.targets import Goal
from causal_prune.planning.unit_choice import plan
from causal_prune.tracing.network_trace import trace
from tests.unit.comparison.conftest import network


def test_every_size_has_all_arms_at_its_widths(plain: Recipe, known) -> None:
    graph, moments, scores = known
    rivals = rivals_of(graph, moments, Rivals(random_seeds=2), 4)
    goal = Goal(max_drop=0.9)
    dense, sizes = sizes_of(
        plain, graph, goal, (0.7, 0.3, 0.0001), lambda s: plan(graph, scores, keep_macs=s), rivals
    )
    assert dense.network is plain.dense and dense.told.keep == 1 and len(dense.told.arms) == 1
    images, labels = plain.data.validation.tensors
    with torch.no_grad():
        before = (plain.dense(images).argmax(1) == labels).numpy()
    for size in sizes[:2]:
        assert [(arm.name, arm.seed) for arm in size.told.arms] == [
            ("causal", None), ("random", 4), ("random", 5), ("magnitude", None)
        ]  # fmt: skip
        assert size.told.macs == count_cost(size.network, plain.example).macs
        made = make_arm(plain, size.plan, label="again", mode="remove").end
        with torch.no_grad():
            after = (made(images).argmax(1) == labels).numpy()
        assert size.told.causal.quality == pytest.approx(after.mean())
        assert (size.told.drop, size.told.at_most) == pytest.approx(largest_loss(before, after))
        assert size.told.within == (size.told.at_most <= 0.9)
    assert sizes[0].told.macs > sizes[1].told.macs
    assert sizes[2].plan is None and "out of reach" in sizes[2].told.unreached


def test_the_test_split_is_not_read(recipe: Recipe) -> None:
    recipe = replace(recipe, tuning=replace_epochs(recipe))
    graph = trace(network(), recipe.example)
    groups = {g.name: torch.rand(g.size, dtype=torch.float64) for g in graph.prunable}
    from causal_prune.importance.scores import FilterScores

    scores = FilterScores("test", "", groups, {})
    sizes_of(recipe, graph, Goal(max_drop=0.1), (0.5,), lambda s: plan(graph, scores, keep_macs=s), ())
    assert not recipe.data.test.fetched and not recipe.data.train.fetched
    assert set(recipe.data.validation.fetched.values()) == {2}


def replace_epochs(recipe: Recipe):
    return recipe.tuning.model_copy(update={"epochs": 0})
