"""Hooks see and change what layers read and return, and are gone afterwards."""

from contextlib import ExitStack

import pytest
import torch
from torch import Tensor, nn

from causal_prune.network.hooks import calls_seen, hooked, outputs_of, source_of
from tests.unit.drawn_weights import drawn


class Net(nn.Module):
    """The second layer is called twice, once by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(input=self.second(self.first(x)))
        return out


@pytest.fixture
def net() -> nn.Module:
    return drawn(Net())


X = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]])


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def test_the_source_is_the_first_argument_or_the_one_named_input() -> None:
    assert source_of((X, 2), {"input": 3}) is X
    assert source_of((), {"other": 3, "input": X}) is X


def test_what_a_layer_reads_is_changed_at_every_call_until_the_stack_is_closed(net: nn.Module) -> None:
    first, second = net.get_submodule("first"), net.get_submodule("second")
    before = net(X)
    with ExitStack() as stack:
        hooked(stack, second, lambda read: read + 1)
        hooked(stack, second, lambda read: 2 * read)
        assert torch.equal(net(X), second.forward(2 * (second.forward(2 * (first(X) + 1)) + 1)))
    assert torch.equal(net(X), before) and hooks(net) == 0


def test_further_arguments_are_left_alone() -> None:
    layer = nn.Bilinear(3, 3, 2)
    with ExitStack() as stack:
        hooked(stack, layer, torch.zeros_like)
        assert torch.equal(layer(X, X), layer.bias.expand(2, 2))


def test_every_call_is_shown_and_may_be_replaced(net: nn.Module) -> None:
    layers = {"a": net.get_submodule("first"), "b": net.get_submodule("second")}
    calls: list[tuple[str, Tensor, Tensor]] = []

    def see(name: str, module: nn.Module, source: Tensor, out: Tensor) -> Tensor | None:
        assert module is layers[name]
        calls.append((name, source, out))
        return 2 * out if name == "a" else None

    with calls_seen(layers, see):
        found = net(X)
    assert [name for name, _, _ in calls] == ["a", "b", "b"]
    first, second = layers["a"](X), layers["b"]
    assert torch.equal(calls[0][1], X) and torch.equal(calls[0][2], first)
    assert torch.equal(calls[1][1], 2 * first) and torch.equal(calls[2][2], found)
    assert torch.equal(found, second(second(2 * first))) and hooks(net) == 0


@pytest.mark.parametrize("first", [False, True])
def test_a_call_is_shown_behind_the_hooks_that_are_there_or_before_them(net: nn.Module, first: bool) -> None:
    layer = net.get_submodule("first")
    theirs = layer.register_forward_hook(lambda _, __, out: out + 1)
    seen: list[Tensor] = []
    with calls_seen({"a": layer}, lambda _, __, ___, out: seen.append(out), first=first):
        layer(X)
    assert torch.equal(seen[0], layer.forward(X) + (0 if first else 1))
    assert hooks(net) == 1
    theirs.remove()


def test_outputs_are_shown_and_may_be_replaced(net: nn.Module) -> None:
    layers, shown = {"first": net.get_submodule("first"), "": net}, []

    def see(name: str, _: nn.Module, out: Tensor) -> Tensor | None:
        shown.append(name)
        return torch.zeros_like(out) if name == "" else None

    before = net(X)
    with outputs_of(layers, see):
        assert not net(X).any()
    assert shown == ["first", ""] and torch.equal(net(X), before)


@pytest.mark.parametrize("context", [outputs_of, calls_seen])
def test_hooks_go_even_after_an_error(net: nn.Module, context: type) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="^enough$"), context(dict(net.named_children()), refuse):
        net(X)
    assert hooks(net) == 0
