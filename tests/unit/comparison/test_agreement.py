"""Spearman's correlation, against ranks made by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from causal_prune.comparison.agreement import (
    Sample,
    agreement,
    judge,
    median_agreement,
    spearman_by_group,
    spread_units,
)
from causal_prune.comparison.arms import Recipe
from causal_prune.errors import InputError
from causal_prune.importance.ablation import Ablation, ablate, joined
from causal_prune.importance.scores import FilterScores
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import FilterMoments, observe


def by_hand(a: list[float], b: list[float]) -> float:
    """Pearson's correlation of mean ranks, by counting."""

    def ranks(values: list[float]) -> list[float]:
        return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]

    x, y = ranks(a), ranks(b)
    mean = (len(a) + 1) / 2
    covariance = sum((p - mean) * (q - mean) for p, q in zip(x, y, strict=True))
    return covariance / math.sqrt(sum((p - mean) ** 2 for p in x) * sum((q - mean) ** 2 for q in y))


def test_spearman_equals_the_ranks_counted_by_hand_with_ties():
    a = {"first": [0.3, 0.1, 0.1, 0.9, 0.5], "second": [4.0, 3.0, 2.0, 1.0]}
    b = {"first": [2.0, 2.0, 1.0, 7.0, 3.0], "second": [1.0, 2.0, 3.0, 4.0]}

    found = spearman_by_group(a, b)

    assert found["first"] == pytest.approx(by_hand(a["first"], b["first"]))
    assert found["second"] == pytest.approx(-1.0)


def test_tensors_arrays_and_lists_agree_and_units_do_not_matter():
    scores = [0.3, 0.1, 0.2, 0.9]
    tensor = torch.tensor([8.0, 1.0, 6.0, 5.0], requires_grad=True)
    expected = spearman_by_group({"g": scores}, {"g": [8.0, 1.0, 6.0, 5.0]})["g"]

    assert spearman_by_group({"g": np.array(scores)}, {"g": tensor})["g"] == pytest.approx(expected)
    assert spearman_by_group({"g": [1e6 * s**3 for s in scores]}, {"g": tensor})["g"] == pytest.approx(
        expected
    )


def test_undefined_correlations_are_none_and_skipped_by_the_median():
    found = spearman_by_group(
        {"constant": [1.0, 1.0, 1.0], "single": [2.0], "up": [1.0, 2.0, 3.0], "mixed": [1.0, 2.0, 3.0]},
        {"constant": [1.0, 2.0, 3.0], "single": [1.0], "up": [4.0, 5.0, 6.0], "mixed": [1.0, 3.0, 2.0]},
    )

    assert found["constant"] is None and found["single"] is None
    assert median_agreement(found) == pytest.approx((1.0 + 0.5) / 2)
    assert median_agreement({"constant": None}) is None
    assert median_agreement({}) is None


@pytest.mark.parametrize(
    ("b", "message"),
    [
        ({"h": [1.0, 2.0]}, "group 'g' is in one of"),
        ({"g": [1.0, 2.0, 3.0]}, r"group 'g' has shape \(2,\) in scores_a and \(3,\)"),
        ({"g": [1.0, math.nan]}, "group 'g' has a score that is not finite"),
    ],
)
def test_scores_that_do_not_correspond_are_refused(b, message):
    with pytest.raises(InputError, match=message):
        spearman_by_group({"g": [1.0, 2.0]}, b)


def test_a_method_is_compared_on_the_ablated_units_alone() -> None:
    scores = FilterScores("any", "unit", {"a": torch.tensor([5.0, 1.0, 2.0, 3.0]), "b": torch.ones(3)}, {})
    rise = {"a": torch.tensor([-0.2, 0.1, 0.3]), "b": torch.zeros(0)}
    judge = Ablation(7, 1.0, {"a": (1, 2, 3), "b": ()}, rise, {})
    found = agreement(scores, judge)
    assert (found.method, found.images, found.units, found.median) == ("any", 7, 3, 1.0)
    assert dict(found.spearman_by_group) == {"a": pytest.approx(1.0)}
    with pytest.raises(InputError, match="group 'c' was ablated but has no scores"):
        agreement(scores, replace(judge, units={"c": (0,)}))


def test_units_are_drawn_without_repetition_and_follow_the_seed() -> None:
    sizes = {"a": 40, "b": 5}
    drawn = spread_units(sizes, 16, seed=1)
    assert len(set(drawn["a"])) == 16 and drawn["a"] == sorted(drawn["a"]) and max(drawn["a"]) < 40
    assert drawn["b"] == [0, 1, 2, 3, 4]
    assert spread_units(sizes, 16, seed=1) == drawn != spread_units(sizes, 16, seed=2)


def test_the_judge_is_ablation_of_some_units_on_validation_images(plain: Recipe, known) -> None:
    graph, _, scores = known

    def rescore(moments: FilterMoments) -> FilterScores:
        return score(graph, moments)

    found = judge(plain, graph, scores, rescore, Sample(16, 0, most_images=36))
    labelled = plain.data.validation.tensors
    chosen = [2 * (k * 20 // 18) + start for start in (0, 1) for k in range(18)]
    units = spread_units({"0": 10, "3": 20}, 16)
    parts = [
        ablate(plain.dense, graph, [tuple(part[half] for part in labelled)], units=units)
        for half in (chosen[:18], chosen[18:])
    ]
    literal = joined(*parts)
    expected = spearman_by_group(
        {name: scores.groups[name][places] for name, places in units.items()}, literal.rise
    )
    assert found.spearman_by_group == pytest.approx(expected)
    assert (found.images, found.units, found.method) == (36, 26, "structural")
    reliability = spearman_by_group(parts[0].rise, parts[1].rise)
    assert found.reliability == pytest.approx(sum(reliability.values()) / 2)
    halves = [plain.data.calibration.tensors[0][start::2] for start in (0, 1)]
    first, second = (rescore(observe(plain.dense, graph, [half])).groups for half in halves)
    stability = spearman_by_group(first, second)
    assert found.stability == pytest.approx(sum(stability.values()) / 2)


def test_ablation_is_not_judged_by_itself(plain: Recipe, known) -> None:
    graph, _, scores = known
    own = replace(scores, method="ablation")
    assert judge(plain, graph, own, lambda moments: own) is None
