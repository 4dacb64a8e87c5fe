"""Torch-pruning's pruners without their traps: a test each."""

import inspect
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

from causal_prune.errors import InputError, TargetError
from causal_prune.importance.careful_pruning import TABLES, careful_pruner, careful_step
from causal_prune.importance.torch_pruning_bridge import CausalImportance
from causal_prune.sources import small_resnet
from tests.unit.drawn_weights import drawn

EXAMPLE = torch.rand(2, 1, 8, 8)
KINDS = [tp.pruner.BasePruner, tp.pruner.GroupNormPruner, tp.pruner.BNScalePruner, tp.pruner.GrowingRegPruner]


def network() -> nn.Module:
    return drawn(small_resnet(width=8)).eval()


def careful(net: nn.Module, kind: Any = tp.pruner.BasePruner, **options: Any) -> Any:
    given = {"pruning_ratio": 0.5, "ignored_layers": [net.linear], **options}
    return careful_pruner(kind, net, EXAMPLE, tp.importance.GroupMagnitudeImportance(), **given)


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_pruners_share_a_table(kind: Any) -> None:
    shared = inspect.signature(kind.__init__).parameters["out_channel_groups"].default
    grouped = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(8, 4, 1))
    importance = tp.importance.GroupMagnitudeImportance()
    one = careful_pruner(kind, grouped, EXAMPLE, importance, pruning_ratio=0.5)
    other = careful(network(), kind)
    assert one.out_channel_groups == {grouped[1]: 2} and other.out_channel_groups == {}
    assert grouped[1] not in (shared or {})
    mine = {grouped[1]: 2}
    given = careful_pruner(kind, grouped, EXAMPLE, importance, pruning_ratio=0.5, in_channel_groups=mine)
    assert given.in_channel_groups is not mine and given.in_channel_groups == mine


def test_every_table_of_a_pruner_is_known() -> None:
    for kind in KINDS:
        shared = {
            name
            for name, parameter in inspect.signature(kind.__init__).parameters.items()
            if isinstance(parameter.default, dict | list) and name != "root_module_types"
        }
        assert shared <= {*TABLES}


@pytest.mark.parametrize("kind", KINDS)
def test_isomorphic_without_global_pruning_is_refused(kind: Any) -> None:
    with pytest.raises(InputError, match="isomorphic: without global_pruning=True torch-pruning cuts wrong"):
        careful(network(), kind, isomorphic=True)
    net = network()
    careful_step(careful(net, kind, isomorphic=True, global_pruning=True))
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in network().parameters())


@pytest.mark.parametrize("ignored", [nn.Linear, "linear"])
def test_an_ignored_layer_that_is_none_is_refused(ignored: Any) -> None:
    with pytest.raises(
        InputError, match="ignored_layers: .* is no layer, and torch-pruning would pass over it"
    ):
        careful(network(), ignored_layers=[ignored])


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_frozen_parameters_are_as_they_were_and_pruned(training: bool) -> None:
    net = network().train(training)
    net.layer1.conv1.requires_grad_(False)
    net.bn1.eval()
    pruner = careful(net)
    assert net.training == training and not net.layer1.conv1.weight.requires_grad
    careful_step(pruner)
    assert net.training == training and not net.bn1.training
    assert not net.layer1.conv1.weight.requires_grad and net.layer1.conv2.weight.requires_grad
    assert net.layer1.conv1.out_channels == 4
    all_frozen = network().requires_grad_(False)
    careful_step(careful(all_frozen))
    assert all_frozen.layer1.conv1.out_channels == 4


@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"round_to": 4}, {"iterative_steps": 2}])
def test_a_step_that_does_what_was_asked_passes(options: dict[str, Any]) -> None:
    net = network()
    pruner = careful(net, **options)
    for _ in range(options.get("iterative_steps", 1)):
        careful_step(pruner)
    left = sum(module.out_channels for module in net.modules() if isinstance(module, nn.Conv2d))
    whole = sum(module.out_channels for module in network().modules() if isinstance(module, nn.Conv2d))
    assert 0.4 * whole <= left <= 0.6 * whole


def test_groups_that_would_be_emptied_are_told() -> None:
    net = network()
    with torch.no_grad():
        net.layer1.conv1.weight.mul_(1e-3)  # global pruning would empty it
        net.layer2.conv1.weight.mul_(1e-3)
    importance = tp.importance.MagnitudeImportance(normalizer=None)
    pruner = careful_pruner(
        tp.pruner.BasePruner,
        net,
        EXAMPLE,
        importance,
        pruning_ratio=0.4,
        global_pruning=True,
        ignored_layers=[net.linear],
    )
    with pytest.raises(TargetError, match=r"pruning_ratio 0.4: .* of the channels went .*skips in silence"):
        careful_step(pruner)


def test_it_takes_our_importance() -> None:
    net = network()
    images = [torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))]
    pruner = careful_pruner(
        tp.pruner.BasePruner,
        net,
        EXAMPLE,
        CausalImportance(net, images),
        pruning_ratio=0.5,
        ignored_layers=[net.linear],
    )
    careful_step(pruner)
    assert net(EXAMPLE).shape == (2, 10)
