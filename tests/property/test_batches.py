"""What a loader may give: whatever form its batches have, every verb computes the same from the same images."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import causal_prune as cp
from causal_prune.errors import InputError
from causal_prune.importance.methods import METHODS
from causal_prune.measure import evaluate

pytestmark = pytest.mark.filterwarnings("ignore")

Form = Callable[[Tensor, Tensor], Any]
FORMS: dict[str, Form] = {
    "lists": lambda x, y: [x, y],
    "labels in a column": lambda x, y: (x, y[:, None]),
    "one-hot": lambda x, y: (x, nn.functional.one_hot(y, 4)),
    "one-hot of floats": lambda x, y: (x, nn.functional.one_hot(y, 4).float()),
    "a dictionary": lambda x, y: {"image": x, "label": y},
    "a dictionary, labels first": lambda x, y: {"labels": y, "pixel_values": x},
    "a dictionary with more": lambda x, y: {
        "image": x,
        "id": torch.arange(len(x)),
        "file": ["a"] * len(x),
        "label": y,
    },
    "a dictionary with the network's own name": lambda x, y: {"x": x, "target": y},
    "a dictionary, one-hot": lambda x, y: {"img": x, "targets": nn.functional.one_hot(y, 4).bool()},
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.next, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.next(torch.relu(self.norm(self.conv(x))))).mean((2, 3)))


class World:
    """A network, its images, and what the verbs make of them as pairs."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.net = Net().eval()
        self.images, self.labels = torch.randn(48, 3, 6, 6), torch.arange(48) % 4
        self.graph = cp.trace(self.net, self.images[:1])
        self.moments = cp.observe(self.net, self.graph, self.batches(lambda x, y: (x, y)))
        self.plan = cp.plan(self.graph, cp.score(self.graph, self.moments), keep_macs=0.6)
        self.small = cp.remove(self.net, self.plan)

    def batches(self, form: Form) -> list[Any]:
        return [form(self.images[k : k + 16], self.labels[k : k + 16]) for k in (0, 16, 32)]


def numbers(found: Any) -> list[Any]:
    if isinstance(found, nn.Module):
        return [value.detach().numpy() for value in found.state_dict().values()]
    if isinstance(found, cp.FilterScores):
        return [value.numpy() for value in found.layers.values()]
    return [found]


def scored(method: str) -> Callable[[World, list[Any]], Any]:
    return lambda world, batches: cp.score(
        world.graph, world.moments, method=method, model=world.net, labelled=batches, seed=1
    )


VERBS: dict[str, Callable[[World, list[Any]], Any]] = {
    "observe": lambda world, batches: cp.score(world.graph, cp.observe(world.net, world.graph, batches)),
    "compensate": lambda world, batches: cp.compensate(copy.deepcopy(world.small), world.net, batches),
    "batch norm": lambda world, batches: cp.compensate(
        copy.deepcopy(world.small), world.net, batches, method="batchnorm"
    ),
    "fine_tune": lambda world, batches: cp.fine_tune(
        world.small, batches, teacher=world.net, epochs=2, seed=1
    ),
    "evaluate": lambda world, batches: [q.value for q in [*evaluate({"a": world.net}, batches).values()]],
    **{f"score {method}": scored(method) for method in METHODS if method not in ("documented", "random")},
}


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def expected(world: World) -> dict[str, list[Any]]:
    return {name: numbers(verb(world, world.batches(lambda x, y: (x, y)))) for name, verb in VERBS.items()}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("verb", VERBS)
def test_every_form_of_a_batch_means_the_same(
    world: World, expected: dict[str, list[Any]], verb: str, form: str
) -> None:
    found = numbers(VERBS[verb](world, world.batches(FORMS[form])))
    assert len(found) == len(expected[verb])
    for value, other in zip(found, expected[verb], strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (
            lambda x, y: (x, torch.full((len(x), 4), 0.25)),
            "give one integer class per image, or rows of zeros and",
        ),
        (
            lambda x, y: {"image": x, "label": y, "target": y},
            "it has image, label, target; name one of them 'label'",
        ),
        (lambda x, y: {"image": x}, "it has image; name one of them 'label'"),
        (lambda x, y: (x, ["cat"] * len(x)), "are a list without numbers: give one integer class"),
    ],
)
@pytest.mark.parametrize("verb", ["fine_tune", "evaluate", "score taylor", "score ablation"])
def test_what_cannot_be_understood_is_refused_with_what_is_expected(
    world: World, verb: str, form: Form, text: str
) -> None:
    with pytest.raises(InputError, match=text):
        VERBS[verb](world, world.batches(form))
