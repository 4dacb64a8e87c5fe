"""Cuts of torch-pruning as plans: the same network, a bundle that loads, or the layer that does not fit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

import causal_prune as cp
from causal_prune.errors import InputError
from causal_prune.measure import count_cost
from causal_prune.planning.plan_recovery import plan_of
from causal_prune.sources import small_resnet
from causal_prune.surgery import bundle_weights, cut_by_torch_pruning
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
