"""The parents in the graph are those that an experiment finds."""

import pytest
import torch
from torch import nn

from causal_prune.tracing.network_trace import trace
from tests.zoo.frame import Pattern, block, image
from tests.zoo.parents import true_parents
from tests.zoo.patterns import PATTERNS

pytestmark = pytest.mark.filterwarnings("ignore")

BRANCHES = ("branch_on_data", "branch_on_image")
"""Changing a layer's output makes other layers run: there is nothing to compare."""

DETOURS = ("detour_numpy", "detour_list")
"""The values leave torch and come back: nobody can see from where."""


def test_experiment_on_a_residual_network() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = block(3, 4), block(4, 4), block(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.c(y + self.b(y))

    assert true_parents(Net, image()) == {"a.0": set(), "b.0": {"a.0"}, "c.0": {"a.0", "b.0"}}


@pytest.mark.parametrize(
    "pattern", [p for p in PATTERNS if p.name not in BRANCHES], ids=lambda pattern: pattern.name
)
def test_parents(pattern: Pattern) -> None:
    torch.manual_seed(11)
    graph = trace(pattern.make(), pattern.example)
    expected = true_parents(pattern.make, pattern.example)
    if pattern.name in DETOURS:
        expected["pattern.conv"] = set()
    found = {
        name: set(layer.parents) for name, layer in graph.layers.items() if layer.inputs and name in expected
    }
    known = found.keys() & expected.keys()
    assert found == {name: expected[name] for name in known}
    assert known
