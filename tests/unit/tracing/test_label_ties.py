"""What ties labels once a network has run, for traces that are written down by hand."""

from typing import Literal

import pytest
import torch
from torch import nn

from causal_prune.tracing.channel_tracer import ChannelTracer, Crossing
from causal_prune.tracing.label_ties import freeze_branches, join_calls, settle_regions, tie_shared_weights
from causal_prune.tracing.layer_rules import LayerRecord, TraceRecord


def crossing(
    module: str,
    before: int,
    after: int,
    *labels: int,
    side: Literal["in", "out"] = "in",
    dim: int = 1,
) -> Crossing:
    return Crossing(module, side, 0, before, after, dim, labels)


def sharing(tracer: ChannelTracer, first: nn.Module, second: nn.Module, widths: list[int]) -> TraceRecord:
    """Two layers with one weight; filters and inputs of the first, then of the second, have fresh labels."""
    second.register_parameter("weight", first.get_parameter("weight"))
    a, b, c, d = (tracer.sets.fresh(width).tolist() for width in widths)
    layers = {"a": LayerRecord("conv", out_labels=a, in_labels=b)}
    layers["b"] = LayerRecord("conv", out_labels=c, in_labels=d)
    return TraceRecord({"": nn.Identity(), "a": first, "b": second}, layers)


def roots(tracer: ChannelTracer, labels: list[int]) -> list[int]:
    return [tracer.sets.find(label) for label in labels]


@pytest.mark.parametrize(
    ("module", "branching", "reason"),
    [
        ("block", "block", "a branch or a number depends on the images in block"),
        ("block.conv", "block", "a branch or a number depends on the images in block"),
        ("conv", "", "a branch or a number depends on the images"),
        ("block.inner.conv", "block", None),
        ("other.conv", "block", None),
    ],
)
def test_what_crosses_into_code_that_asks_for_values_is_frozen(
    tracer: ChannelTracer, module: str, branching: str, reason: str | None
) -> None:
    tracer.sets.fresh(3)
    tracer.branching.add(branching)
    tracer.crossings.append(crossing(module, 0, 1, 1, 2))
    freeze_branches(tracer)
    assert [tracer.sets.reason(label) for label in (1, 2, 3)] == [reason, reason, None]


def test_layers_with_one_weight_are_cut_alike(tracer: ChannelTracer) -> None:
    record = sharing(tracer, nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), [2, 3, 2, 3])
    tie_shared_weights(tracer, record)
    a, b = record.layers.values()
    assert roots(tracer, a.out_labels) == roots(tracer, b.out_labels)
    assert roots(tracer, a.in_labels) == roots(tracer, b.in_labels)
    assert len({*roots(tracer, a.out_labels), *roots(tracer, a.in_labels)}) == 5


def test_a_transposed_layer_reads_with_the_filters_of_the_other(tracer: ChannelTracer) -> None:
    record = sharing(tracer, nn.Conv2d(3, 2, 1), nn.ConvTranspose2d(2, 3, 1), [2, 3, 3, 2])
    tie_shared_weights(tracer, record)
    a, b = record.layers.values()
    assert roots(tracer, a.out_labels) == roots(tracer, b.in_labels)
    assert roots(tracer, a.in_labels) == roots(tracer, b.out_labels)


def test_a_weight_that_stands_for_other_axes_is_left_alone(tracer: ChannelTracer) -> None:
    record = sharing(tracer, nn.Conv2d(3, 2, 1), nn.Conv2d(6, 2, 1, groups=2), [2, 3, 2, 6])
    tie_shared_weights(tracer, record)
    a, b = record.layers.values()
    assert roots(tracer, a.out_labels) == roots(tracer, b.out_labels)
    assert [tracer.sets.reason(label) for label in a.out_labels] == [None, None]
    reasons = {tracer.sets.reason(label) for label in (*a.in_labels, *b.in_labels)}
    assert reasons == {"shares its weight with a"}


