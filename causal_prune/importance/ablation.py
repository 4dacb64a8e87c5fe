"""Ablation: what the loss rises by when one unit is held at its mean. Slow, exact, and the judge of the others."""

import functools
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from causal_prune.data import STANDARD_TASK, Task
from causal_prune.errors import InputError
from causal_prune.importance.evidence import Evidence, Labelled
from causal_prune.importance.scores import FilterScores, from_units
from causal_prune.intervention import Constant, Intervention, Recorder, Replay, Subject
from causal_prune.machine import whole_file
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.hooks import hooked
from causal_prune.network.layer_matrices import channel_dim
from causal_prune.network.row_groups import rows_of_labels
from causal_prune.network.running import attempt, copied, device_of, inputs_for
from causal_prune.progress import track
from causal_prune.tracing import FilterGraph, Group

ACTIVATION_BYTES = 256_000_000
"""Batches are split so that the activations of one part take about this much."""


@dataclass(frozen=True)
class Ablation:
    """The result of `ablate`.

    Attributes:
        images: Number of images, n.
        loss: Their mean loss without intervention, in nats for a classifier (else see `Task.loss_unit`).
        units: By group the units that were ablated.
        rise: By group, for each of these units, the mean rise of the loss; negative where it falls.
        error: The standard error of `rise` over the images; NaN for a single image.
    """

    images: int
    loss: float
    units: Mapping[str, tuple[int, ...]]
    rise: Mapping[str, Tensor]
    error: Mapping[str, Tensor]


def score(evidence: Evidence) -> FilterScores:
    """Mean rise of the loss under do(unit = its mean), one unit at a time (see `ablate`).

    A unit without which the loss falls scores 0: it may go like one without effect.

    Args:
        evidence: The graph, the dense network and labelled images.

    Returns:
        The scores, in the unit of the loss; 0 for a unit that is constant or that nobody reads.

    Raises:
        InputError: As `ablate`, and if an argument is missing.

    Cost: as `ablate`.
    """
    task = evidence.task
    found = ablate(evidence.network, evidence.graph, evidence.images, task=task)
    unit = f"rise of the loss in {task.loss_unit}"
    return from_units("ablation", unit, evidence.graph, lambda group: found.rise[group.name].clamp_min(0))


