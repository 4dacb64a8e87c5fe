"""The filter graph of traces that are written down by hand."""

import torch
from torch import nn

from causal_prune.tracing.channel_labels import FIXED, Labels
from causal_prune.tracing.channel_tracer import ChannelTracer, Crossing
from causal_prune.tracing.filter_graph import Adapter, FilterGraph, Layer, Member
from causal_prune.tracing.graph_building import graph_of
from causal_prune.tracing.layer_rules import LayerRecord, TraceRecord


def built(tracer: ChannelTracer, net: nn.Module, layers: dict[str, LayerRecord]) -> FilterGraph:
    tracer.macs = dict.fromkeys(layers, 14)
    return graph_of(net, tracer, TraceRecord(dict(net.named_modules()), layers), images=2)


def conv(out: list[int], read: list[int], *parents: str) -> LayerRecord:
    return LayerRecord("conv", out_labels=out, in_labels=read, parents=set(parents))


def chain_of_three(tracer: ChannelTracer) -> tuple[nn.Module, dict[str, LayerRecord]]:
    """Labels 1 to 3 between the first and the second convolution, 4 and 5 between the second and the third."""
    tracer.sets.fresh(6)
    tracer.sets.freeze([6], "an output")
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 1), nn.Conv2d(2, 1, 1))
    return net, {
        "0": conv([1, 2, 3], [FIXED, FIXED]),
        "1": conv([4, 5], [1, 2, 3], "0"),
        "2": conv([6], [4, 5], "1"),
    }


def test_every_filter_is_a_unit_of_a_group_with_those_who_make_and_read_it(tracer: ChannelTracer) -> None:
    graph = built(tracer, *chain_of_three(tracer))
    assert [(group.name, group.size, group.frozen) for group in graph.groups] == [
        ("0", 3, None), ("1", 2, None), ("2", 1, "an output")
    ]  # fmt: skip
    assert graph.groups[0].members == (
        Member("0", "producer", "out", None, 3, (0, 1, 2), (0, 1, 2)),
        Member("1", "consumer", "in", None, 3, (0, 1, 2), (0, 1, 2)),
    )
    assert graph.layers["1"] == Layer("conv", 2, 3, "dense", 1, 7, 3 * 2 + 2, ("0",))
    assert graph.frozen == {"2": "an output"}
    assert graph.chain == {"0": (), "1": ("0",), "2": ("1",)}
    assert graph.adapters == () and not graph.trains_more


def test_united_filters_are_one_unit_and_their_makers_one_group(tracer: ChannelTracer) -> None:
    net, layers = chain_of_three(tracer)
    tracer.sets.unite(2, 5, "unused")
    tracer.sets.unite(3, 4, "unused")
    (group, output) = built(tracer, net, layers).groups
    assert (group.name, group.size, output.name) == ("0", 3, "2")
    assert group.members == (
        Member("0", "producer", "out", None, 3, (0, 1, 2), (0, 1, 2)),
        Member("1", "consumer", "in", None, 3, (0, 1, 2), (0, 1, 2)),
        Member("1", "producer", "out", None, 2, (0, 1), (2, 1)),
        Member("2", "consumer", "in", None, 2, (0, 1), (2, 1)),
    )


def test_frozen_filters_of_a_layer_stand_in_a_group_of_their_own(tracer: ChannelTracer) -> None:
    net, layers = chain_of_three(tracer)
    tracer.sets.freeze([2], "joined with the image")
    graph = built(tracer, net, layers)
    assert [(group.name, group.size, group.frozen) for group in graph.groups] == [
        ("0", 2, None), ("1", 2, None), ("0 (1)", 1, "joined with the image"), ("2", 1, "an output")
    ]  # fmt: skip
    assert graph.groups[0].members[1] == Member("1", "consumer", "in", None, 3, (0, 2), (0, 1))
    assert graph.frozen == {"0": "1 of its filters: joined with the image", "2": "an output"}


def test_layers_that_did_not_run_or_are_not_understood_say_so(tracer: ChannelTracer) -> None:
    net, layers = chain_of_three(tracer)
    assert isinstance(net, nn.Sequential)
    net.append(nn.Linear(2, 2)).append(nn.ReLU()).append(nn.Conv2d(1, 1, 1))
    record = TraceRecord(dict(net.named_modules()), layers, opaque={"3": "makes its own weight"})
    record.trains_more = True
    graph = graph_of(net, tracer, record)
    assert graph.frozen == {
        "2": "an output", "3": "makes its own weight", "5": "not reached by the example input"
    }  # fmt: skip
    assert graph.chain["5"] == ("2",) and "3" not in graph.chain
    assert graph.trains_more


