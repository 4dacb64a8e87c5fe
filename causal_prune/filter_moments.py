"""Streaming statistics of a network: all that the scores need, in memory independent of the number of images."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.batches import call, device_of, inputs_of, modes_kept, moved, tensors_in
from causal_prune.errors import InputError
from causal_prune.filter_graph import FilterGraph, Member
from causal_prune.progress import track

PATCH_BYTES = 64_000_000
"""Patches of one layer are unfolded in chunks of about this size."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of rows of numbers, in float64; mergeable without loss.

    Attributes:
        count: Number of rows.
        mean: Of shape (..., p).
        scatter: Sum of (x - mean)(x - mean)^T, of shape (..., p, p).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """Scatter divided by the count, of shape (..., p, p)."""
        return self.scatter / max(self.count, 1)


def moments_of(rows: Tensor) -> Moments:
    """Moments of a batch of rows.

    Args:
        rows: Shape (..., n, p). Centred before they are multiplied: raw sums lose everything where mean >> deviation.

    Returns:
        Moments over n.
    """
    rows = rows.double()
    mean = rows.mean(dim=-2, keepdim=True)
    centred = rows - mean
    return Moments(rows.shape[-2], mean.squeeze(-2), centred.mT @ centred)


def merge(a: Moments | None, b: Moments) -> Moments:
    """Moments of two sets of rows together (Chan, Golub and LeVeque 1979, eq. 1.1).

    S = S_a + S_b + d d^T n_a n_b / (n_a + n_b), with d the difference of the means.

    Args:
        a: Moments so far, or None.
        b: Moments of further rows.

    Returns:
        Moments of all rows.
    """
    if a is None or a.count == 0:
        return b
    n = a.count + b.count
    d = (b.mean - a.mean).unsqueeze(-1)
    return Moments(
        n,
        a.mean + d.squeeze(-1) * (b.count / n),
        a.scatter + b.scatter + (d @ d.mT) * (a.count * b.count / n),
    )


@dataclass(frozen=True)
class FeatureMoments:
    """Joint moments of the Frobenius norms of a convolution's filters and of other convolutions' filters.

    Attributes:
        layers: The convolutions whose filters stand side by side, in this order; the child is the last.
        moments: Over images; p is the sum of their filters.
    """

    layers: tuple[str, ...]
    moments: Moments


@dataclass(frozen=True)
class FilterMoments:
    """The result of `observe`.

    Attributes:
        images: Number of images seen.
        features: By convolution: its filters' Frobenius norms with those of its parents, true and documented.
        patches: By (consumer, group): covariance blocks of what the consumer reads of each unit,
            shape (units, m, m) with m the unit's channels times the kernel's elements.
        outputs: By consumer: variance of each of its outputs over images and positions, shape (filters,).
        weights: By convolution or linear layer: its weight as (filters, inputs per group, kernel elements).
    """

    images: int
    features: Mapping[str, FeatureMoments]
    patches: Mapping[tuple[str, str], Moments]
    outputs: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]


def observe(model: nn.Module, graph: FilterGraph, calibration: Iterable[Any]) -> FilterMoments:
    """Run the calibration images through a network once and accumulate what the scores need.

    Args:
        model: The dense network that `graph` was traced from; it is run in eval mode and restored.
        graph: From `trace`.
        calibration: Batches: tensors, mappings of tensors, or tuples (inputs, labels); labels are not used.

    Returns:
        The moments, in float64 on the CPU.

    Raises:
        InputError: If there are no images, or an activation is NaN or infinite; the layer and batch are named.

    Cost: one forward pass plus, for each consumer, about kernel / filters of its multiply-accumulates;
        memory for one covariance block per unit and consumer.
    """
    collector = _Collector(model, graph)
    device, images = device_of(model), 0
    with torch.no_grad(), modes_kept(model), collector.hooked():
        model.eval()
        for batch in track(calibration, "observe"):
            inputs = moved(inputs_of(batch), device)
            size = tensors_in(inputs)[0].shape[0]
            if size:  # statistics of an empty batch are NaN
                call(model, inputs)
                collector.end_batch()
            images += size
    if images == 0:
        raise InputError("calibration: there are no images")
    return collector.result(images)


