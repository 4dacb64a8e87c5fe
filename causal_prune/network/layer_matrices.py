"""Convolutions and linear layers as matrix products: what the weight is multiplied with, row by row."""

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from causal_prune.network.layer_kinds import MIXING, Convolution
from causal_prune.network.padding import padded, stride_of

PATCH_BYTES = 64_000_000
"""Patches of one layer are unfolded in chunks of about this size."""


def groups_of(module: nn.Module) -> int:
    """Number of independent products that a layer is made of.

    Args:
        module: A convolution or linear layer.

    Returns:
        The groups of a convolution; 1 for a linear layer.
    """
    return module.groups if isinstance(module, Convolution) else 1


def matrix_of(module: nn.Module, weight: Tensor) -> Tensor:
    """A weight as one matrix per group.

    Args:
        module: A convolution or linear layer.
        weight: Its weight, or any tensor of the same layout.

    Returns:
        Shape (groups, filters per group, inputs per group times kernel elements); a view where that is possible.
    """
    groups = groups_of(module)
    if getattr(module, "transposed", False):
        blocks = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return blocks.transpose(1, 2).flatten(2)
    return weight.reshape(groups, weight.shape[0] // groups, -1)


def weight_of(module: nn.Module, matrix: Tensor) -> Tensor:
    """Undo `matrix_of`.

    Args:
        module: A convolution or linear layer.
        matrix: Shape (groups, filters per group, inputs per group times kernel elements).

    Returns:
        The same numbers in the layout of the layer's weight.
    """
    shape = cast(Tensor, module.weight).shape
    if getattr(module, "transposed", False):
        groups, outside = matrix.shape[:2]
        return matrix.reshape(groups, outside, shape[0] // groups, -1).transpose(1, 2).reshape(shape)
    return matrix.reshape(shape)


def channel_dim(module: nn.Module, tensor: Tensor) -> int:
    """The dimension that holds a layer's channels.

    Args:
        module: A convolution or linear layer.
        tensor: What it reads or writes.

    Returns:
        The last dimension for linear layers; for convolutions the one before the spatial ones.
    """
    return tensor.dim() - 1 if isinstance(module, nn.Linear) else tensor.dim() - 1 - _rank(module)


def places_of(module: nn.Module, out: Tensor) -> int:
    """Number of output places of one image of a convolution.

    Args:
        module: A convolution or linear layer.
        out: Its output.

    Returns:
        The product of the spatial extents; 1 for linear layers, all of whose places are rows of their own.
    """
    return 1 if isinstance(module, nn.Linear) else prod(out.shape[channel_dim(module, out) + 1 :])


def rows(
    module: nn.Module, source: Tensor, outs: Sequence[Tensor], places: Tensor | None
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Pairs of what a layer reads and what belongs to its outputs, in chunks of rows.

    Row n of the first, times `matrix_of(module, weight)` transposed, is row n of the layer's output without bias.

    Args:
        module: A convolution or linear layer.
        source: Its input.
        outs: Tensors of the shape of its output.
        places: Output places (of convolutions, counted row by row) that are taken, the same in every image, int64;
            None for all.

    Yields:
        Inputs of shape (groups, rows, inputs per group times kernel elements), and each of `outs` in shape (groups,
        rows, filters per group).
    """
    groups = groups_of(module)
    if isinstance(module, nn.Linear):
        yield source.reshape(1, -1, source.shape[-1]), [out.reshape(1, -1, out.shape[-1]) for out in outs]
        return
    rank = _rank(module)
    if source.dim() == rank + 1:  # an image without a batch
        source, outs = source.unsqueeze(0), [out.unsqueeze(0) for out in outs]
    kernel = cast(tuple[int, ...], module.kernel_size)
    extent = outs[0].shape[2:]
    taken = prod(extent) if places is None else len(places)
    size = max(1, PATCH_BYTES // max(1, source.shape[1] * taken * prod(kernel) * source.element_size()))

    def by_group(values: Tensor) -> Tensor:
        wanted = values.flatten(2) if places is None else values.flatten(2)[:, :, places]
        return wanted.transpose(1, 2).reshape(-1, groups, values.shape[1] // groups).transpose(0, 1)

    for images, *answers in zip(source.split(size), *(out.split(size) for out in outs), strict=True):
        patches = _patches(module, images, extent, places)
        yield patches.reshape(len(patches), groups, -1).transpose(0, 1), [by_group(each) for each in answers]


def _rank(module: nn.Module) -> int:
    assert isinstance(module, MIXING)
    return len(cast(tuple[int, ...], module.kernel_size))


def _patches(module: Any, images: Tensor, extent: torch.Size, places: Tensor | None) -> Tensor:
    kernel, rank = module.kernel_size, len(module.kernel_size)
    windows = padded(module, images, extent)
    for axis, (k, s, d) in enumerate(zip(kernel, stride_of(module), module.dilation, strict=True)):
        windows = windows.unfold(2 + axis, (k - 1) * d + 1, s)[..., ::d]
    if places is None:
        order = (0, *range(2, 2 + rank), 1, *range(2 + rank, 2 + 2 * rank))
        taps = windows.permute(*order).reshape(-1, images.shape[1], *kernel)
    else:
        at: Any = (..., *torch.unravel_index(places, tuple(extent)), *[slice(None)] * rank)
        taps = windows[at].transpose(1, 2).flatten(0, 1)
    if module.transposed:
        taps = taps.flip(tuple(range(2, 2 + rank)))
    return taps


def flat_weight(module: nn.Module) -> Tensor:
    """A layer's weight in the order of the rows that it reads.

    Args:
        module: A convolution or a linear layer.

    Returns:
        float64 on the CPU, shape (filters, inputs per group, kernel elements).
    """
    weight = cast(Tensor, module.weight).detach().cpu().double()
    elements = prod(weight.shape[2:])
    flat: Tensor = matrix_of(module, weight).flatten(0, 1).unflatten(1, (-1, elements))
    return flat