def test_norms_and_depthwise_layers_carry_channels(tracer: ChannelTracer) -> None:
    tracer.sets.fresh(9)
    tracer.sets.freeze([9], "an output")
    for made, carried in ((1, 5), (2, 6)):
        tracer.sets.unite(made, carried, "unused")
    region = tracer.regions.fresh()
    layers = {
        "0": conv([1, 2], [FIXED]),
        "1": LayerRecord("norm", region, out_labels=[1, 2], approximate=True),
        "2": LayerRecord("conv", None, "blocks", [5, 6], [1, 2]),
        "3": conv([9], [5, 6]),
    }
    net = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.GroupNorm(2, 2), nn.Conv2d(2, 2, 1, groups=2), nn.Conv2d(2, 1, 1)
    )
    group = built(tracer, net, layers).groups[0]
    assert [(each.layer, each.role, each.axis) for each in group.members] == [
        ("0", "producer", "out"), ("1", "passenger", "out"), ("2", "passenger", "in"),
        ("2", "passenger", "out"), ("3", "consumer", "in"),
    ]  # fmt: skip
    assert group.approximate and all(each.units == (0, 1) for each in group.members)
    found = built(tracer, net, layers).layers
    assert (found["1"].kind, found["1"].inputs, found["1"].groups, found["1"].params) == ("norm", 0, 2, 4)
    assert (found["2"].grouping, found["2"].groups) == ("blocks", 2)

    tracer.regions.widen(region)
    assert "1" not in {each.layer for each in built(tracer, net, layers).groups[0].members}, (
        "a norm that stands where all channels stay is not cut"
    )


def with_parameter(tracer: ChannelTracer, shape: tuple[int, ...]) -> torch.Tensor:
    """The labels of a parameter of this shape, in a region of its own."""
    ids = tracer.sets.fresh(torch.Size(shape).numel()).reshape(shape)
    tracer.parameters["gamma"] = Labels(ids, region=tracer.regions.fresh())
    return ids


def test_a_bare_parameter_is_cut_along_the_dimension_that_its_channels_run_along(
    tracer: ChannelTracer,
) -> None:
    net, layers = chain_of_three(tracer)
    ids = with_parameter(tracer, (2, 3))
    for channel in range(3):
        for label in ids[:, channel].tolist():
            tracer.sets.unite(channel + 1, label, "unused")
    expected = Member("gamma", "passenger", "out", 1, 3, (0, 1, 2), (0, 1, 2))
    assert built(tracer, net, layers).groups[0].members[-1] == expected

    region = tracer.parameters["gamma"].region
    assert region is not None
    tracer.regions.widen(region)
    assert all(each.layer != "gamma" for each in built(tracer, net, layers).groups[0].members)


def test_a_parameter_that_meets_no_channel_is_nobodys(tracer: ChannelTracer) -> None:
    net, layers = chain_of_three(tracer)
    ids = with_parameter(tracer, (2, 3))
    graph = built(tracer, net, layers)
    assert len(graph.groups) == 3 and all(group.size <= 3 for group in graph.groups)
    assert all(tracer.sets.reason(label) is None for label in ids.flatten().tolist())


def test_a_parameter_that_meets_a_channel_askew_stays_whole(tracer: ChannelTracer) -> None:
    net, layers = chain_of_three(tracer)
    ids = with_parameter(tracer, (2, 2))
    for place in range(2):  # the diagonal
        tracer.sets.unite(1, int(ids[place, place]), "unused")
    graph = built(tracer, net, layers)
    reason = "the parameter gamma cannot be cut along one dimension"
    assert graph.frozen["0"] == f"1 of its filters: {reason}"
    assert [(group.name, group.size, group.frozen) for group in graph.groups[:3]] == [
        ("0 (1)", 2, None), ("1", 2, None), ("0", 1, reason)
    ]  # fmt: skip


def test_adapters_stand_where_all_channels_meet_those_that_stay(tracer: ChannelTracer) -> None:
    net, layers = chain_of_three(tracer)
    wide, narrow = tracer.regions.fresh(), tracer.regions.fresh()
    tracer.regions.widen(wide)
    for module, before, after, labels in (
        ("into", narrow, wide, (3, FIXED, 4)),
        ("out of", wide, narrow, (5, 6, 6)),
        ("nowhere", narrow, narrow, (1, 2, 3)),
        ("nobody's", narrow, wide, (FIXED, 6, FIXED)),
    ):
        tracer.crossings.append(Crossing(module, "out", 2, before, after, 1, labels))
    assert built(tracer, net, layers).adapters == (
        Adapter("into", "out", 2, 1, "restore", (("0", 2), None, ("1", 0))),
        Adapter("out of", "out", 2, 1, "pick", (("1", 1), None, None)),
    )
