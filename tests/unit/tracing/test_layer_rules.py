"""What layers read and hand out while they run, and what of it is tied."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.network.layer_kinds import Grouping
from causal_prune.tracing.channel_labels import FIXED, Labels
from causal_prune.tracing.channel_tracer import ChannelTracer
from causal_prune.tracing.layer_rules import TraceRecord, labelling, record_layer
from causal_prune.tracing.operation_rules import rule_of


def followed(net: nn.Module, *inputs: Tensor, counting: bool = True) -> tuple[ChannelTracer, TraceRecord]:
    """What a network has left that ran once."""
    record = TraceRecord(dict(net.named_modules()), counting=counting)
    tracer = ChannelTracer({}, lambda func: rule_of(func, record))
    tracer.counting = counting
    with torch.no_grad(), labelling(tracer, net, record), tracer:
        for tensor in inputs:
            tracer.note(tensor, Labels(data=True))
        net(*inputs)
    return tracer, record


def hooks(net: nn.Module) -> Iterator[int]:
    for module in net.modules():
        yield len(module._forward_hooks) + len(module._forward_pre_hooks)


def sets_of(tracer: ChannelTracer, labels: list[int]) -> list[list[int]]:
    """Positions that are united, in order."""
    found: dict[int, list[int]] = {}
    for place, label in enumerate(labels):
        found.setdefault(tracer.sets.find(label), []).append(place)
    return list(found.values())


def test_a_layer_reads_what_those_before_it_handed_out() -> None:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 5)
    ).eval()
    tracer, record = followed(net, torch.ones(2, 2, 6, 6))
    first, norm, second, last = (record.layers[name] for name in ("0", "1", "3", "5"))
    assert list(record.layers) == ["0", "1", "3", "5"] and record.unreached == []
    assert first.in_labels == [FIXED, FIXED] and first.out_labels == [1, 2, 3]
    assert norm.out_labels == second.in_labels == [1, 2, 3] and norm.in_labels == []
    assert second.out_labels == [4, 5, 6, 7] and last.out_labels == [8, 9, 10, 11, 12]
    assert last.in_labels == [label for label in (4, 5, 6, 7) for _ in range(16)]
    assert [layer.kind for layer in record.layers.values()] == ["conv", "norm", "conv", "linear"]
    assert [layer.parents for layer in (first, norm, second, last)] == [set(), set(), {"0"}, {"3"}]
    assert not norm.approximate and norm.region is not None
    assert sum(hooks(net)) == 0
    assert [crossing.module for crossing in tracer.crossings if crossing.side == "in"] == [
        "1", "2", "3", "4", "5"
    ]  # fmt: skip


def macs_by_hand(layer: nn.Module, x: Tensor) -> int:
    """How often a weight of a layer is used: everything is 1, so the sum of the outputs counts."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(1.0)
        return round(float(layer(torch.ones_like(x[:1])).sum()))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, (3, 2), stride=2, bias=False), (3, 4, 7, 8)),
        (nn.Conv2d(4, 6, 3, groups=2, dilation=2, bias=False), (2, 4, 6, 7)),
        (nn.Conv1d(4, 4, 3, groups=4, bias=False), (2, 4, 6)),
        (nn.Conv3d(2, 3, 2, bias=False), (2, 2, 3, 4, 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), (2, 4, 3, 4)),
        (nn.Linear(5, 3, bias=False), (2, 5)),
        (nn.Linear(5, 3, bias=False), (2, 7, 5)),
    ],
)
def test_multiply_accumulates_are_those_of_one_image(layer: nn.Module, shape: tuple[int, ...]) -> None:
    tracer, record = followed(nn.Sequential(layer), torch.ones(shape))
    assert tracer.macs == {"0": shape[0] * macs_by_hand(layer, torch.ones(shape))} and not record.unbatched
    tracer, record = followed(nn.Sequential(layer), torch.ones(shape), counting=False)
    assert tracer.macs == {} and len(record.layers["0"].out_labels) > 0


def test_an_image_without_a_batch_counts_as_one() -> None:
    tracer, record = followed(nn.Sequential(nn.Conv2d(2, 3, 3)), torch.ones(2, 6, 6))
    assert tracer.macs == {"0": 16 * 3 * 2 * 9} and record.unbatched
    assert len(record.layers["0"].in_labels) == 2 and len(record.layers["0"].out_labels) == 3


