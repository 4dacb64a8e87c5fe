"""Groups of torch-pruning's graph: ours where both are right, frozen with the reason where it is wrong."""

import re

import pytest
import torch
from torch import Tensor, nn

import causal_prune as cp
from causal_prune.errors import InputError
from causal_prune.sources import small_resnet
from causal_prune.surgery.removal import cut_network
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace
from examples import cifar_resnet
from tests.unit.drawn_weights import drawn
from tests.zoo.check import check_network
from tests.zoo.patterns import PATTERNS

EXAMPLE = torch.rand(2, 1, 8, 8)


def both(network: nn.Module, example: Tensor = EXAMPLE, **options) -> tuple[FilterGraph, FilterGraph]:
    return trace(network, example, **options), trace(
        network, example, dependencies="torch-pruning", **options
    )


def test_both_graphs_give_one_plan_and_one_network() -> None:
    network = drawn(small_resnet(width=8)).eval()
    images = [torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))]
    graphs = both(network)
    plans = [
        cp.plan(graph, cp.score(graph, cp.observe(network, graph, images)), keep_macs=0.5) for graph in graphs
    ]
    first, second = ({group.name: {*group.members} for group in graph.prunable} for graph in graphs)
    assert first == second
    assert graphs[0].frozen == graphs[1].frozen
    assert plans[0].kept_units == plans[1].kept_units and plans[0].layers == plans[1].layers
    assert (plans[0].dependencies, plans[1].dependencies) == ("labels", "torch-pruning")
    assert not plans[0].cuts.roots and plans[1].cuts.roots
    for verb in (cp.remove, cp.zero):
        one, other = (verb(network, plan).state_dict() for plan in plans)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_what_the_caller_freezes_is_frozen_in_both() -> None:
    for graph in both(small_resnet(width=8), freeze=["layer2"]):
        assert graph.frozen["layer2.conv1"] == "frozen by the caller"
        assert "layer2.conv1" not in graph.producers and "layer1.conv1" in graph.producers


def test_parameters_that_ask_for_no_gradient_are_cut_as_well() -> None:
    network = small_resnet(width=8).requires_grad_(False)
    graph = trace(network, EXAMPLE, dependencies="torch-pruning")
    assert len(graph.prunable) == len(trace(network, EXAMPLE).prunable)
    kept = {group.name: tuple(range(1, group.size)) for group in graph.prunable}

    smaller = cut_network(network, graph.cuts(kept))
    assert not any(parameter.requires_grad for parameter in smaller.parameters())
    assert smaller.training == network.training


WRONG = {
    "flip_channels": r"torch-pruning cuts channel 0 of after.0 where channel 7 reads filter 0: the cut changes the "
    r"output by .* of its size; 'labels' follows it",
    "roll_channels": r"torch-pruning cuts channel 0 of after.0 where channel 3 reads filter 0: the cut changes",
    "shuffle_view": r"torch-pruning cuts channel 1 of after.0 where channel 2 reads filter 1: the cut fails in pattern",
    "glu_function": r"where channel 0 reads filter 4: the cut fails in pattern: Halving dimension must be even",
    "pixel_shuffle": r"the cut fails in pattern: pixel_shuffle expects",
    "buffer_c11": r"torch-pruning's cut fails in pattern: The size of tensor a",
    "gru": r"torch-pruning finds no group of before.0 \(at _SplitOp.*: list index out of range\); 'labels' does",
    "shuffle_unit": r"torch-pruning does not come to an end with before.0 \(at .*\); 'labels' does",
    "weight_norm": r"torch-pruning cannot cut the group of before.0 .*; 'labels' can",
}
BY_NAME = {pattern.name: pattern for pattern in PATTERNS}


@pytest.mark.parametrize("name", WRONG)
def test_where_torch_pruning_is_wrong_the_reason_says_what_is_wrong(name: str) -> None:
    pattern = BY_NAME[name]
    graph = trace(pattern.make().eval(), pattern.example, dependencies="torch-pruning")
    why = graph.frozen["before.0"]
    assert re.search(WRONG[name], why), why
    assert "\n" not in why and why.count("'labels'") == 1


@pytest.mark.parametrize("name", ["outputs_dict", "out_argument", "outputs in dataclass"])
def test_where_it_can_make_no_graph_that_is_one_line(name: str) -> None:
    pattern = BY_NAME[name]
    with pytest.raises(
        InputError, match=r"dependencies: torch-pruning cannot follow this network .*; 'labels' can$"
    ):
        trace(pattern.make().eval(), pattern.example, dependencies="torch-pruning")


QUICK = [pattern.name for pattern in PATTERNS][::6]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(pattern.name, marks=() if pattern.name in QUICK else pytest.mark.slow)
        for pattern in PATTERNS
    ],
)
def test_nothing_wrong_passes(name: str) -> None:
    pattern = BY_NAME[name]
    found = check_network(
        pattern.make, pattern.example, any_batch=pattern.any_batch, dependencies="torch-pruning"
    )
    told = found.kind == "raised" and found.detail.startswith(
        "trace: InputError: dependencies: torch-pruning"
    )
    assert found.kind in ("right", "frozen") or told, found


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="dependencies: 'tp' is not 'labels' or 'torch-pruning'"):
        trace(small_resnet(width=8), EXAMPLE, dependencies="tp")  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize("depth", [20, pytest.param(56, marks=pytest.mark.slow)])
def test_a_resnet_with_padded_shortcuts_has_one_plan_and_one_network_in_both(depth: int) -> None:
    """Its streams, which torch-pruning cuts wrongly in silence, come out frozen; the rest is the same."""
    make = getattr(cifar_resnet, f"resnet{depth}")
    network = drawn(make()).eval()
    example = torch.rand(2, 3, 32, 32)
    theirs = trace(network, example, dependencies="torch-pruning")
    streams = [name for name in theirs.frozen if name == "conv1" or name.endswith("conv2")]
    assert streams and all("'labels'" in theirs.frozen[name] for name in streams)
    ours = trace(network, example, freeze=streams)
    groups = [{group.name: {*group.members} for group in graph.prunable} for graph in (ours, theirs)]
    assert groups[0] == groups[1] and len(groups[0]) == (depth - 2) // 2
    images = [torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))]
    plans = [
        cp.plan(graph, cp.score(graph, cp.observe(network, graph, images)), keep_macs=0.5)
        for graph in (ours, theirs)
    ]
    assert plans[0].kept_units == plans[1].kept_units and plans[0].layers == plans[1].layers
    one, other = (cp.remove(network, plan).state_dict() for plan in plans)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_no_channel_belongs_to_two_groups_where_a_depthwise_convolution_passes_it_on() -> None:
    network = drawn(
        nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
            nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3),
        )
    ).eval()  # fmt: skip
    example = torch.rand(2, 3, 4, 4)
    ours, theirs = both(network, example)
    for graph in (ours, theirs):
        places = [
            (member.layer, member.axis, position)
            for group in graph.groups
            for member in group.members
            for position in member.positions
        ]
        assert len(places) == len(set(places))
    assert {g.name: {*g.members} for g in ours.prunable} == {g.name: {*g.members} for g in theirs.prunable}
    assert ours.frozen == theirs.frozen


@pytest.mark.slow
def test_mobilenet_has_the_same_groups_in_both() -> None:
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.mobilenet_v2(num_classes=10).eval()
    ours, theirs = both(network, torch.rand(2, 3, 64, 64))
    assert {g.name: {*g.members} for g in ours.prunable} == {g.name: {*g.members} for g in theirs.prunable}
