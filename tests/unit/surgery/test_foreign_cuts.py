"""Networks that torch-pruning has cut: what stayed is found, or refused by layer."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import nn

import causal_prune as cp
from causal_prune.errors import InputError
from causal_prune.sources import small_resnet
from causal_prune.surgery.foreign_cuts import cut_by_torch_pruning
from causal_prune.surgery.lineage import stages_of
from tests.unit.drawn_weights import drawn

EXAMPLE = torch.rand(2, 1, 8, 8)


def pruned(**options: Any) -> tuple[nn.Module, nn.Module, Any]:
    dense = drawn(small_resnet(width=8)).eval()
    small = copy.deepcopy(dense)
    given = {"pruning_ratio": 0.5, "ignored_layers": [small.linear], **options}
    pruner = tp.pruner.BasePruner(small, EXAMPLE, tp.importance.GroupMagnitudeImportance(), **given)
    for _ in range(options.get("iterative_steps", 1)):
        pruner.step()
    return dense, small, pruner


@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"iterative_steps": 3}, {"round_to": 4}])
@pytest.mark.parametrize("told", [True, False])
def test_what_stayed_is_found_with_or_without_the_history(options: dict[str, Any], told: bool) -> None:
    dense, small, pruner = pruned(**options)
    known = cut_by_torch_pruning(dense, small, pruner.pruning_history() if told else ())
    assert stages_of(small) == () and known is not small
    (stage,) = stages_of(known)
    assert stage.cuts.layers
    for name, module in small.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weight = dense.get_submodule(name).weight
            cut = stage.cuts.layers.get(name)
            if cut is not None:
                weight = weight if cut.keep_filters is None else weight[list(cut.keep_filters)]
                weight = weight if cut.keep_inputs is None else weight[:, list(cut.keep_inputs)]
            assert torch.equal(module.weight, weight)
    assert torch.equal(known(EXAMPLE), small(EXAMPLE))


def test_it_is_repaired_and_exported_as_one_of_ours(tmp_path: Path) -> None:
    dense, small, pruner = pruned()
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="was cut and it is not known how"):
        cp.compensate(small, dense, [images])
    known = cut_by_torch_pruning(dense, small, pruner.pruning_history())
    repaired = cp.compensate(known, dense, [images])
    with torch.no_grad():
        apart = [(net(images) - dense(images)).square().mean() for net in (small, repaired)]
    assert apart[1] < 0.5 * apart[0]
    cp.export_onnx(repaired, tmp_path / "net.onnx", EXAMPLE)


def test_an_interactive_loop_and_a_depthwise_convolution() -> None:
    dense = drawn(
        nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.PReLU(8),
            nn.Conv2d(8, 4, 1),
        )
    ).eval()
    small, example = copy.deepcopy(dense), torch.rand(1, 1, 8, 8)
    importance = tp.importance.GroupMagnitudeImportance()
    pruner = tp.pruner.BasePruner(small, example, importance, pruning_ratio=0.25, ignored_layers=[small[4]])
    for group in pruner.step(interactive=True):
        group.prune()
    known = cut_by_torch_pruning(dense, small, pruner.pruning_history())
    cuts = stages_of(known)[0].cuts.layers
    assert cuts["2"].keep_inputs == cuts["2"].keep_filters == cuts["0"].keep_filters == cuts["1"].keep_filters
    assert torch.equal(small[2].weight, dense[2].weight[list(cuts["2"].keep_filters)])


def test_nothing_cut_is_nothing_recorded() -> None:
    dense = drawn(small_resnet(width=8)).eval()
    known = cut_by_torch_pruning(dense, copy.deepcopy(dense))
    assert stages_of(known)[0].cuts.layers == {}


def test_what_cannot_be_told_is_refused_by_layer() -> None:
    dense, small, _ = pruned()
    trained = copy.deepcopy(small)
    with torch.no_grad():
        trained.layer1.conv2.weight.mul_(1.01)
    with pytest.raises(
        InputError, match=r"filters of layer1.conv2 are none of the dense network's; call it before"
    ):
        cut_by_torch_pruning(dense, trained)
    equal, half = copy.deepcopy(dense), copy.deepcopy(small)
    for net in (equal, half):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
    with pytest.raises(InputError, match=r"channels of .*bn.* cannot be told apart: some are equal"):
        cut_by_torch_pruning(equal, half)
    with pytest.raises(InputError, match="the two networks have different layers"):
        cut_by_torch_pruning(nn.Sequential(dense), small)
    other = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Conv2d(4, 4, 1))
    with pytest.raises(InputError, match="0 is a Conv2d, and was a Linear"):
        cut_by_torch_pruning(*other)
    wide, narrow = nn.Sequential(nn.Conv2d(8, 8, 1, groups=2)), nn.Sequential(nn.Conv2d(4, 4, 1, groups=2))
    with pytest.raises(InputError, match="0 is a grouped convolution, whose cut cannot be told"):
        cut_by_torch_pruning(wide, narrow)
    shuffled = copy.deepcopy(small)
    with torch.no_grad():
        shuffled.layer1.conv1.weight.copy_(small.layer1.conv1.weight.flip(0))
    with pytest.raises(InputError, match="filters of layer1.conv1 are not in their order"):
        cut_by_torch_pruning(dense, shuffled)


def test_a_history_of_another_network_is_refused() -> None:
    dense, small, pruner = pruned()
    history = [list(entry) for entry in pruner.pruning_history()]
    name, _, gone = history[0]
    there = next(k for k in range(8) if k not in gone)
    history[0][2] = [there]
    with pytest.raises(
        InputError, match=rf"the network has filter {there} of {name}, which the history says is gone"
    ):
        cut_by_torch_pruning(dense, small, history)
