"""What a method may read, as one value."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from causal_prune.data import STANDARD_TASK, Task
from causal_prune.importance.methods import Parents
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph

Labelled: TypeAlias = Iterable[Any]
"""Batches (inputs, labels) that can be iterated over more than once."""


@dataclass(frozen=True)
class Evidence:
    """Everything that is known of a network when its units are scored; a method takes what it needs.

    Attributes:
        graph: From `trace`.
        moments: From `observe`.
        parents: Of every layer: "graph" for the true ones, "chain" for the documented ones.
        seed: Of all that is drawn at random.
        model: The dense network, or None; it must not be changed.
        labelled: Batches (inputs, labels) of images held out from training, or None.
        task: What their labels are, and what the network loses against them.
    """

    graph: FilterGraph
    moments: FilterMoments
    parents: Parents = "graph"
    seed: int = 0
    model: nn.Module | None = None
    labelled: Labelled | None = None
    task: Task = STANDARD_TASK

    @property
    def network(self) -> nn.Module:
        """The dense network, for methods that need one."""
        assert self.model is not None, "METHODS says who needs it, and score refuses before"
        return self.model

    @property
    def images(self) -> Labelled:
        """The labelled images, for methods that need some."""
        assert self.labelled is not None, "METHODS says who needs them, and score refuses before"
        return self.labelled
