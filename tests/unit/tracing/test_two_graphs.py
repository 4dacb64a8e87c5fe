"""Differences of two graphs: none where both are right, by layer and with the proof where they are not."""

from dataclasses import replace

import torch

from causal_prune.sources import small_resnet
from causal_prune.tracing.network_trace import trace
from causal_prune.tracing.two_graphs import GraphDifference, differences
from tests.zoo.patterns import PATTERNS

BY_NAME = {pattern.name: pattern for pattern in PATTERNS}


def both(network, example):
    return trace(network, example), trace(network, example, dependencies="torch-pruning")


def test_right_graphs_do_not_differ() -> None:
    assert differences(*both(small_resnet(width=8).eval(), torch.rand(1, 1, 8, 8))) == []


def test_what_one_freezes_is_told_with_what_the_trial_cut_found() -> None:
    pattern = BY_NAME["flip_channels"]
    (found,) = differences(*both(pattern.make().eval(), pattern.example))
    assert found.layer == "before.0" and found.labels == "can be cut: the trial cut is right"
    assert found.torch_pruning.startswith(
        "frozen: torch-pruning cuts channel 0 of after.0 where channel 7 reads"
    )


def test_units_that_are_coupled_in_one_alone_are_named() -> None:
    graph = trace(small_resnet(width=8).eval(), torch.rand(1, 1, 8, 8))
    groups = []
    for group in graph.groups:
        if group.name == "layer1.conv1":
            members = [replace(m, units=m.units[::-1]) if m.role == "consumer" else m for m in group.members]
            group = replace(group, members=tuple(members))
        groups.append(group)
    assert differences(graph, replace(graph, groups=tuple(groups))) == [
        GraphDifference(
            "layer1.conv1",
            "filter 0 goes with input 0 of layer1.conv2",
            "filter 0 goes with input 7 of layer1.conv2",
        )
    ]
    fewer = replace(graph, groups=tuple(g for g in graph.groups if g.name != "layer1.conv1"))
    (lost,) = differences(graph, fewer)
    assert lost.torch_pruning == "frozen: its filters belong to no group"
