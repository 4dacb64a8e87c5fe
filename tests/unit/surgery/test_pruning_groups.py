"""Cuts through torch-pruning's groups: what was planned, nothing else, and none of its traps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import causal_prune as cp
from causal_prune.errors import InputError
from causal_prune.sources import small_resnet
from causal_prune.surgery import pruning_groups
from causal_prune.surgery.cuts import ExampleForm, RootCut
from causal_prune.surgery.pruning_groups import (
    dependency_graph,
    example_of,
    form_of,
    prune_through,
    pruning_group,
)
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.rebuilding import bundle_weights, load
from causal_prune.tracing.network_trace import trace
from tests.unit.drawn_weights import drawn

EXAMPLE = torch.rand(2, 1, 8, 8)


@pytest.fixture
def planned() -> tuple[nn.Module, PruningPlan]:
    network = drawn(small_resnet(width=8)).eval()
    graph = trace(network, EXAMPLE, dependencies="torch-pruning")
    scores = cp.score(graph, cp.observe(network, graph, [torch.rand(32, 1, 8, 8)]), method="magnitude")
    return network, cp.plan(graph, scores, keep_macs=0.5)


def test_a_plan_and_its_bundle_rebuild_through_the_same_graph(planned, tmp_path: Path) -> None:
    network, plan = planned
    small = cp.remove(network, plan)
    plan.save(tmp_path / "plan.json")
    bundle_weights(small, tmp_path / "model.safetensors")
    assert '"dependencies": "torch-pruning"' in (tmp_path / "plan.json").read_text()
    again = PruningPlan.load(tmp_path / "plan.json")
    assert again == plan and again.dependencies == "torch-pruning"
    rebuilt = load(tmp_path, lambda: small_resnet(width=8))
    assert torch.equal(rebuilt(EXAMPLE), small(EXAMPLE))


def test_a_network_that_was_cut_can_be_traced_and_cut_again(planned) -> None:
    network, plan = planned
    small = cp.remove(network, plan)
    graph = trace(small, EXAMPLE, dependencies="torch-pruning")
    scores = cp.score(graph, cp.observe(small, graph, [torch.rand(32, 1, 8, 8)]), method="magnitude")
    further = cp.plan(graph, scores, keep_macs=0.6)
    assert len(further.earlier) == 1 and further.earlier[0].cuts.roots == plan.cuts.roots
    assert torch.equal(cp.remove(network, further)(EXAMPLE), cp.remove(small, further)(EXAMPLE))


def test_the_callers_network_and_its_optimizer_stay_as_they_were(planned) -> None:
    network, plan = planned
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    small = cp.remove(network, plan)
    assert network.training and small.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    ours = {id(p) for p in network.parameters()}
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == ours
    assert ours.isdisjoint(id(p) for p in small.parameters())


def test_a_cut_that_is_not_the_planned_one_is_refused(planned) -> None:
    plan = planned[1]
    root = plan.cuts.roots[0]
    fewer = replace(plan.cuts, roots=(RootCut(root.layer, root.drop[1:]), *plan.cuts.roots[1:]))
    with pytest.raises(
        InputError, match=r"torch-pruning cut .* to \d+ filters and \d+ inputs, the plan says"
    ):
        prune_through(small_resnet(width=8), fewer)


def test_two_graphs_share_no_state_and_indices_follow_earlier_cuts() -> None:
    network = small_resnet(width=8)
    first = dependency_graph(network, EXAMPLE)
    pruning_group(first, "layer1.conv1", [0, 1]).prune()
    second = dependency_graph(network, EXAMPLE)
    assert network.layer1.conv1.out_channels == 6
    group = pruning_group(first, "layer1.conv1", [5])
    group.prune()
    assert network.layer1.conv1.out_channels == 5
    assert second.pruning_history() == []


def test_a_group_is_never_emptied_in_silence(planned) -> None:
    network, _ = planned
    graph = trace(network, EXAMPLE, dependencies="torch-pruning")
    with pytest.raises(cp.TargetError, match="keep_macs"):
        cp.plan(
            graph, cp.score(graph, cp.observe(network, graph, [torch.rand(8, 1, 8, 8)])), keep_macs=0.0001
        )


def test_old_versions_are_refused_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pruning_groups.check_version.cache_clear()
    monkeypatch.setattr(pruning_groups, "version", lambda _: "1.5.2")
    with pytest.raises(InputError, match=r"^torch-pruning 1.5.2 is too old; install 1.6.1 or newer$"):
        dependency_graph(small_resnet(width=8), EXAMPLE)
    monkeypatch.setattr(pruning_groups, "version", lambda _: "1.10.0")
    pruning_groups.check_version()
    pruning_groups.check_version.cache_clear()


@pytest.mark.parametrize(
    "inputs",
    [
        EXAMPLE,
        (torch.rand(1, 2), torch.arange(3)),
        {"x": torch.rand(2, 3), "mask": torch.ones(2, dtype=torch.bool)},
    ],
)
def test_an_example_has_the_form_that_was_written_down(inputs) -> None:
    form = form_of(inputs)
    made = example_of(form, nn.Linear(1, 1))
    assert form_of(made) == form and type(made) is type(inputs)
    double = example_of(form, nn.Linear(1, 1).double())
    assert all(kind in ("float64", "int64", "bool") for kind in form_of(double).dtypes)


def test_examples_of_something_else_are_refused() -> None:
    with pytest.raises(InputError, match="dependencies: torch-pruning's graph needs an example of tensors"):
        form_of(({"x": EXAMPLE},))
    assert ExampleForm("tensor", ("",), ((2, 1, 8, 8),), ("float32",)) == form_of(EXAMPLE)


def test_layers_that_it_does_not_know_are_named() -> None:
    graph = dependency_graph(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), torch.rand(1, 1, 5, 5))
    with pytest.raises(InputError, match="dependencies: torch-pruning does not reach 1; 'labels' may"):
        pruning_group(graph, "1", [0])
