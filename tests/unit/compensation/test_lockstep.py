"""Passes that stop at every layer: where, with what, and that nothing of them is left."""

import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.compensation.lockstep import LayerStop, Pair, Stop, Stream, SumStop, stopping
from causal_prune.compensation.output_paths import OutputPaths
from tests.unit.compensation.cut_nets import images
from tests.unit.drawn_weights import drawn

Join = Callable[[Tensor, Tensor], Tensor]
PATHS = OutputPaths({}, {"a": "norm"}, frozenset({"a"}))
NO_SUMS = OutputPaths({}, {}, frozenset())


class Net(nn.Module):
    """A block whose output is joined with its input."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.stem, self.a, self.norm = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.head, self.join = nn.Linear(3, 2), join

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = self.join(x, self.norm(self.a(x)))
        return cast(Tensor, self.head(x.mean((2, 3))))


def plus(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def in_place(x: Tensor, y: Tensor) -> Tensor:
    y += x
    return y


def overwritten(x: Tensor, y: Tensor) -> Tensor:
    x.add_(1)
    return y + x


def net_of(join: Join = plus) -> Net:
    return cast(Net, drawn(Net(join)))


def computed(stop: Stop) -> Tensor:
    """What the network would have computed there."""
    if isinstance(stop, LayerStop):
        return stop.out
    total = stop.summands[0] + stop.factor * stop.summands[1]
    return stop.summands[0].copy_(total) if stop.in_place else total


def stops(stream: Stream, answer: Callable[[Stop], Tensor] = computed) -> list[tuple[tuple[str, str], Stop]]:
    """Run a pass to its end."""
    found = []
    stream.advance()
    while (stop := stream.stop) is not None:
        found.append((stream.place, stop))
        stream.advance(answer(stop))
    return found


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def read_and_returned(net: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By layer what it reads and returns, of a plain pass."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        layer.register_forward_hook(
            lambda _, args, out, name=name: found.update({name: (args[0].clone(), out.clone())})
        )
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("join", [plus, in_place, overwritten])
def test_a_pass_stops_behind_every_layer_and_at_the_sum_and_computes_what_it_would_alone(join: Join) -> None:
    net, x = net_of(join), images(4, 2, 3, 3)
    expected = read_and_returned(net, x)
    with stopping(net, PATHS):
        stream = Stream(net, x, PATHS)
        assert stream.place == ("", "")
        found = stops(stream)
        assert stream.place == ("", "")
        stream.close()
    assert [place for place, _ in found] == [
        ("layer", "stem"),
        ("layer", "a"),
        ("sum", "a"),
        ("layer", "head"),
    ]
    for (kind, name), stop in found:
        if isinstance(stop, LayerStop):
            source, out = expected[name]
            torch.testing.assert_close(stop.out, out)
            if name != "a" or join is not overwritten:
                torch.testing.assert_close(stop.source, source)
        else:
            assert kind == "sum"
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    ("join", "factor", "branch", "writes", "unspoilt"),
    [
        (plus, 1.0, 1, False, True),
        (lambda x, y: y + x, 1.0, 0, False, True),
        (in_place, 1.0, 0, True, True),
        (lambda x, y: x.add_(y), 1.0, 1, True, True),
        (lambda x, y: torch.add(x, y, alpha=0.5), 0.5, 1, False, True),
        (lambda x, y: torch.add(y, x, alpha=-2), -2.0, 0, False, True),
        (overwritten, 1.0, 0, False, False),
    ],
)
def test_a_sum_says_what_is_added(
    join: Join, factor: float, branch: int, writes: bool, unspoilt: bool
) -> None:
    net, x = net_of(join), images(4, 2, 3, 3)
    sums: list[tuple[SumStop, tuple[Tensor, ...]]] = []

    def answer(stop: Stop) -> Tensor:
        if isinstance(stop, SumStop):
            sums.append(
                (stop, tuple(summand.clone() for summand in stop.summands))
            )  # a sum in place overwrites one
        return computed(stop)

    with stopping(net, PATHS):
        stream = Stream(net, x, PATHS)
        stops(stream, answer)
        stream.close()
    ((stop, summands),) = sums
    assert (stop.layer, stop.factor, stop.branch) == ("a", factor, branch)
    assert (stop.in_place, stop.unspoilt) == (writes, unspoilt)
    with torch.no_grad():
        state = F.relu(net.stem(x))
        torch.testing.assert_close(summands[branch], net.norm(net.a(state)))
        torch.testing.assert_close(summands[1 - branch], state + (join is overwritten))


@pytest.mark.parametrize(
    ("join", "paths"),
    [
        (lambda x, y: x - y, PATHS),
        (lambda x, y: x + F.relu(y), PATHS),  # what is added is not what the batch norm returned
        (plus, NO_SUMS),
        (plus, OutputPaths({}, {}, frozenset({"a"}))),  # the batch norm is not known to be the layer's
    ],
)
def test_other_sums_are_passed_by(join: Join, paths: OutputPaths) -> None:
    net, x = net_of(join), images(4, 2, 3, 3)
    with stopping(net, paths):
        stream = Stream(net, x, paths)
        assert [place for place, _ in stops(stream)] == [("layer", name) for name in ("stem", "a", "head")]
        stream.close()


def test_a_reply_takes_the_place_of_what_was_computed() -> None:
    net, x = net_of(), images(4, 2, 3, 3)
    replies = {
        ("layer", "stem"): torch.full((4, 3, 3, 3), 2.0),
        ("sum", "a"): torch.full((4, 3, 3, 3), 5.0),
    }
    with stopping(net, PATHS):
        stream = Stream(net, x, PATHS)
        _, (_, a), (_, summed), (_, head) = stops(
            stream, lambda stop: replies.get(stream.place, computed(stop))
        )
        stream.close()
    assert torch.equal(a.source, torch.full((4, 3, 3, 3), 2.0))
    assert isinstance(summed, SumStop) and torch.equal(summed.summands[0], a.source)
    assert torch.equal(head.source, torch.full((4, 3), 5.0))


HERE: ContextVar[int] = ContextVar("HERE", default=0)


class Wandering(nn.Module):
    """Changes between its layers what Python and torch keep per thread."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        token = HERE.set(HERE.get() + 1)
        with torch.enable_grad():
            x = self.first(x)
        HERE.reset(token)
        return cast(Tensor, self.second(x * HERE.get()))