@pytest.mark.parametrize(
    ("inputs", "filters", "groups", "grouping", "read", "written"),
    [
        (8, 6, 2, "positions", [[0, 4], [1, 5], [2, 6], [3, 7]], [[0, 3], [1, 4], [2, 5]]),
        (4, 8, 2, "blocks", [[0, 1], [2, 3]], [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (4, 8, 4, "blocks", [[0], [1], [2], [3]], [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (4, 3, 1, "dense", [[0], [1], [2], [3]], [[0], [1], [2]]),
    ],
)
def test_groups_of_a_layer_stay_equal(
    inputs: int,
    filters: int,
    groups: int,
    grouping: Grouping,
    read: list[list[int]],
    written: list[list[int]],
) -> None:
    net = nn.Sequential(nn.Conv2d(1, inputs, 1), nn.Conv2d(inputs, filters, 1, groups=groups))
    tracer, record = followed(net, torch.ones(1, 1, 2, 2))
    layer = record.layers["1"]
    assert layer.grouping == grouping
    assert sets_of(tracer, layer.in_labels) == read
    assert sets_of(tracer, layer.out_labels) == written
    both = sets_of(tracer, layer.in_labels + layer.out_labels)
    assert len(both) == (groups if grouping == "blocks" else len(read) + len(written)), (
        "a block goes with the filters that read it"
    )


@pytest.mark.parametrize(
    ("norm", "grouping", "sets", "approximate", "reason"),
    [
        (nn.BatchNorm2d(4), "dense", [[0], [1], [2], [3]], False, None),
        (nn.InstanceNorm2d(4, affine=True), "dense", [[0], [1], [2], [3]], False, None),
        (nn.GroupNorm(1, 4), "dense", [[0], [1], [2], [3]], True, None),
        (nn.GroupNorm(2, 4), "blocks", [[0, 1], [2, 3]], True, None),
        (nn.LayerNorm([4, 2, 2]), "dense", None, True, "normalised together with space in 1"),
        (nn.PReLU(4), "dense", [[0], [1], [2], [3]], False, None),
    ],
)
def test_what_carries_channels_hands_on_what_it_reads(
    norm: nn.Module, grouping: Grouping, sets: list[list[int]] | None, approximate: bool, reason: str | None
) -> None:
    tracer, record = followed(
        nn.Sequential(nn.Conv2d(1, 4, 1), norm, nn.Conv2d(4, 1, 1)), torch.ones(1, 1, 2, 2)
    )
    carrying, made = record.layers["1"], record.layers["0"].out_labels
    assert record.layers["2"].in_labels == made and record.layers["2"].parents == {"0"}
    assert (carrying.grouping, carrying.approximate) == (grouping, approximate)
    assert {tracer.sets.reason(label) for label in made} == {reason}
    if sets is not None:
        assert carrying.out_labels == made and sets_of(tracer, made) == sets


def test_a_slope_for_all_channels_is_no_layer() -> None:
    _, record = followed(nn.Sequential(nn.Conv2d(1, 2, 1), nn.PReLU()), torch.ones(1, 1, 2, 2))
    assert list(record.layers) == ["0"]


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.norm = nn.Conv2d(1, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.idle = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.again(self.again(self.norm(self.stem(x)))))
        return out


def test_a_second_call_ties_what_is_read_to_what_the_first_read() -> None:
    tracer, record = followed(Twice().eval(), torch.ones(2, 1, 2, 2))
    stem, again = record.layers["stem"], record.layers["again"]
    together = stem.out_labels + again.out_labels
    assert sets_of(tracer, together) == [[0, 3], [1, 4], [2, 5]]
    assert again.parents == {"stem", "again"} and tracer.macs["again"] == 2 * 2 * 4 * 9
    assert record.unreached == ["idle"]


class Own(nn.Conv2d):
    """A convolution with a forward of its own; it uses its weight, or what filters have of their own."""

    centred = False

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean(0) if self.centred else self.weight
        out: Tensor = F.conv2d(x, weight, self.bias)
        return out


def test_a_layer_with_a_forward_of_its_own_is_recorded_where_it_uses_its_weight() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), Own(2, 3, 2))
    tracer, record = followed(net, torch.ones(2, 1, 3, 3))
    assert record.layers["1"].in_labels == [1, 2] and tracer.macs["1"] == 2 * 4 * 3 * 2 * 4
    assert record.layers["1"].parents == {"0"} and record.opaque == {}


def test_a_layer_that_computes_with_another_weight_is_opaque_and_freezes_what_it_reads() -> None:
    own = Own(2, 3, 2)
    own.centred = True
    net = nn.Sequential(nn.Conv2d(1, 2, 1), own, nn.ReLU(), nn.Conv2d(3, 2, 1))
    tracer, record = followed(net, torch.ones(2, 1, 3, 3))
    assert record.opaque == {"1": "computes with a weight of its own making"} and "1" not in record.layers
    assert {tracer.sets.reason(label) for label in record.layers["0"].out_labels} == {
        "read by a layer that makes its own weight in 1"
    }
    assert record.layers["3"].in_labels == [FIXED] * 3 and record.layers["3"].parents == {"1"}
    assert record.unreached == []


def test_channels_that_are_shared_by_a_reader_are_united(tracer: ChannelTracer) -> None:
    layer, source = nn.Conv2d(2, 1, 1), torch.ones(1, 2, 1, 2)
    ids = tracer.sets.fresh(4).reshape(1, 2, 1, 2)
    tracer.note(source, Labels(ids, frozenset({"shuffle"}), tracer.regions.fresh()))
    record = TraceRecord({"": layer})
    record_layer(tracer, record, "", layer, source, layer(source))
    assert record.layers[""].in_labels == [1, 3]
    assert sets_of(tracer, [1, 2, 3, 4]) == [[0, 1], [2, 3]]
    assert record.cut_regions == [(0, [1, 3]), (1, [5])]


def test_hooks_go_even_after_an_error() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(3, 1, 1))
    net[0].register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="channels"):
        followed(net, torch.ones(1, 1, 2, 2))
    assert sum(hooks(net)) == 1
