"""One arm: what it reads, its stages, its masks."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from causal_prune.comparison.arms import Recipe, dense_arm, make_arm, pruned, run_arm, run_rival, shipped
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.rivals import rivals_of
from causal_prune.compensation.compensation import compensate
from causal_prune.compensation.options import Repair
from causal_prune.data.data import loader
from causal_prune.fine_tuning.options import Tuning
from causal_prune.importance.scores import FilterScores
from causal_prune.measure.cost import count_cost
from causal_prune.measure.quality import evaluate
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.removal import remove
from causal_prune.surgery.silencing import zero, zero_masks
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace


def scored(net: nn.Module, seed: int = 0) -> tuple[FilterGraph, FilterScores]:
    graph = trace(net, torch.zeros(1, 2, 6, 6))
    draw = torch.Generator().manual_seed(seed)
    groups = {g.name: torch.rand(g.size, generator=draw, dtype=torch.float64) for g in graph.prunable}
    return graph, FilterScores("test", "", groups, {})


def planned(net: nn.Module, share: float = 0.5) -> PruningPlan:
    return plan(*scored(net), remove_filters=share)


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_an_arm_reads_each_test_image_once_for_all_its_stages(recipe: Recipe, mode: str) -> None:
    arm = run_arm(recipe, planned(recipe.dense), name="causal", importance="test", seed=None, mode=mode)
    assert recipe.data.test.fetched == Counter(range(40))
    assert recipe.data.train.fetched == Counter(range(60)), "one epoch"
    assert [stage.total for stage in vars(arm.stages).values()] == [40] * 4


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_the_stages_are_those_of_the_networks_on_the_way(recipe: Recipe, mode: str) -> None:
    chosen = planned(recipe.dense)
    before = {key: value.clone() for key, value in recipe.dense.state_dict().items()}
    arm = run_arm(recipe, chosen, name="random", importance="random", seed=4, mode=mode)
    after_cut = remove(recipe.dense, chosen) if mode == "remove" else zero(recipe.dense, chosen)
    repaired = compensate(after_cut, recipe.dense, loader(recipe.data.calibration), seed=recipe.seed)
    cheap = compensate(after_cut, recipe.dense, loader(recipe.data.calibration), method="batchnorm")
    stations = {"cut": after_cut, "batchnorm": cheap, "compensation": repaired, "end": arm.model}
    expected = evaluate(stations, loader(recipe.data.test))
    for stage, accuracy in expected.items():
        assert accuracy.predictions.tolist() == getattr(arm.stages, stage).predictions.tolist()
    pixels = torch.stack([recipe.data.test[index][0] for index in range(4)])
    with torch.no_grad():
        answers = {tuple(model.eval()(pixels).flatten().tolist()) for model in stations.values()}
    assert len(answers) >= 3, "every step does something; the repair may find nothing better than the cut"
    assert (arm.name, arm.importance, arm.seed) == ("random", "random", 4)
    assert arm.cost == count_cost(arm.model, recipe.example)
    assert arm.cost.macs < count_cost(recipe.dense, recipe.example).macs or mode == "zero"
    assert not arm.model.training
    assert all(torch.equal(value, before[key]) for key, value in recipe.dense.state_dict().items())


def test_masks_hold_while_a_zeroed_network_is_tuned(recipe: Recipe) -> None:
    chosen = planned(recipe.dense)
    arm = run_arm(recipe, chosen, name="causal", importance="test", seed=None, mode="zero")
    masks, parameters = zero_masks(recipe.dense, chosen), dict(arm.model.named_parameters())
    assert masks.keys() == {"0.weight", "0.bias", "3.weight", "3.bias"}
    for name, mask in masks.items():
        assert mask.min() == 0 and not parameters[name][mask == 0].any()
        tuned = parameters[name][mask == 1] != recipe.dense.get_parameter(name)[mask == 1]
        assert name.endswith("bias") or bool(tuned.all()), "what was not silenced is trained"


def test_without_repair_and_tuning_the_stages_are_equal(recipe: Recipe) -> None:
    bare = replace(recipe, repair=Repair(compensation="none"), tuning=Tuning(epochs=0))
    arm = run_arm(bare, planned(recipe.dense), name="causal", importance="test", seed=None, mode="remove")
    assert arm.stages.batchnorm is None, "no stage of its own"
    stages = [arm.stages.cut, arm.stages.compensation, arm.stages.end]
    assert len({stage.predictions_sha256 for stage in stages}) == 1
    assert not recipe.data.train.fetched


def test_batch_norm_is_estimated_once_where_that_is_the_repair(recipe: Recipe) -> None:
    cheap = replace(recipe, repair=Repair(compensation="batchnorm"), tuning=Tuning(epochs=0))
    arm = run_arm(cheap, planned(recipe.dense), name="causal", importance="test", seed=None, mode="remove")
    assert recipe.data.calibration.fetched == Counter(range(30))
    assert arm.stages.batchnorm.predictions_sha256 == arm.stages.compensation.predictions_sha256


def test_the_teacher_makes_a_difference(recipe: Recipe) -> None:
    chosen = planned(recipe.dense)
    tuned = [
        run_arm(
            replace(recipe, tuning=Tuning(epochs=1, lr=0.05, distill=distill)),
            chosen,
            name="causal",
            importance="test",
            seed=None,
            mode="remove",
        )
        for distill in (True, False, True)
    ]
    states = [arm.model[0].weight for arm in tuned]
    assert torch.equal(states[0], states[2]) and not torch.equal(states[0], states[1])


def test_the_dense_arm_is_the_network_itself(recipe: Recipe) -> None:
    arm = dense_arm(recipe)
    assert arm.model is recipe.dense and arm.name == "dense" and arm.importance is None
    assert [name for name, stage in vars(arm.stages).items() if stage is not None] == ["end"]
    assert recipe.data.test.fetched == Counter(range(40))
    with torch.no_grad():
        expected = recipe.dense(recipe.data.test.images).argmax(1)
    assert arm.stages.end.correct == int((expected == recipe.data.test.labels).sum())


def test_modes_cut_differently(recipe: Recipe) -> None:
    chosen = planned(recipe.dense)
    assert pruned(recipe.dense, chosen, "remove")[0].out_channels == 4
    assert pruned(recipe.dense, chosen, "zero")[0].out_channels == 8


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_all_arms_share_the_widths_and_differ_in_the_units(
    plain: Recipe, known, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, moments, scores = known
    chosen_units = plan(graph, scores, keep_macs=0.5)
    rivals = rivals_of(graph, moments, Rivals(random_seeds=2), seed=0)
    plans = []

    def noted(*given, **options):
        plans.append((given[1], options))
        return make_arm(*given, **options)

    monkeypatch.setattr("causal_prune.comparison.arms.make_arm", noted)
    shared = replace(plain, mode=mode)
    outcome = shipped(shared, chosen_units, "structural")
    outcome = outcome.joined(run_rival(shared, graph, chosen_units, rival) for rival in rivals)
    arms = list(outcome)
    assert (outcome.dense.name, outcome.causal.name) == ("dense", "causal")
    extra = ["causal-removed"] if mode == "zero" else []
    assert [arm.name for arm in arms] == ["dense", "causal", *extra, "random", "random", "magnitude"]
    assert [arm.importance for arm in arms] == [
        None, *["structural"] * (1 + len(extra)), "random", "random", "magnitude"
    ]  # fmt: skip
    widths = [{name: len(units) for name, units in chosen.kept_units.items()} for chosen, _ in plans]
    assert all(each == widths[0] for each in widths)
    assert all(chosen.target == chosen_units.target for chosen, _ in plans)
    assert plans[0][0] is chosen_units and (mode == "remove" or plans[1][0] is chosen_units)
    units = {tuple(chosen.kept_units["3"]) for chosen, _ in plans}
    assert len(units) == 4, "causal, two random ones and magnitude choose differently"
    assert [options["mode"] for _, options in plans] == [mode, *["remove"] * len(extra), mode, mode, mode]
    dense = arms[0].cost.macs
    for arm in arms[1:]:
        assert (
            arm.cost.macs == dense
            if mode == "zero" and arm.name != "causal-removed"
            else arm.cost.macs < dense
        )