@pytest.mark.parametrize("unknown", ["a", "b"])
def test_a_weight_that_a_layer_which_never_ran_shares_is_not_cut(tracer: ChannelTracer, unknown: str) -> None:
    record = sharing(tracer, nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), [2, 3, 2, 3])
    del record.layers[unknown]
    tie_shared_weights(tracer, record)
    (known,) = record.layers.values()
    reasons = {tracer.sets.reason(label) for label in (*known.out_labels, *known.in_labels)}
    assert reasons == {"shares its weight with a"}


def test_layers_of_their_own_weights_are_not_tied(tracer: ChannelTracer) -> None:
    record = sharing(tracer, nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1), [2, 3, 2, 3])
    record.modules["b"].register_parameter("weight", nn.Parameter(torch.ones(2, 3, 1, 1)))
    tie_shared_weights(tracer, record)
    assert roots(tracer, list(range(1, 11))) == list(range(1, 11))


def test_calls_that_are_alike_have_one_border(tracer: ChannelTracer) -> None:
    regions = tracer.regions
    for _ in range(4):
        regions.fresh()
    tracer.sets.fresh(4)
    tracer.sets.unite(1, 3, "unused")
    tracer.sets.unite(2, 4, "unused")
    tracer.crossings += [crossing("block", 0, 1, 1, 2), crossing("block", 2, 3, 3, 4)]
    join_calls(tracer)
    assert tracer.crossings == [crossing("block", 0, 1, 1, 2)]
    assert regions.find(0) == regions.find(2) != regions.find(1) == regions.find(3)


@pytest.mark.parametrize(("labels", "dim"), [((1, 3), 1), ((1,), 1), ((1, 2), 2)])
def test_a_border_that_differs_from_call_to_call_is_none(
    tracer: ChannelTracer, labels: tuple[int, ...], dim: int
) -> None:
    regions = tracer.regions
    for _ in range(6):
        regions.fresh()
    tracer.sets.fresh(3)
    other = crossing("block", 4, 5, 1, 2, side="out")
    tracer.crossings += [
        crossing("block", 0, 1, 1, 2), crossing("block", 2, 3, *labels, dim=dim), other
    ]  # fmt: skip
    join_calls(tracer)
    assert tracer.crossings == [other]
    assert regions.find(0) == regions.find(1) != regions.find(2) == regions.find(3)
    assert regions.find(4) != regions.find(5)


def test_what_a_layer_reads_stays_whole_directly_beside_a_function_that_counts(tracer: ChannelTracer) -> None:
    tracer.sets.fresh(3)
    wide, narrow = tracer.regions.fresh(), tracer.regions.fresh()
    tracer.regions.widen(wide)
    record = TraceRecord({}, cut_regions=[(wide, [1, 2]), (narrow, [3])])
    settle_regions(tracer, record)
    reason = "a function that counts channels by position stands directly beside the layer"
    assert [tracer.sets.reason(label) for label in (1, 2, 3)] == [reason, reason, None]


@pytest.mark.parametrize(
    ("cut", "frozen", "wide"),
    [
        (
            (0, 4),
            False,
            [False, True, True, True, False],
        ),  # nobody reads in the middle: it is made wide as well
        ((0, 2, 4), False, [False, True, False, True, False]),
        ((0, 4), True, [False, True, False, True, False]),  # nothing crosses that could be picked
    ],
)
def test_channels_are_not_picked_only_to_be_put_back(
    tracer: ChannelTracer, cut: tuple[int, ...], frozen: bool, wide: list[bool]
) -> None:
    for _ in range(5):
        tracer.regions.fresh()
    tracer.sets.fresh(2)
    if frozen:
        tracer.sets.freeze((1, 2), "an output")
    tracer.regions.widen(1)
    tracer.regions.widen(3)
    tracer.crossings += [crossing(f"m{k}", k, k + 1, 1, 2) for k in range(4)]
    settle_regions(tracer, TraceRecord({}, cut_regions=[(region, [0]) for region in cut]))
    assert [tracer.regions.is_wide(region) for region in range(5)] == wide
