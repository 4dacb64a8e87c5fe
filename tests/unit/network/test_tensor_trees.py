"""Tensors are found, named and replaced in whatever a network takes and returns."""

import copy
import types
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.tensor_trees import (
    ImageList,
    mapped,
    named_tensors,
    outputs_in,
    own,
    tensors_in,
)

A, B = torch.zeros(2, 3), torch.ones(2)
Pair = namedtuple("Pair", ["scores", "boxes"])


@dataclass(frozen=True)
class Frozen:
    scores: Tensor
    more: Any = None


@dataclass(slots=True)
class Slotted:
    scores: Tensor
    boxes: Tensor


@dataclass
class Inherited(Frozen.__mro__[1]):  # type: ignore[misc]  # object: a dataclass of its own
    parts: list[Tensor] = field(default_factory=list)


class Plain:
    def __init__(self, *tensors: Tensor) -> None:
        self._fields, self.size = {"scores": tensors[0], "boxes": tensors[1]}, (2, 3)
        self.itself = self


class Slots:
    __slots__ = ("a", "b", "unset")

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b


HOLDERS: list[Callable[[Tensor, Tensor], Any]] = [
    lambda a, b: (a, b), lambda a, b: [a, None, b], lambda a, b: {"x": a, "y": [b]}, Pair,
    lambda a, b: OrderedDict(x=a, y=b), lambda a, b: deque([a, b]), Frozen, Slotted, Plain, Slots,
    lambda a, b: Inherited([a, b]), lambda a, b: types.SimpleNamespace(a=a, b=b), lambda a, b: Frozen(a, Slots(b, b).b),
    lambda a, b: (a, Frozen(b, "text")), lambda a, b: {"x": Pair(a, {"deep": (b,)})}, lambda a, b: ImageList([a, b]),
    lambda a, b: torch.distributions.Normal(a, b.reshape(2, 1) + a),
]  # fmt: skip


@pytest.mark.parametrize("hold", HOLDERS)
def test_tensors_are_found_in_order(hold: Callable[[Tensor, Tensor], Any]) -> None:
    held = hold(A, B)
    assert len(tensors_in(held)) == 2
    assert [name for name, _ in named_tensors(held, first="output")] != []
    assert len({name for name, _ in named_tensors(held, first="output")}) == 2


@pytest.mark.parametrize("hold", HOLDERS)
def test_the_same_structure_gets_other_tensors_and_the_first_one_keeps_its_own(
    hold: Callable[[Tensor, Tensor], Any],
) -> None:
    held = hold(A, B)
    before = [tensor.clone() for tensor in tensors_in(held)]
    other = mapped(lambda tensor: tensor + 5, held)
    assert type(other) is type(held) and other is not held
    for new, old, was in zip(tensors_in(other), tensors_in(held), before, strict=True):
        assert torch.equal(new, was + 5) and torch.equal(old, was)


@pytest.mark.parametrize(
    "value", [None, 3, "text", len, print, nn.Linear(2, 2), Tensor, types, b"x", {1, 2}, iter([A]), copy.copy]
)
def test_what_holds_no_tensor_of_its_own_is_passed_over(value: object) -> None:
    assert tensors_in(value) == []
    assert mapped(lambda tensor: tensor + 1, value) is value


def test_names_are_keys_positions_and_attributes() -> None:
    names = {
        "output": A,
        "output_1": (None, A),
        "output_0_x": [{"x": A}],
        "x_1": {"x": (3, A)},
        "scores": Frozen(A),
        "more_0": Frozen("x", (A,)),
        "output_0_scores": [Frozen(A)],
    }
    for name, value in names.items():
        assert [found for found, _ in named_tensors(value, first="output")] == [name]


@pytest.mark.parametrize(
    ("returned", "described"),
    [
        (None, "None"),
        (Frozen(None), "a Frozen"),
        ([], "a list"),
        (iter([A]), "a list_iterator"),
        (3, "an int"),
    ],  # type: ignore[arg-type]
)
def test_outputs_without_tensors_are_refused_by_the_type(returned: object, described: str) -> None:
    with pytest.raises(
        InputError, match=f"^the model returns {described} in which no tensor is found: return"
    ):
        outputs_in(returned)
    assert outputs_in((returned, A)) == [A]


def test_inputs_of_ones_own_are_plain_copies() -> None:
    class Tagged(Tensor):
        pass

    given = {"x": A.clone().as_subclass(Tagged), "y": (B, 3)}
    copied = own(given)
    assert type(copied["x"]) is Tensor and copied["y"][1] == 3
    copied["x"].add_(1)
    copied["y"][0].zero_()
    assert torch.equal(given["x"].as_subclass(Tensor), A) and bool(B.all())
