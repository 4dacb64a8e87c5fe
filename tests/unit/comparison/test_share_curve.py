"""Quality against the share removed: which images are read, which plans are made."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from causal_prune.comparison.arms import Recipe
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.rivals import rivals_of
from causal_prune.comparison.share_curve import CURVE_IMAGES, SHARES, curve, curve_by_share
from causal_prune.compensation.compensation import compensate
from causal_prune.data.data import loader
from causal_prune.importance.scores import FilterScores
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.removal import remove
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace
from tests.unit.counted_images import Counted


def scored(net: nn.Module, seed: int = 0) -> tuple[FilterGraph, FilterScores]:
    graph = trace(net, torch.zeros(1, 2, 6, 6))
    draw = torch.Generator().manual_seed(seed)
    groups = {g.name: torch.rand(g.size, generator=draw, dtype=torch.float64) for g in graph.prunable}
    return graph, FilterScores("test", "", groups, {})


def test_the_curve_is_measured_on_the_first_validation_images(recipe: Recipe) -> None:
    validation = Counted(CURVE_IMAGES + 20, 9)
    recipe = replace(recipe, data=replace(recipe.data, validation=validation))
    graph, scores = scored(recipe.dense)
    keys = [(0.3, "causal", 0), (0.6, "random", 2)]
    plans = {key: (lambda share=key[0]: plan(graph, scores, remove_filters=share)) for key in keys}
    found = curve(recipe, plans)
    assert list(found) == keys
    assert validation.fetched == Counter(dict.fromkeys(range(CURVE_IMAGES), 2))
    assert not recipe.data.test.fetched and not recipe.data.train.fetched
    for key, make in plans.items():
        small = compensate(
            remove(recipe.dense, make()), recipe.dense, loader(recipe.data.calibration), method="batchnorm"
        )
        with torch.no_grad():
            hits = small(validation.images[:CURVE_IMAGES]).argmax(1) == validation.labels[:CURVE_IMAGES]
        assert found[key] == pytest.approx(float(hits.double().mean()))


def test_the_curve_has_causal_and_every_random_seed_at_every_share(
    plain: Recipe, known, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, moments, scores = known
    rivals = rivals_of(graph, moments, Rivals(random_seeds=2), seed=4)
    asked = {}

    def stand_in(_recipe, plans) -> dict[tuple[float, str, int], float]:
        asked.update({key: make() for key, make in plans.items()})
        return {key: key[0] + (10 + key[2] if key[1] == "random" else 0) for key in plans}

    monkeypatch.setattr("causal_prune.comparison.share_curve.curve", stand_in)
    monkeypatch.setattr("causal_prune.comparison.share_curve.Curve", lambda **fields: fields)
    found = curve_by_share(plain, graph, scores, rivals)
    assert found["shares"] == SHARES and found["causal"] == SHARES
    assert found["random"] == tuple((share + 14, share + 15) for share in SHARES)
    for (share, name, seed), chosen in asked.items():
        theirs = replace(scores, curves={}) if name == "causal" else rivals[seed - 4].scores
        assert chosen == plan(graph, theirs, remove_filters=share)
