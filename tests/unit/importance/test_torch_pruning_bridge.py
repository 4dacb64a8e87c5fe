"""Our importances in torch-pruning's pruners: the same scores, in its order, made when the network has changed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

import causal_prune as cp
from causal_prune.errors import InputError
from causal_prune.importance.methods import METHODS
from causal_prune.importance.torch_pruning_bridge import CausalImportance
from causal_prune.sources import small_resnet
from tests.unit.drawn_weights import drawn

EXAMPLE = torch.rand(2, 1, 8, 8)


class Batches:
    """Images that can be read again, and how often they were."""

    def __init__(self) -> None:
        self.read = 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.read += 1
        draw = torch.Generator().manual_seed(0)
        yield torch.rand(60, 1, 8, 8, generator=draw), torch.arange(60) % 3


def network() -> nn.Module:
    return drawn(small_resnet(width=8)).eval()


def pruner(net: nn.Module, importance: CausalImportance, kind: Any = None, **options: Any) -> Any:
    kind = kind or tp.pruner.BasePruner
    options = {"pruning_ratio": 0.5, "ignored_layers": [net.linear], **options}
    return kind(net, EXAMPLE, importance, **options)


def groups_of(net: nn.Module) -> list[Any]:
    graph = tp.DependencyGraph().build_dependency(net, EXAMPLE)
    return list(graph.get_all_groups(ignored_layers=[net.linear], root_module_types=[nn.Conv2d, nn.Linear]))


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_ours_in_the_order_of_the_roots_indices(method: str) -> None:
    net, batches = network(), Batches()
    importance = CausalImportance(net, batches, method=method, labelled=batches)
    graph = cp.trace(net, EXAMPLE, dependencies="torch-pruning")
    ours = cp.score(graph, cp.observe(net, graph, batches), method=method, model=net, labelled=batches)
    names = {module: name for name, module in net.named_modules()}
    found = groups_of(net)
    assert len(found) == len(graph.prunable)
    for group in found:
        values = importance(group)
        root = names[group[0].dep.target.module]
        expected = next(
            ours.groups[g.name] for g in graph.prunable if root in {m.layer for m in g.of_role("producer")}
        ).float()
        torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-7)
        assert bool(values.isfinite().all()) and len(values) == len(group[0].idxs)
    some = tp.DependencyGraph().build_dependency(net, EXAMPLE)
    part = some.get_pruning_group(net.layer1.conv1, tp.prune_conv_out_channels, [5, 2])
    torch.testing.assert_close(
        importance(part), ours.groups["layer1.conv1"].float()[[5, 2]], rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_pruning": True},
        {"global_pruning": True, "isomorphic": True},
        {"iterative_steps": 2},
        {"round_to": 4},
        {"kind": tp.pruner.GroupNormPruner},
        {"kind": tp.pruner.BNScalePruner},
    ],
)
def test_every_pruner_of_theirs_prunes_with_it(options: dict[str, Any]) -> None:
    net, batches = network(), Batches()
    before = sum(p.numel() for p in net.parameters())
    made = pruner(net, CausalImportance(net, batches), **options)
    for _ in range(options.get("iterative_steps", 1)):
        made.step()
    assert sum(p.numel() for p in net.parameters()) < 0.7 * before
    assert net(EXAMPLE).shape == (2, 10)
    assert not any(module._forward_hooks for module in net.modules())


def test_scores_are_made_once_and_again_when_the_network_has_changed() -> None:
    net, batches = network(), Batches()
    importance = CausalImportance(net, batches)
    for group in groups_of(net):
        importance(group)
    once = batches.read
    importance(groups_of(net)[0])
    assert batches.read == once
    groups_of(net)[-1].prune([0])
    changed = importance(groups_of(net)[-1])
    assert batches.read == 2 * once and len(changed) < 64
    with torch.no_grad():
        net.conv1.weight.mul_(2)
    importance(groups_of(net)[0])
    assert batches.read == 3 * once


def test_the_least_important_filters_go() -> None:
    net, dense, batches = network(), network(), Batches()
    graph = cp.trace(net, EXAMPLE, dependencies="torch-pruning")
    scores = cp.score(graph, cp.observe(net, graph, batches))
    pruner(net, CausalImportance(net, batches)).step()
    (inner,) = (group for group in graph.prunable if group.name == "layer1.conv1")
    kept = sorted(scores.groups["layer1.conv1"].argsort(descending=True)[: inner.size // 2].tolist())
    assert torch.equal(net.layer1.bn1.weight, dense.layer1.bn1.weight[kept])


def test_mode_gradients_and_generator_are_as_before() -> None:
    net, batches = network(), Batches()
    group = groups_of(net)[0]
    net.train()
    state = torch.get_rng_state()
    with torch.no_grad():
        CausalImportance(net, batches)(group)
    assert all(module.training for module in net.modules())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_what_must_not_be_cut_is_named() -> None:
    net, batches = network(), Batches()
    graph = tp.DependencyGraph().build_dependency(net, EXAMPLE)
    output = graph.get_pruning_group(net.linear, tp.prune_linear_out_channels, [0])
    told = r"CausalImportance: linear must not be cut \(produces an output of the network\): put it into ignored_layers"
    with pytest.raises(InputError, match=told):
        CausalImportance(net, batches)(output)
    other = groups_of(network())[0]
    with pytest.raises(InputError, match=r"CausalImportance: Conv2d must not be cut \(it is no layer"):
        CausalImportance(net, batches)(other)
    with pytest.raises(InputError, match="CausalImportance: method 'l1' is not one of"):
        CausalImportance(net, batches, method="l1")
    with pytest.raises(InputError, match="CausalImportance: calibration has no images"):
        CausalImportance(net, [])(groups_of(net)[0])
