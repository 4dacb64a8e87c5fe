"""Which rows of a batch belong together: frames of one clip, tokens or crops of one image."""

from collections.abc import Mapping
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from causal_prune.network.hooks import outputs_of
from causal_prune.network.running import batch_size, call, device_of, part_of, seeded
from causal_prune.network.tensor_trees import ImageList, mapped, tensors_in

ALIKE = 1e-3
"""Kernels of different batch sizes round differently."""


def rows_together(model: nn.Module, inputs: Any, views: int = 1) -> int:
    """How many rows of a batch must stay together for a network to compute of them what it computes of the whole.

    The first rows are run alone, and with as many more: where they return the same, they need no others.

    Args:
        model: In eval mode; it is run.
        inputs: One batch.
        views: So many rows after each other are views of one image, and stay together, too.

    Returns:
        The smallest such number that divides the batch; 1 for a network that treats its images one by one. The whole
        batch where nothing smaller does.

    Cost: forward passes over one and two images where images are treated one by one.
    """
    size = batch_size(inputs)
    if size <= 1 or isinstance(inputs, ImageList):
        return views
    with torch.no_grad(), seeded(0, device_of(model)):
        for rows in (count for count in range(1, size // 2 + 1) if size % count == 0):
            try:
                alone = tensors_in(call(model, part_of(inputs, slice(0, rows), size)))
                more = tensors_in(call(model, part_of(inputs, slice(0, 2 * rows), size)))
            except Exception:  # noqa: BLE001 - what a network raises for too few rows has no common base
                continue
            if alone and len(alone) == len(more) and all(map(_begins, more, alone)):
                return lcm(rows, views)
    return lcm(size, views)


def _begins(whole: Tensor, part: Tensor) -> bool:
    if whole.dim() != part.dim():
        return False
    if whole.dim() == 0:
        return bool(whole == part)  # a number of the network's own
    if whole.shape[1:] != part.shape[1:] or len(whole) < len(part) or not len(part):
        return whole.numel() == part.numel() == 0
    a, b = whole[: len(part)].double(), part.double()
    scale = a.nan_to_num(0, 0, 0).abs().max().clamp_min(1e-30)
    return bool((a - b).nan_to_num(0, 0, 0).abs().max() <= ALIKE * scale)


def groups_in(inputs: Any, together: int) -> int:
    """Number of groups of rows in a batch.

    Args:
        inputs: One batch.
        together: From `rows_together`.

    Returns:
        The number; rows that fill no group count as one.
    """
    return -(-batch_size(inputs) // together)


def row_groups_of(inputs: Any, groups: slice | Tensor, together: int) -> Any:
    """Some groups of rows of a batch.

    Args:
        inputs: One batch.
        groups: A slice, positions, or one truth value per group.
        together: From `rows_together`.

    Returns:
        A batch of them.
    """
    size = batch_size(inputs)
    if together == 1:
        return part_of(inputs, groups, size)
    chosen = torch.arange(groups_in(inputs, together))[groups.cpu() if isinstance(groups, Tensor) else groups]
    rows = (chosen[:, None] * together + torch.arange(together)).flatten()
    return part_of(inputs, rows[rows < size], size)


def rows_of_labels(inputs: Any, places: Tensor, labels: int) -> Any:
    """The rows of a batch that some of its labels speak of.

    Args:
        inputs: One batch.
        places: Positions among the labels.
        labels: Number of labels of the batch; its rows are a multiple of it, those of one label in a row.

    Returns:
        A batch of them.
    """
    return row_groups_of(inputs, places, max(1, batch_size(inputs) // max(labels, 1)))


def interleaved(model: nn.Module, inputs: Any, layers: Mapping[str, nn.Module]) -> frozenset[str]:
    """Layers whose rows are one of every image, then another one of every image: branches joined by `cat`.

    Args:
        model: In eval mode; it is run.
        inputs: One batch.
        layers: Layers that return more rows than the batch has.

    Returns:
        Their names. The rows of one image of all other layers stand side by side.

    Cost: two forward passes.
    """
    size = batch_size(inputs)

    def returned(batch: Any) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def keep(name: str, _: nn.Module, out: Tensor) -> None:
            found.setdefault(name, out.detach().clone())

        with torch.no_grad(), seeded(0, device_of(model)), outputs_of(layers, keep):
            call(model, batch)
        return found

    def changed(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.dim() == 0 or len(tensor) != size:
            return tensor
        other = tensor.clone()
        other[0] = other[0].flip(0) + 1
        return other

    before, after = returned(inputs), returned(mapped(changed, inputs))
    found = set()
    for name, out in before.items():
        if out.shape != after[name].shape:
            continue
        rows = (out != after[name]).flatten(1).any(1).nonzero().flatten()
        if len(rows) and bool((rows % size == 0).all()) and int(rows.max()) >= len(out) // size:
            found.add(name)
    return frozenset(found)


def per_image(values: Tensor, images: int, *, apart: bool) -> Tensor:
    """Sums over the rows of every image.

    Args:
        values: Shape (rows, ...).
        images: How many.
        apart: Whether the rows of one image stand apart (see `interleaved`).

    Returns:
        Shape (images, ...); where several images share a row, each has its share of it.
    """
    rows = len(values)
    if rows == images:
        return values
    if rows % images == 0:
        shape = (rows // images, images) if apart else (images, rows // images)
        return values.reshape(*shape, *values.shape[1:]).sum(0 if apart else 1)
    if rows and images % rows == 0:
        return values.repeat_interleave(images // rows, 0) * rows / images
    return values.sum(0, keepdim=True).expand(images, *values.shape[1:]) / images
