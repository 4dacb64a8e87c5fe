"""What operations between layers do with labels: each is applied to numbers that stand for channels."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.tracing.channel_labels import Labels, canonical
from causal_prune.tracing.channel_tracer import ChannelTracer
from causal_prune.tracing.layer_rules import TraceRecord
from causal_prune.tracing.operation_rules import rule_of

Change = Callable[[Tensor], Tensor]


class Run:
    """Tensors with labels along dimension 1, and what a function makes of them.

    Labels of the first are 1, 2, ...; those of the others follow. A parameter has a label for every element.
    """

    def __init__(
        self, function: Callable[..., Tensor], *shapes: tuple[int, ...], parameter: Tensor | None = None
    ):
        names = {} if parameter is None else {id(parameter): "gamma"}
        self.tracer = ChannelTracer(names, lambda func: rule_of(func, TraceRecord({})))
        self.sources: list[Tensor] = []
        arguments: list[Tensor] = []
        for shape in shapes:
            tensor = torch.rand(shape, generator=torch.Generator().manual_seed(1))
            ids = self.tracer.sets.fresh(shape[1]).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)
            self.tracer.note(
                tensor, Labels(ids, frozenset({f"made {len(arguments)}"}), self.tracer.regions.fresh())
            )
            self.sources.append(ids)
            arguments.append(tensor)
        with torch.no_grad(), self.tracer:
            out = function(*arguments, *([] if parameter is None else [parameter]))
            self.found = self.tracer.labels(out)
        self.wide = self.tracer.regions.is_wide(0)

    def sets(self) -> list[set[int]]:
        """Labels that are united, where there are at least two."""
        found: dict[int, set[int]] = {}
        for label in range(1, int(self.tracer.sets.fresh(1))):
            found.setdefault(self.tracer.sets.find(label), set()).add(label)
        return [each for each in found.values() if len(each) > 1]

    def reasons(self, count: int) -> set[str | None]:
        """Why the first labels are frozen."""
        return {self.tracer.sets.reason(label) for label in range(1, count + 1)}


MOVES: dict[str, tuple[Change, bool]] = {
    "permute": (lambda x: x.permute(0, 2, 3, 1), False),
    "transpose": (lambda x: x.transpose(1, 2), False),
    "unsqueeze": (lambda x: x.unsqueeze(2), False),
    "stack": (lambda x: torch.stack((x, x), dim=0), False),
    "twice": (lambda x: torch.cat((x, x), dim=1), False),
    "rows": (lambda x: x[:, :, 1:], False),
    "one place": (lambda x: x[:, :, 0, 1], False),
    "flatten": (lambda x: x.flatten(1), False),
    "flatten space": (lambda x: x.flatten(2), False),
    "whole slice": (lambda x: x[:, 0:8], False),
    "contiguous": (lambda x: x.transpose(1, 2).contiguous().clone(), False),
    "turn in space": (lambda x: x.roll(1, dims=2).flip(3), False),
    "split space": (lambda x: x.unflatten(3, (2, 1)), False),
    "slice": (lambda x: x[:, 2:6], True),
    "step": (lambda x: x[:, ::2], True),
    "one channel": (lambda x: x[:, 3], True),
    "chunk": (lambda x: x.chunk(2, dim=1)[1], True),
    "unbind": (lambda x: x.unbind(1)[7], True),
    "flip": (lambda x: x.flip(1), True),
    "roll": (lambda x: x.roll(3, dims=1), True),
    "repeat": (lambda x: x.repeat(1, 2, 1, 1), True),
    "listed": (lambda x: x[:, [3, 1, 1]], True),
    "index_select": (lambda x: x.index_select(1, torch.tensor([7, 0])), True),
    "shuffle": (lambda x: x.reshape(2, 2, 4, 3, 2).transpose(1, 2).flatten(1, 2), True),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x, 2), True),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_a_movement_of_data_moves_the_labels(name: str) -> None:
    function, by_position = MOVES[name]
    run = Run(function, (2, 8, 3, 2))
    expected = function(run.sources[0])
    assert run.found.ids is not None and torch.equal(run.found.ids, expected)
    again = canonical(expected)
    assert again is not None and run.found.ids.stride() == again.stride()
    assert run.wide is by_position, "who counts channels by position needs all of them"
    assert run.found.parents == {"made 0"} and run.reasons(8) == {None} and run.sets() == []


ALONG_SPACE: dict[str, Change] = {
    "relu": torch.relu,
    "relu in place": lambda x: x.relu_(),
    "hardswish": F.hardswish,
    "gelu": F.gelu,
    "times a number": lambda x: 2 * x - 1,
    "cast": lambda x: x.double(),
    "dropout": lambda x: F.dropout(x, 0.5, training=True),
    "mean over space": lambda x: x.mean((2, 3)),
    "mean that keeps dimensions": lambda x: x.mean((2, 3), keepdim=True),
    "amax": lambda x: x.amax(-1),
    "max": lambda x: x.max(dim=2).values,
    "softmax over space": lambda x: x.softmax(3),
    "cumsum over space": lambda x: x.cumsum(2),
    "max_pool": lambda x: F.max_pool2d(x, 2),
    "avg_pool": lambda x: F.avg_pool2d(x, 2, 1),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "upsample": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "pad space": lambda x: F.pad(x, (1, 1, 2, 0)),
    "reflect": lambda x: F.pad(x, (1, 1, 0, 2), mode="reflect"),
    "zeros like": torch.zeros_like,
    "where": lambda x: torch.where(x > 0.5, x, 0.0),
}


@pytest.mark.parametrize("name", ALONG_SPACE)
def test_what_works_channel_by_channel_keeps_the_labels(name: str) -> None:
    function = ALONG_SPACE[name]
    run = Run(function, (2, 4, 4, 4))
    shape = function(torch.rand(2, 4, 4, 4)).shape
    assert run.found.ids is not None
    assert torch.equal(run.found.ids, torch.arange(1, 5).reshape(-1, *[1] * (len(shape) - 2)).expand(shape))
    assert not run.wide and run.reasons(4) == {None} and run.sets() == []


MIXED: dict[str, tuple[Change, str]] = {
    "sum": (lambda x: x.sum(1), "channels are mixed by sum"),
    "sum of all": (lambda x: x.sum(), "channels are mixed by sum"),
    "softmax": (lambda x: x.softmax(1), "channels are mixed by softmax"),
    "cumsum": (lambda x: x.cumsum(-3), "channels are mixed by cumsum"),
    "pool": (lambda x: F.max_pool1d(x[:, :, 0].transpose(1, 2), 2), "channels are mixed by max_pool2d_with_indices"),
    "fft": (lambda x: torch.fft.fft(x, dim=1).real, "passes through fft_r2c, which cannot be followed"),
    "matmul": (lambda x: x.flatten(1).mm(torch.rand(64, 2)), "multiplied in mm with a tensor that is no parameter"),
    "number": (lambda x: x * float(x[0, 0, 0, 0]), "a branch or a Python number depends on the channels"),
    "written": (lambda x: torch.zeros(2, 4, 4, 4).copy_(x), "channels are written into another tensor"),
    "grid": (
        lambda x: F.grid_sample(torch.rand(2, 1, 4, 4), x[..., :2], align_corners=False),
        "channels steer grid_sampler_2d",
    ),
    "picking": (lambda x: x[:, x[0, :, 0, 0].argsort()], "channels are mixed by sort"),
    "convolution": (
        lambda x: F.conv2d(x, torch.rand(1, 4, 1, 1)), "multiplied in convolution with a tensor that is no parameter"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MIXED)
def test_what_cannot_be_followed_freezes_with_a_reason(name: str) -> None:
    function, reason = MIXED[name]
    run = Run(function, (2, 4, 4, 4))
    assert run.reasons(4) <= {reason, None} and run.tracer.sets.reason(1) == reason
    assert run.found.parents <= {"made 0"}


def test_channels_that_meet_are_united_element_by_element() -> None:
    run = Run(lambda x, y: x + y, (2, 3, 4), (1, 3, 1))
    assert run.sets() == [{1, 4}, {2, 5}, {3, 6}]
    assert run.found.ids is not None and torch.equal(run.found.ids, run.sources[0])
    assert run.found.parents == {"made 0", "made 1"} and run.reasons(6) == {None}
    assert Run(lambda x, y: x * y.transpose(1, 2), (2, 3, 3), (2, 3, 3)).sets() == [{1, 2, 3, 4, 5, 6}]


def test_channels_that_meet_the_image_go_on_as_they_are() -> None:
    run = Run(lambda x: x + torch.rand(2, 1, 4), (2, 3, 4))
    assert run.sets() == [] and not run.wide and run.reasons(3) == {None}


def test_a_constant_as_wide_as_the_channels_needs_all_of_them() -> None:
    assert Run(lambda x: x + torch.arange(3.0)[:, None], (2, 3, 4)).wide
    assert not Run(lambda x: x + torch.arange(4.0), (2, 3, 4)).wide


def test_a_gate_ties_the_halves() -> None:
    run = Run(lambda x: F.glu(x, 1), (2, 6, 3))
    assert run.sets() == [{1, 4}, {2, 5}, {3, 6}]
    assert run.found.ids is not None and torch.equal(run.found.ids, run.sources[0][:, :3])


def test_writing_over_channels_ties_them() -> None:
    def written(x: Tensor, y: Tensor) -> Tensor:
        x[:, 1:] = y
        return x

    run = Run(written, (2, 3, 4), (2, 2, 4))
    assert run.sets() == [{2, 4}, {3, 5}]
    assert run.found.ids is not None and torch.equal(run.found.ids, run.sources[0])


def test_channels_of_zeros_are_channels_of_their_own() -> None:
    run = Run(lambda x: F.pad(x, (0, 0, 1, 2)), (2, 3, 4))
    assert run.wide and run.sets() == [] and run.found.ids is not None
    labels = run.found.ids[0, :, 0].tolist()
    assert labels[1:4] == [1, 2, 3] and len(set(labels)) == 6 and min(labels) > 0
    tied = Run(lambda x, y: F.pad(x, (0, 0, 1, 2)) + y, (2, 3, 4), (2, 6, 4))
    assert len(tied.sets()) == 6 and tied.reasons(9) == {None}


@pytest.mark.parametrize(
    ("shape", "sets"),
    [
        ((3, 1), [{1, 4}, {2, 5}, {3, 6}]),
        ((1, 3, 2), [{1, 4, 5}, {2, 6, 7}, {3, 8, 9}]),
        ((1, 2), []),  # each of its elements serves all channels: it stays whole, and they may go
    ],
)
def test_a_parameter_goes_with_the_channels_that_it_alone_scales(
    shape: tuple[int, ...], sets: list[set[int]]
) -> None:
    gamma = nn.Parameter(torch.ones(shape))
    run = Run(lambda x, scale: x * scale, (2, 3, 2), parameter=gamma)
    assert run.sets() == sets and run.reasons(3) == {None} and not run.wide
    assert run.found.ids is not None and torch.equal(run.found.ids, run.sources[0])


@pytest.mark.parametrize(
    "function",
    [torch.relu, lambda x: x[:, :2], lambda x: x.sum(1), lambda x: x.softmax(1), lambda x: F.pad(x, (1, 1)),
     lambda x: F.glu(x[:, :2], 1), lambda x: x.reshape(3, 2), torch.zeros_like, lambda x: F.avg_pool1d(x, 2)],
)  # fmt: skip
def test_what_has_no_labels_gets_none(function: Change) -> None:
    run = Run(lambda _: function(torch.ones(2, 3)), (1, 1))
    assert run.found == Labels() and not run.wide and run.reasons(1) == {None}


def test_a_picture_that_channels_steer_is_not_followed() -> None:
    run = Run(lambda x: x[:, :, (x[0, 0] > 0.5).nonzero()[:, 0]], (1, 2, 3))
    assert run.reasons(1) == {"passes through nonzero, which cannot be followed"}
