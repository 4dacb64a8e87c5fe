"""Our importances inside torch-pruning's pruners."""

from collections.abc import Iterable
from itertools import islice
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from causal_prune.data import STANDARD_TASK, Task
from causal_prune.errors import InputError
from causal_prune.importance.methods import METHODS, Parents
from causal_prune.importance.scores import FilterScores
from causal_prune.importance.scoring import score
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import inputs_for, part_of
from causal_prune.observation import observe
from causal_prune.tracing import FilterGraph, trace


class CausalImportance(tp.importance.Importance):  # type: ignore[misc]  # torch-pruning has no types
    """A `torch_pruning.importance.Importance` whose scores are those of `score`.

    Groups are those of `trace(model, example, dependencies="torch-pruning")`, with its trial cuts: of a group that is
    frozen no importance is given, as cutting it would be wrong. Scores are made when they are first asked for, of all
    groups at once, and again only when the network has changed, as between the steps of iterative pruning.

    Args:
        model: The network that the pruner prunes; it is read, not changed.
        calibration: Batches of images for the statistics; a list or a loader, read whenever scores are made.
        method: A name in `METHODS`.
        parents: As for `score`.
        labelled: As for `score`.
        task: As for `score`.
        seed: As for `score`.
        max_memory: Of the statistics, in bytes; None for half of what is free.

    Raises:
        InputError: If the method is unknown.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(36, 2))
        >>> images = [torch.rand(64, 1, 7, 7)]
        >>> importance = CausalImportance(net, images)
        >>> pruner = tp.pruner.BasePruner(net, images[0][:1], importance, pruning_ratio=0.5, ignored_layers=[net[4]])
        >>> pruner.step()
        >>> net[0].out_channels
        4
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Iterable[Any],
        *,
        method: str = "structural",
        parents: Parents | None = None,
        labelled: Iterable[Any] | None = None,
        task: Task = STANDARD_TASK,
        seed: int = 0,
        max_memory: int | None = None,
    ) -> None:
        if method not in METHODS:
            raise InputError(f"CausalImportance: method {method!r} is not one of {', '.join(METHODS)}")
        self.model, self.calibration, self.method = model, calibration, method
        self.parents, self.labelled, self.task = parents, labelled, task
        self.seed, self.max_memory = seed, max_memory
        self._state: tuple[Any, ...] = ()
        self._known: tuple[FilterGraph, FilterScores] | None = None

    def __call__(self, group: Any) -> Tensor:
        """Scores of a group.

        Args:
            group: A group of torch-pruning's graph of the same network.

        Returns:
            One score for each of the root's indices, float32 on the CPU, finite; the least go first.

        Raises:
            InputError: If the group is frozen, or the root is none of the network's layers that make channels.
        """
        graph, scores = self._scores()
        root, indices = group[0].dep.target.module, list(group[0].idxs)
        name = next((name for name, module in self.model.named_modules() if module is root), None)
        member = next(
            (
                (found, each)
                for found in graph.prunable
                for each in found.of_role("producer")
                if each.layer == name
            ),
            None,
        )
        if name is None or member is None:
            why = graph.frozen.get(name or "", "it is no layer that makes channels")
            raise InputError(
                f"CausalImportance: {name or type(root).__name__} must not be cut ({why}): put it into ignored_layers"
            )
        found, made = member
        unit_of = dict(zip(made.positions, made.units, strict=True))
        values = scores.groups[found.name].detach().float().cpu()
        return torch.stack([values[unit_of[k]] for k in indices])

    @undisturbed
    def _scores(self) -> tuple[FilterGraph, FilterScores]:
        state = tuple(
            (name, id(tensor), tensor._version, tuple(tensor.shape))
            for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers())
        )
        if self._known is None or state != self._state:
            first = list(islice(iter(self.calibration), 1))
            if not first:
                raise InputError("CausalImportance: calibration has no images")
            example = part_of(inputs_for(self.model, first[0]), slice(0, 2))
            graph = trace(self.model, example, dependencies="torch-pruning")
            moments = observe(self.model, graph, self.calibration, max_memory=self.max_memory)
            found = score(
                graph,
                moments,
                method=self.method,
                parents=self.parents,
                seed=self.seed,
                model=self.model,
                labelled=self.labelled,
                task=self.task,
            )
            self._state, self._known = state, (graph, found)
        return self._known