def test_many_passes_go_on_side_by_side_and_know_nothing_of_each_other() -> None:
    net, batches = drawn(Wandering()), [images(3, 2, seed=k) for k in range(4)]
    token = HERE.set(3)
    with torch.no_grad():
        expected = [read_and_returned(net, batch)["second"][1] for batch in batches]
    with stopping(net, NO_SUMS):
        streams = [Stream(net, batch, NO_SUMS) for batch in batches]
        for stream in streams:
            stream.advance()
            assert torch.is_grad_enabled() and HERE.get() == 3
        for stream in reversed(streams):
            assert stream.stop is not None and stream.place == ("layer", "first")
            stream.advance(computed(stream.stop))
        for stream, out in zip(streams, expected, strict=True):
            assert stream.place == ("layer", "second")
            torch.testing.assert_close(computed(cast(Stop, stream.stop)), out)
            stream.close()
    HERE.reset(token)


class BrokenError(Exception):
    pass


def broken(x: Tensor, y: Tensor) -> Tensor:
    raise BrokenError("on purpose")


def test_what_the_network_raises_is_raised_where_it_was_let_run_on() -> None:
    net, x = net_of(broken), images(4, 2, 3, 3)
    with stopping(net, PATHS):
        stream = Stream(net, x, PATHS)
        stream.advance()
        stream.advance(computed(cast(Stop, stream.stop)))
        assert stream.place == ("layer", "a")
        with pytest.raises(BrokenError, match="^on purpose$"):
            stream.advance(computed(cast(Stop, stream.stop)))
        assert stream.stop is None
        stream.close()


@pytest.mark.parametrize("steps", range(6))
def test_a_pass_may_be_closed_wherever_it_stands(steps: int) -> None:
    net, ended = net_of(), []

    def watched(x: Tensor, y: Tensor) -> Tensor:
        try:
            return x + y
        finally:
            ended.append(True)

    net.join = watched
    with stopping(net, PATHS):
        stream = Stream(net, images(4, 2, 3, 3), PATHS)
        for _ in range(steps):
            stream.advance(None if stream.stop is None else computed(stream.stop))
        stream.close()
    assert bool(ended) == (steps > 2), "what the network has begun it can end"


def test_two_passes_of_a_pair_run_on_together() -> None:
    dense, pruned, x = net_of(), net_of(), images(4, 2, 3, 3)
    with stopping(dense, PATHS), stopping(pruned, PATHS):
        pair = Pair(Stream(dense, x, PATHS), Stream(pruned, x, PATHS), held_out=False, index=0)
        pair.advance(None, None)
        assert pair.dense.place == pair.pruned.place == ("layer", "stem")
        ones, twos = torch.ones(4, 3, 3, 3), torch.full((4, 3, 3, 3), 2.0)
        pair.advance(ones, twos)
        assert torch.equal(cast(Stop, pair.dense.stop).source, ones)
        assert torch.equal(cast(Stop, pair.pruned.stop).source, twos)
        pair.dense.close()
        pair.pruned.close()


def test_hooks_that_are_there_see_the_reply_and_only_those_are_left() -> None:
    net, seen = net_of(), []
    handle = net.stem.register_forward_hook(lambda _, __, out: seen.append(out))
    reply = torch.ones(4, 3, 3, 3)
    with stopping(net, PATHS):
        stream = Stream(net, images(4, 2, 3, 3), PATHS)
        stream.advance()
        stream.advance(reply)
        stream.close()
    assert len(seen) == 1 and seen[0] is reply
    assert list(net.stem._forward_hooks) == [handle.id]
    with pytest.raises(BrokenError, match="^inside$"), stopping(net, PATHS):
        raise BrokenError("inside")
    assert [len(module._forward_hooks) for module in net.modules()].count(0) == 4
