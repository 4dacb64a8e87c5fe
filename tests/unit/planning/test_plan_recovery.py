"""Cuts of torch-pruning as plans: the same network, a bundle that loads, or the layer that does not fit."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

import causal_prune as cp
from causal_prune.errors import InputError
from causal_prune.measure import count_cost
from causal_prune.planning.plan_recovery import given_plan, plan_of
from causal_prune.sources import small_resnet
from causal_prune.surgery import PruningPlan, Stage, bundle_weights, cut_by_torch_pruning
from tests.unit.drawn_weights import drawn

EXAMPLE = torch.rand(2, 1, 8, 8)


def dense() -> nn.Module:
    return drawn(small_resnet(width=8)).eval()


def cut(net: nn.Module, **options: Any) -> nn.Module:
    small = copy.deepcopy(net)
    given = {"pruning_ratio": 0.5, "ignored_layers": [small.linear], **options}
    pruner = tp.pruner.BasePruner(small, EXAMPLE, tp.importance.GroupMagnitudeImportance(), **given)
    pruner.step()
    return cut_by_torch_pruning(net, small, pruner.pruning_history())


@pytest.mark.parametrize("dependencies", ["labels", "torch-pruning"])
@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"round_to": 4}])
def test_the_plan_makes_the_same_network_and_a_bundle_that_loads(
    dependencies: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    net = dense()
    known = cut(net, **options)
    plan = plan_of(cp.trace(net, EXAMPLE, dependencies=dependencies), known)
    made = cp.remove(net, plan).state_dict()
    theirs = known.state_dict()
    assert made.keys() == theirs.keys() and all(torch.equal(made[key], theirs[key]) for key in made)
    left = count_cost(known, EXAMPLE).macs / count_cost(net, EXAMPLE).macs
    assert plan.target.achieved == pytest.approx(left, rel=1e-6)
    images = [torch.rand(80, 1, 8, 8, generator=torch.Generator().manual_seed(0))]
    repaired = cp.compensate(known, net, images)
    plan.save(tmp_path / "plan.json")
    bundle_weights(repaired, tmp_path / "model.safetensors")
    loaded = cp.load(tmp_path, lambda: small_resnet(width=8))
    assert torch.equal(loaded(EXAMPLE), repaired.eval()(EXAMPLE))


def test_a_network_without_a_record_or_of_another_graph_is_refused() -> None:
    net = dense()
    graph = cp.trace(net, EXAMPLE)
    with pytest.raises(InputError, match="network: 0 cuts lead to it from the traced one instead of one"):
        plan_of(graph, net)
    frozen = cp.trace(net, EXAMPLE, freeze=["layer1.conv1"])
    told = r"network: layer1.conv1 was cut in a way that its graph does not allow \(frozen by the caller\)"
    with pytest.raises(InputError, match=told):
        plan_of(frozen, cut(net))


def saved(net: nn.Module, path: Path, **options: Any) -> PruningPlan:
    graph = cp.trace(net, EXAMPLE, **options)
    scores = cp.score(graph, cp.observe(net, graph, [torch.rand(40, 1, 8, 8)]), method="magnitude")
    plan = cp.plan(graph, scores, keep_macs=0.5)
    plan.save(path)
    return plan


@pytest.mark.parametrize("dependencies", ["labels", "torch-pruning"])
def test_a_plan_of_a_file_is_taken_as_it_was_saved(dependencies: Any, tmp_path: Path) -> None:
    net, file = dense(), tmp_path / "plan.json"
    plan = saved(net, file, dependencies=dependencies)
    assert given_plan(cp.trace(net, EXAMPLE, dependencies=dependencies), file) == plan


def changed(plan: PruningPlan, path: Path, **changes: Any) -> Path:
    replace(plan, **changes).save(path)
    return path


def test_a_plan_of_another_network_is_refused(tmp_path: Path) -> None:
    net, file = dense(), tmp_path / "plan.json"
    plan = saved(net, file)
    graph = cp.trace(net, EXAMPLE)
    name = next(iter(plan.kept_units))
    wider = cp.trace(small_resnet(width=4).eval(), EXAMPLE)
    with pytest.raises(InputError, match="`plan` .*: was made for another network: .* has .* units here"):
        given_plan(wider, file)
    frozen = cp.trace(net, EXAMPLE, freeze=["layer1.conv1"])
    with pytest.raises(
        InputError, match="was made for another network, or with other layers frozen: layer1.conv1 dif"
    ):
        given_plan(frozen, file)
    theirs = cp.trace(net, EXAMPLE, dependencies="torch-pruning")
    with pytest.raises(InputError, match="was made with labels; add `dependencies` labels"):
        given_plan(theirs, file)
    for units in ((), (1, 0), (-1, 0), (0, 0)):
        kept = {**plan.kept_units, name: units}
        with pytest.raises(InputError, match=f"was made for another network: {name} has "):
            given_plan(graph, changed(plan, file, kept_units=kept))
    fewer = {**plan.kept_units, name: plan.kept_units[name][:-1]}
    with pytest.raises(InputError, match="was made for another network: .* differs"):
        given_plan(graph, changed(plan, file, kept_units=fewer))
    with pytest.raises(InputError, match="that 1 cuts had led to, this one has 0; give `from_bundle`"):
        given_plan(graph, changed(plan, file, earlier=(Stage(plan.cuts),)))
    with pytest.raises(InputError, match="not a pruning plan"):
        given_plan(graph, tmp_path / "none.json")