@undisturbed
def ablate(
    model: nn.Module,
    graph: FilterGraph,
    labelled: Labelled,
    *,
    task: Task = STANDARD_TASK,
    units: Mapping[str, Sequence[int]] | None = None,
    partial: Path | None = None,
) -> Ablation:
    """Hold one unit after another at its mean where it is read, and measure how much the loss rises.

    r_j = E[ L(do(x_j = E x_j)) - L ], with x_j the unit's channels in the input of every consumer of its group, E x_j
    their mean over the images and positions, by channel and consumer, and L the loss of an image (cross entropy). This
    is exact: the network is run with the changed inputs. Use images that the network was not trained on; on memorised
    ones hardly any unit matters.

    Args:
        model: The dense network; it is not changed.
        graph: From `trace`.
        labelled: Batches (inputs, labels) that can be iterated over twice, in the same order.
        task: What the labels are, and the loss.
        units: By group the units to ablate; None ablates all of every prunable group.
        partial: A file that holds the state after every group of every part of a batch; where it exists, the work
            goes on from there, and an interruption costs one group. It stays when all is done: delete it.

    Returns:
        The rises with their standard errors.

    Raises:
        InputError: If there are no images, the labels do not fit the outputs, or `partial` is of another network,
            other images or other units.

    Cost: two forward passes over the images, and for every unit the part of one that lies behind its consumers (a
        third of a pass on average over the units of a ResNet-56); where the network cannot be recorded (see `replay`)
        a whole pass.

    Example:
        >>> import torch, causal_prune as cp
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> images, labels = torch.rand(8, 3), torch.arange(8) % 2
        >>> ablate(net, cp.trace(net, images), [(images, labels)]).rise["0"].shape
        torch.Size([4])
    """
    chosen = _chosen(graph, units)
    groups = [group for group in graph.prunable if chosen[group.name]]
    network = copied(model).eval().requires_grad_(False)
    readers = list(dict.fromkeys(m.layer for group in groups for m in group.of_role("consumer")))
    state = _State.load(partial, chosen)
    with torch.no_grad():
        means, sizes = _means(network, readers, labelled, task)
        recorder = Recorder(network, readers)
        most = _most_images(recorder, network, labelled, task)
        parts = sum(-(-size // most) for size in sizes)
        turns = _turns(recorder, _parts(network, labelled, task, most), task, groups, state)
        for turn in track(turns, "ablation", total=parts * len(groups), unit="group"):
            rises = [
                _losses(task, turn.subject.under(_held(turn.group, unit, means)), turn.labels) - turn.dense
                for unit in chosen[turn.group.name]
            ]
            state.add(turn.group.name, torch.stack(rises))
            state.save(chosen)
    return state.result(chosen)


def joined(first: Ablation, second: Ablation) -> Ablation:
    """Two ablations of the same units, on different images, as one.

    Args:
        first: On some images.
        second: On others.

    Returns:
        The means weighted by the images; the standard errors are those of the weighted means.

    Raises:
        InputError: If the units differ.
    """
    if first.units != second.units:
        raise InputError("two ablations of different units cannot be joined: ablate the same units")
    n = first.images + second.images
    a, b = first.images / n, second.images / n
    return Ablation(
        n,
        a * first.loss + b * second.loss,
        first.units,
        {name: a * first.rise[name] + b * second.rise[name] for name in first.rise},
        {name: ((a * first.error[name]) ** 2 + (b * second.error[name]) ** 2).sqrt() for name in first.error},
    )


def _chosen(graph: FilterGraph, units: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    sizes = {group.name: group.size for group in graph.prunable}
    if units is None:
        return {name: tuple(range(size)) for name, size in sizes.items()}
    for name, wanted in units.items():
        if name not in sizes:
            raise InputError(f"units: {name!r} is no prunable group")
        if any(not 0 <= unit < sizes[name] for unit in wanted):
            raise InputError(f"units: group {name!r} has the units 0 to {sizes[name] - 1}")
    return {name: tuple(units.get(name, ())) for name in sizes}


def _means(
    network: nn.Module, readers: Sequence[str], labelled: Labelled, task: Task
) -> tuple[dict[str, Tensor], list[int]]:
    """Mean of every channel that the readers read, and the number of images of every batch."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = dict.fromkeys(readers, 0)
    sizes: list[int] = []

    def see(name: str, module: nn.Module, source: Tensor) -> Tensor:
        rows = source.movedim(channel_dim(module, source), -1).flatten(0, -2).double()
        sums[name] = sums[name] + rows.sum(dim=0) if name in sums else rows.sum(dim=0)
        counts[name] += len(rows)
        return source

    with ExitStack() as stack:
        for name in readers:
            module = network.get_submodule(name)
            hooked(stack, module, functools.partial(see, name, module))
        for number, batch in enumerate(track(labelled, "ablation: means"), start=1):
            place = f"batch {number}"
            labels = task.labels(batch, place)
            sizes.append(len(labels))
            if len(labels):
                output = attempt(
                    "ablation: the network", network, inputs_for(network, batch), f"{place} of labelled"
                )
                task.check(labels, task.answers(output, "dense", place), "dense", place)
    if not sum(sizes):
        raise InputError("labelled: there are no images")
    return {name: total / counts[name] for name, total in sums.items()}, sizes


def _most_images(recorder: Recorder, network: nn.Module, labelled: Labelled, task: Task) -> int:
    """Images whose activations fit `ACTIVATION_BYTES`."""
    for _, inputs, _labels in _parts(network, labelled, task, 1):
        subject = recorder.subject(inputs)
        bytes_of_one = subject.bytes if isinstance(subject, Replay) else 0
        return max(1, ACTIVATION_BYTES // max(1, bytes_of_one))
    return 1


def _parts(
    network: nn.Module, labelled: Labelled, task: Task, most: int
) -> Iterator[tuple[int, Any, Tensor]]:
    """Parts of batches of at most some images: their number, inputs and labels."""
    part = 0
    for number, batch in enumerate(labelled, start=1):
        labels = task.labels(batch, f"batch {number}").to(device_of(network))
        inputs = inputs_for(network, batch)
        for start in range(0, len(labels), most):
            some = slice(start, min(start + most, len(labels)))
            yield part, rows_of_labels(inputs, torch.arange(some.start, some.stop), len(labels)), labels[some]
            part += 1


@dataclass(frozen=True)
class _Turn:
    """One group on one part of the images."""

    group: Group
    subject: Subject
    labels: Tensor
    dense: Tensor


def _turns(
    recorder: Recorder,
    parts: Iterable[tuple[int, Any, Tensor]],
    task: Task,
    groups: Sequence[Group],
    state: "_State",
) -> Iterator[_Turn]:
    for part, inputs, labels in parts:
        subject = recorder.subject(inputs)
        dense = _losses(task, subject.dense, labels)
        state.check(part, dense)
        for group in groups:
            if state.parts[group.name] <= part:
                yield _Turn(group, subject, labels, dense)


def _losses(task: Task, output: Tensor, labels: Tensor) -> Tensor:
    return task.losses(task.answers(output, "dense", "a part").double(), labels, "none").cpu()


def _held(group: Group, unit: int, means: Mapping[str, Tensor]) -> Intervention:
    found: dict[str, list[int]] = {}
    for member in group.of_role("consumer"):
        found.setdefault(member.layer, []).extend(member.positions_of([unit]))
    return {
        layer: Constant(torch.tensor(positions, device=means[layer].device), means[layer][positions])
        for layer, positions in found.items()
        if positions and layer in means
    }


@dataclass
class _State:
    """Sums over the images so far; what an interrupted `ablate` goes on from."""

    sums: dict[str, Tensor]
    squares: dict[str, Tensor]
    parts: dict[str, int]
    dense: list[Tensor]
    place: Path | None

    @classmethod
    def load(cls, place: Path | None, chosen: Mapping[str, tuple[int, ...]]) -> "_State":
        zeros = {name: torch.zeros(len(units), dtype=torch.float64) for name, units in chosen.items()}
        state = cls(zeros, {k: v.clone() for k, v in zeros.items()}, dict.fromkeys(chosen, 0), [], place)
        if place is None or not place.exists():
            return state
        try:
            with np.load(place, allow_pickle=False) as file:
                stored = {key: torch.from_numpy(file[key]) for key in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise InputError(f"partial: {place} cannot be read; delete it") from error
        for name, units in chosen.items():
            if stored.get(f"units/{name}", torch.zeros(0)).tolist() != list(units):
                raise InputError(f"partial: {place} is of other units (group {name}); delete it")
            state.sums[name], state.squares[name] = stored[f"sums/{name}"], stored[f"squares/{name}"]
            state.parts[name] = int(stored[f"parts/{name}"])
        state.dense = [stored[f"dense/{k}"] for k in range(sum(key.startswith("dense/") for key in stored))]
        return state

    def check(self, part: int, dense: Tensor) -> None:
        if part == len(self.dense):
            self.dense.append(dense)
        same = dense.shape == self.dense[part].shape and torch.allclose(dense, self.dense[part], rtol=1e-4)
        if not same:
            raise InputError(f"partial: {self.place} is of another network or of other images; delete it")

    def add(self, group: str, rises: Tensor) -> None:
        self.sums[group] += rises.sum(dim=1)
        self.squares[group] += rises.square().sum(dim=1)
        self.parts[group] += 1

    def save(self, chosen: Mapping[str, tuple[int, ...]]) -> None:
        if self.place is None:
            return
        content = {f"dense/{k}": losses.numpy() for k, losses in enumerate(self.dense)}
        for name, units in chosen.items():
            content |= {
                f"units/{name}": np.array(units, dtype=np.int64),
                f"sums/{name}": self.sums[name].numpy(),
                f"squares/{name}": self.squares[name].numpy(),
                f"parts/{name}": np.array(self.parts[name]),
            }
        with whole_file(self.place) as fresh, fresh.open("wb") as file:
            np.savez(file, allow_pickle=False, **content)

    def result(self, chosen: Mapping[str, tuple[int, ...]]) -> Ablation:
        losses = torch.cat(self.dense)
        n = len(losses)
        rise = {name: total / n for name, total in self.sums.items()}
        error = {}
        for name, mean in rise.items():
            scatter = (self.squares[name] - n * mean.square()).clamp_min(0)
            error[name] = (scatter / (n - 1) / n).sqrt() if n > 1 else torch.full_like(mean, torch.nan)
        return Ablation(n, float(losses.mean()), chosen, rise, error)
