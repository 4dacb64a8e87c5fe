"""What a tracer remembers of tensors while a network runs, and what it tells rules about operations."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal_prune.tracing import channel_tracer
from causal_prune.tracing.channel_labels import Labels
from causal_prune.tracing.channel_tracer import (
    ChannelTracer,
    Crossing,
    Operation,
    Rule,
    TracingForm,
    tensor_names,
    tensors,
)


def labelled(tracer: ChannelTracer, *shape: int, data: bool = False) -> Tensor:
    """A tensor with fresh labels along dimension 1, in a region of its own."""
    tensor = torch.ones(shape)
    ids = tracer.sets.fresh(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)
    tracer.note(tensor, Labels(ids, frozenset({"conv"}), tracer.regions.fresh(), data))
    return tensor


def passing_on(op: Operation, *, rigid: bool = False) -> bool:
    """A rule: the result has the labels of the first argument."""
    op.note(op.source.ids)
    return rigid


def test_operations_of_every_writing_reach_their_rule_and_those_inside_layers_none() -> None:
    seen: list[str] = []

    def rule_of(func: Any) -> Rule:
        return lambda op: seen.append(op.name)

    tracer = ChannelTracer({}, rule_of)
    with tracer:
        x = torch.ones(2, 3)
        y = torch.relu_(x.add_(1) * x)
        tracer.inside_layer += 1
        y.exp()
        tracer.inside_layer -= 1
        y[0, 0].item()
    assert seen == ["ones", "add", "mul", "relu", "select", "select", "local_scalar_dense"]


def test_labels_live_as_long_as_their_tensor(tracer: ChannelTracer) -> None:
    places = set()
    for _ in range(50):
        tensor = torch.zeros(2)
        assert tracer.labels(tensor) == Labels()
        tracer.note(tensor, Labels(data=True))
        assert tracer.labels(tensor).data
        places.add(id(tensor))
        del tensor
    assert len(places) < 50, "a place in memory that is used again has no labels of old"


def test_a_run_that_is_over_has_left_no_labels(tracer: ChannelTracer) -> None:
    tensor = labelled(tracer, 1, 2)
    with tracer:
        assert tracer.labels(tensor).parents == {"conv"}
    assert tracer.labels(tensor) == Labels()


def test_a_parameter_is_labelled_element_by_element_on_first_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_tracer, "LARGEST_PARAMETER", 6)
    net = nn.ParameterDict({"gamma": torch.ones(2, 3), "scale": torch.ones(1), "table": torch.ones(7)})
    net.register_buffer("shift", torch.ones(2))
    tracer = ChannelTracer(tensor_names(net), lambda _: passing_on)
    ids = tracer.labels(net["gamma"]).ids
    assert ids is not None and ids.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert tracer.labels(net["gamma"]).ids is ids
    shift = tracer.labels(net.get_buffer("shift")).ids
    assert shift is not None and shift.tolist() == [7, 8]
    for name in ("scale", "table"):
        assert tracer.labels(net[name]) == Labels(), "a single number, or one too large"
    assert tracer.parameters.keys() == {"gamma", "shift"}
    filters = tracer.sets.fresh(2)
    assert tracer.is_parameter(ids) and tracer.is_parameter(torch.tensor([0, 6, 7]))
    assert not tracer.is_parameter(filters) and not tracer.is_parameter(torch.tensor([6, int(filters[0])]))


def test_tied_tensors_have_their_first_name() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net.add_module("again", net[0])
    found = tensor_names(net)
    assert found[id(net[0].weight)] == "0.weight" and found[id(net[1].running_var)] == "1.running_var"
    assert len(found) == 7


def test_frozen_labels_say_what_happens_to_them_and_in_which_module(tracer: ChannelTracer) -> None:
    at_the_top, inside = labelled(tracer, 1, 2), labelled(tracer, 1, 2)
    tracer.freeze(tracer.labels(at_the_top).ids, "mixed")
    tracer.stack += ["", "block.mix"]
    tracer.freeze(tracer.labels(inside).ids, "mixed")
    tracer.freeze(None, "mixed")
    assert [tracer.sets.reason(label) for label in range(1, 5)] == ["mixed"] * 2 + ["mixed in block.mix"] * 2


def test_channels_along_one_dimension_cross_a_border_into_a_new_region(tracer: ChannelTracer) -> None:
    tensor = labelled(tracer, 2, 3, 4)
    before = tracer.labels(tensor)
    tracer.cross("in", "block", 1, tensor)
    after = tracer.labels(tensor)
    assert before.region is not None and after.region is not None and after.region != before.region
    assert tracer.crossings == [
        Crossing("block", "in", 1, before.region, after.region, dim=1, labels=(1, 2, 3))
    ]
    assert after.ids is before.ids and after.parents == {"conv"}


@pytest.mark.parametrize(
    "known", [Labels(), Labels(torch.arange(1, 5).reshape(2, 2), region=0), Labels(torch.tensor([1, 2]))]
)
def test_what_cannot_be_picked_crosses_unseen(tracer: ChannelTracer, known: Labels) -> None:
    tensor = torch.ones(2, 2)
    tracer.regions.fresh()
    tracer.note(tensor, known)
    tracer.cross("out", "block", 0, tensor)
    assert tracer.crossings == [] and tracer.labels(tensor) is known


@pytest.mark.parametrize(
    ("rigid", "cautious", "wide"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_what_goes_into_a_function_and_what_comes_out_has_one_form(
    rigid: bool, cautious: bool, wide: bool
) -> None:
    tracer = ChannelTracer(
        {},
        lambda _: lambda op: passing_on(op, rigid=rigid),
        form=TracingForm(rigid=frozenset({""}) if cautious else frozenset()),
    )
    a, b, other = (labelled(tracer, 2, 3) for _ in range(3))
    with tracer:
        found = tracer.labels(a + b)
        regions = [tracer.labels(each).region for each in (a, b, other)]
    first, second, third = (tracer.regions.find(region) for region in regions if region is not None)
    assert found.region is not None and first == second == tracer.regions.find(found.region) != third
    assert found.parents == {"conv"}
    assert tracer.regions.is_wide(first) is wide and not tracer.regions.is_wide(third)


def test_a_number_that_depends_on_the_images_marks_the_module_that_reads_it() -> None:
    tracer = ChannelTracer({}, lambda _: passing_on)
    images, constant = labelled(tracer, 2, 3, data=True), labelled(tracer, 2, 3)
    with tracer:
        float(images.sum())
        tracer.stack.append("block")
        float(constant.sum())
        assert tracer.branching == set()
        float((constant * images).sum())
    assert tracer.branching == {"block"}, "at the top there is no module"


def test_arguments_are_found_by_name_wherever_they_stand() -> None:
    found: list[tuple[Any, Any, Any]] = []

    def rule(op: Operation) -> None:
        if op.name == "mean":
            found.append((op.argument("dim"), op.argument("keepdim"), op.argument("absent")))
            assert len(op.inputs) == 1 and op.parents == frozenset()

    with ChannelTracer({}, lambda _: rule):
        x = torch.ones(2, 3)
        torch.ops.aten.mean.dim(x, [1], keepdim=True)
        torch.ops.aten.mean.dim(x, [-1])
    assert found == [([1], True, None), ([-1], False, None)]


def test_only_results_of_the_same_shape_get_labels() -> None:
    tracer = ChannelTracer({}, lambda _: passing_on)
    x = labelled(tracer, 2, 3)
    with tracer:
        values, indices = x.max(dim=1)
        same = x + 1
        assert tracer.labels(values).ids is None and tracer.labels(indices).ids is None
        assert tracer.labels(values).parents == {"conv"}
        assert tracer.labels(same).ids is tracer.labels(x).ids


def test_tensors_are_the_leaves_of_nested_containers_in_order() -> None:
    a, b, c = torch.ones(1), torch.ones(2), torch.ones(3)
    assert [id(each) for each in tensors(({"x": [a, 1], "y": None}, (b,), c))] == [id(a), id(b), id(c)]
