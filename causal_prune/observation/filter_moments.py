"""Streaming statistics of a network: all that the scores need, in memory independent of the number of images."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from causal_prune.errors import InputError, warn
from causal_prune.machine import add_up, allowed_memory, fail_together, processes, smallest
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.hooks import calls_seen
from causal_prune.network.layer_matrices import channel_dim, flat_weight
from causal_prune.network.patches import images_at_once, rows_of_an_image, rows_read
from causal_prune.network.row_groups import interleaved
from causal_prune.network.running import (
    Inputs,
    attempt,
    batch_size,
    call,
    copied,
    device_of,
    inputs_for,
    inputs_of,
)
from causal_prune.observation.filter_norms import FeatureMoments, NormFamilies
from causal_prune.observation.joined_states import State, StateFlow
from causal_prune.observation.layer_reads import (
    ReadGathering,
    ReadMoments,
    how_shrunk,
    planned_reads,
    undetermined,
)
from causal_prune.observation.output_effects import OutputEffects
from causal_prune.progress import track
from causal_prune.tracing import FilterGraph


@dataclass(frozen=True)
class FilterMoments:
    """The result of `observe`.

    Attributes:
        images: Number of images seen, by all processes together.
        features: By convolution: its filters' Frobenius norms with those of its parents, true and documented.
        reads: By consumer of a prunable group: joint moments of all that it reads.
        states: By consumer of a prunable group: the state that its output becomes part of.
        weights: By convolution or linear layer: its weight as (filters, inputs per group, kernel elements).
        effects: By consumer of a prunable group how much the network's outputs move with the output of each filter (see
            `OutputEffects`), shape (filters,); empty where that is not known.
        notes: What was simplified to stay within memory and what the images do not determine, in a user's words.
    """

    images: int
    features: Mapping[str, FeatureMoments]
    reads: Mapping[str, ReadMoments]
    states: Mapping[str, State]
    weights: Mapping[str, Tensor]
    effects: Mapping[str, Tensor] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@undisturbed
def observe(
    model: nn.Module,
    graph: FilterGraph,
    calibration: Iterable[Any],
    *,
    max_memory: int | None = None,
    views: int = 1,
) -> FilterMoments:
    """Run the calibration images through a network once and accumulate what the scores need.

    Under torchrun, where `torch.distributed` has a default process group, every process gives its own share of the
    images, of any size or none, and all return the same moments: those of all images.

    Args:
        model: The dense network that `graph` was traced from; a copy of it is run in eval mode.
        graph: From `trace`.
        calibration: Batches: tensors, mappings of tensors, or tuples (inputs, labels); labels are not used.
        max_memory: Bytes that the moments may take in each process. Where they would take more, the layers with the
            longest patches are read as channels (see `layer_reads`), with a warning. Default: half of what is free.
        views: So many rows of a batch after each other are views of one image: no independent samples (see
            `SamplingNoise`).

    Returns:
        The moments, in float64 on the CPU.

    Raises:
        InputError: If there are no images, an activation is NaN or infinite (the layer and batch are named), the
            network is not that of the graph or does not accept a batch, or `max_memory` is not positive.

    Cost: one forward pass, a forward and a backward pass over an eighth of the images and, for each consumer, the
        product of its patches with themselves at no more than 64 positions of an image; memory for one matrix of
        patch by patch per consumer, whatever the number of images.
    """
    limit = smallest(allowed_memory(max_memory, device_of(model)))
    collector = _Collector(copied(model).eval(), graph, limit, views)
    for note in collector.notes:
        warn(note)
    error: Exception | None = None
    try:
        collector.run(calibration)
    except Exception as problem:
        if processes() == 1:
            raise
        error = problem
    fail_together(error)
    return collector.result()


class _Collector:
    """Hooks of one `observe` call and what they have gathered."""

    def __init__(self, model: nn.Module, graph: FilterGraph, limit: int, views: int) -> None:
        self.views = views
        self.model = model
        self.graph = graph
        self.modules = dict(model.named_modules())
        self.mixing = [name for name, layer in graph.layers.items() if layer.inputs]
        for name in self.mixing:
            if name not in self.modules:
                raise InputError(
                    f"observe: the network has no layer {name}: give the network that graph was traced from"
                )
        self.device = device_of(model) if device_of(model).type != "mps" else torch.device("cpu")
        self.norms = NormFamilies(graph, limit // 2)
        used = self.norms.bytes
        self.reads: dict[str, ReadGathering] = {}
        self.reads, notes = planned_reads(self.modules, graph, limit - used, self.device)
        self.notes = (*self.norms.notes, *notes)
        self.flow = StateFlow({name: graph.layers[name].filters for name in self.reads}, self.device)
        self.effects = OutputEffects(model, {name: graph.layers[name].filters for name in self.reads})
        self.images = 0
        self.batch = 1
        self.apart: frozenset[str] = frozenset()
        self.asked = False

    def run(self, calibration: Iterable[Any]) -> None:
        with torch.no_grad():
            for batch in track(calibration, "observe", count=_size):
                inputs = inputs_for(self.model, batch)
                size = batch_size(inputs)
                if size % self.views:
                    raise InputError(
                        f"observe: {size} rows of batch {self.batch} are no whole images of {self.views} views"
                    )
                if size:  # statistics of an empty batch are NaN
                    self.follow(inputs)
                    self.end_norms(inputs, size)
                    self.effects.see(inputs)
                    self.batch += 1
                self.images += size

    def follow(self, inputs: Inputs) -> None:
        """Let a batch through, and read what the layers read."""
        try:
            with calls_seen({name: self.modules[name] for name in self.mixing}, self.see), self.flow:
                call(self.model, inputs)
                with _disable_current_modes():
                    self.flow.end_batch()
        except InputError:
            raise
        except Exception:
            attempt(
                "observe: the network", self.model, inputs, f"batch {self.batch} of calibration"
            )  # is it the batch's fault?
            raise

    def end_norms(self, inputs: Inputs, images: int) -> None:
        """Count the norms per image, also of layers that read several rows of each."""
        others = self.norms.layers_with_other_rows(images)
        if others and not self.asked:
            self.apart = interleaved(self.model, inputs, {name: self.modules[name] for name in others})
            self.asked = True
        self.norms.end_batch(images, self.apart)

    def see(self, name: str, module: nn.Module, source: Tensor, out: Tensor) -> None:
        channel = channel_dim(module, out)
        with _disable_current_modes():
            squares = _squares(out.detach(), channel)
            if not bool(squares.isfinite().all()):
                raise InputError(
                    f"calibration: the output of {name} is NaN or infinite in batch {self.batch}"
                )
            if self.graph.layers[name].kind == "conv":
                self.norms.see(name, squares)
            if name in self.reads:
                extent = out.shape[1:-1] if isinstance(module, nn.Linear) else out.shape[channel + 1 :]
                reading = self.reads[name]
                each = rows_of_an_image(module, source, extent) * self.views
                for rows in rows_read(module, source, extent, reading.taps, self.views):
                    reading.add(rows, each)
                self.flow.written(name, out, channel)

    def result(self) -> FilterMoments:
        images = int(add_up(torch.tensor([float(self.images)], dtype=torch.float64)))
        if images == 0:
            raise InputError("calibration: there are no images")
        self.norms.gather()
        self.flow.gather()
        self.effects.gather()
        for reading in self.reads.values():
            reading.gather()
        reads = {name: reading.result() for name, reading in self.reads.items() if reading.seen}
        return FilterMoments(
            images,
            self.norms.result(),
            reads,
            self.flow.result(),
            {name: flat_weight(self.modules[name]) for name in self.mixing},
            self.effects.result(),
            (*self.notes, *self.effects.notes(), *undetermined(reads), *how_shrunk(reads)),
        )


def _size(batch: Any) -> int:
    return batch_size(inputs_of(batch))


def _squares(out: Tensor, channel: int) -> Tensor:
    """Sum of squares of every filter of every image, shape (N, filters), float64."""
    values = out.unsqueeze(0) if channel == 0 else out
    spatial = (
        values.flatten(2)
        if max(channel, 1) == 1 and values.dim() > 2
        else values.reshape(-1, values.shape[-1], 1)
    )
    held = spatial.cpu() if spatial.device.type == "mps" else spatial
    parts = held.split(images_at_once(held.shape[1] * held.shape[2]))
    # squared in place and then summed: a norm over strided pixels, as channels_last has them, takes three times as long
    return torch.cat([part.to(torch.float64, copy=True).square_().sum(dim=2) for part in parts]).cpu()