class _Collector:
    """Hooks of one `observe` call and what they have gathered."""

    def __init__(self, model: nn.Module, graph: FilterGraph) -> None:
        self.modules = dict(model.named_modules())
        self.graph = graph
        self.mixing = [name for name, layer in graph.layers.items() if layer.inputs]
        self.reads = {
            (member.layer, group.name): _unit_table(member, group.size)
            for group in graph.prunable
            for member in group.of_role("consumer")
        }
        self.consumers = {layer for layer, _ in self.reads}
        self.batch = 1
        self.squares: dict[str, Tensor] = {}
        self.features: dict[str, FeatureMoments] = {}
        self.patches: dict[tuple[str, str], Moments] = {}
        self.outputs: dict[str, Moments] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = [
            self.modules[name].register_forward_hook(
                lambda module, args, kwargs, out, name=name: self.see(
                    name, module, args[0] if args else kwargs["input"], out
                ),
                with_kwargs=True,
            )
            for name in self.mixing
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def see(self, name: str, module: nn.Module, source: Tensor, out: Tensor) -> None:
        if not bool(out.isfinite().all()):
            raise InputError(f"calibration: the output of {name} is NaN or infinite in batch {self.batch}")
        if self.graph.layers[name].kind == "conv":
            squares = out.detach().double().pow(2).flatten(2).sum(dim=2).cpu()
            self.squares[name] = self.squares[name] + squares if name in self.squares else squares
        if name not in self.consumers:
            return
        channel = out.dim() - 1 if isinstance(module, nn.Linear) else 1
        rows = out.movedim(channel, -1).reshape(-1, out.shape[channel], 1).transpose(0, 1)
        self.outputs[name] = merge(self.outputs.get(name), moments_of(rows.cpu()))
        tables = {key: table for key, table in self.reads.items() if key[0] == name}
        for patches in _patch_chunks(module, source, out.shape[2:]):
            empty = patches.new_zeros(len(patches), 1, patches.shape[2])
            padded = torch.cat((patches, empty), dim=1)
            for key, table in tables.items():
                picked = padded[:, table.to(padded.device)].flatten(2).transpose(0, 1)
                self.patches[key] = merge(self.patches.get(key), moments_of(picked.cpu()))

    def end_batch(self) -> None:
        for name in self.squares:
            parents = [
                p
                for p in dict.fromkeys((*self.graph.layers[name].parents, *self.graph.chain.get(name, ())))
                if p in self.squares and p != name
            ]
            rows = torch.cat([self.squares[layer].sqrt() for layer in (*parents, name)], dim=1)
            before = self.features.get(name)
            joint = merge(before.moments if before else None, moments_of(rows))
            self.features[name] = FeatureMoments((*parents, name), joint)
        self.squares.clear()
        self.batch += 1

    def result(self, images: int) -> FilterMoments:
        outputs = {name: moments.covariance.flatten() for name, moments in self.outputs.items()}
        weights = {name: _flat_weight(self.modules[name]) for name in self.mixing}
        return FilterMoments(images, self.features, self.patches, outputs, weights)


def _unit_table(member: Member, size: int) -> Tensor:
    """Input positions of every unit, shape (units, most positions of a unit), filled up with the extent."""
    owned: list[list[int]] = [[] for _ in range(size)]
    for position, unit in zip(member.positions, member.units, strict=True):
        owned[unit].append(position)
    width = max(map(len, owned))
    return torch.tensor([positions + [member.extent] * (width - len(positions)) for positions in owned])


def _flat_weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    weight = weight.detach().double().cpu()
    if getattr(module, "transposed", False):
        groups = int(module.groups)  # type: ignore[arg-type]
        blocks = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        weight = blocks.transpose(1, 2).flatten(0, 1)
    return weight.reshape(weight.shape[0], weight.shape[1], -1)


def _patch_chunks(module: nn.Module, source: Tensor, extent: torch.Size) -> Iterator[Tensor]:
    """What the layer multiplies its weight with, in chunks of shape (rows, channels, kernel elements).

    The rows are the images' output positions, `extent` of them along each axis.
    """
    if isinstance(module, nn.Linear):
        yield source.reshape(-1, source.shape[-1], 1)
        return
    pixels = max(prod(source.shape[2:]), prod(extent)) * prod(module.kernel_size)  # type: ignore[arg-type]
    size = max(1, PATCH_BYTES // max(1, source.shape[1] * pixels * source.element_size()))
    for images in source.split(size):
        yield _patches(module, images, extent)


def _patches(module: Any, images: Tensor, extent: torch.Size) -> Tensor:
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    rank = len(kernel)
    if module.transposed:
        padded, stride = _spread(module, images, extent), (1,) * rank
    else:
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        padded = F.pad(images, module._reversed_padding_repeated_twice, mode=mode)
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True)):
        padded = padded.unfold(2 + axis, (k - 1) * d + 1, s)[..., ::d]
    if module.transposed:
        padded = padded.flip(tuple(range(2 + rank, 2 + 2 * rank)))
    order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
    return padded.permute(*order).reshape(-1, images.shape[1], prod(kernel))


def _spread(module: Any, images: Tensor, extent: torch.Size) -> Tensor:
    """Images with zeros between their pixels: over them a transposed convolution is one of stride 1, taps reversed."""
    sizes = [(n - 1) * s + 1 for n, s in zip(images.shape[2:], module.stride, strict=True)]
    spread = images.new_zeros(*images.shape[:2], *sizes)
    steps = [slice(None, None, s) for s in module.stride]
    spread[(slice(None), slice(None), *steps)] = images
    margins = []
    for n, e, k, d, p in zip(sizes, extent, module.kernel_size, module.dilation, module.padding, strict=True):
        reach = (k - 1) * d
        margins.append((reach - p, e + p - n))
    return F.pad(spread, [amount for pair in reversed(margins) for amount in pair])
