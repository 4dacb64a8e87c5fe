"""What convolutions and linear layers multiply their weights with, as rows of numbers."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from causal_prune.network.padding import padded, padded_shape, stride_of

CHUNK_BYTES = 4_000_000
"""Rows are made in chunks of about this size, so that they are still in the cache when they are centred and multiplied;
of patches so long that their scatter is larger, in chunks of its size, lest it be fetched more often than they."""
LARGEST_CHUNK_BYTES = 64_000_000
POSITIONS = 64
"""Output positions of one image that are read at most; all of them where there are no more."""
FEWEST_POSITIONS = 16
LONG_PATCH = 72
"""Where a patch holds more numbers than this, fewer positions are read, in proportion down to the fewest."""


def positions_read(extent: Sequence[int], patch: int = 1) -> Tensor:
    """Output positions at which patches are read: all of them, or a fixed sample where there are many.

    Neighbouring patches are nearly the same, so a sample costs little precision and saves most of the time. It is the
    same for every image, network and process: the first points of the R_d sequence (Roberts 2018), whose coordinates
    are x_i = frac(1/2 + i a) with a_k = phi^-k and phi^(d+1) = phi + 1, rounded down to positions. They cover the
    borders in proportion to their area.

    Args:
        extent: Positions along each axis of the output.
        patch: Numbers that one patch holds.

    Returns:
        Ascending indices into the flattened extent.
    """
    limit = max(FEWEST_POSITIONS, min(POSITIONS, POSITIONS * LONG_PATCH // max(patch, 1)))
    return _sample(tuple(extent), limit)


@lru_cache(maxsize=256)
def _sample(extent: tuple[int, ...], limit: int) -> Tensor:
    total = prod(extent)
    if total <= limit:
        return torch.arange(total)
    rank = len(extent)
    phi = 2.0
    for _ in range(40):
        phi = (1 + phi) ** (1 / (rank + 1))
    chosen: set[int] = set()
    i = 0
    while len(chosen) < limit:
        i += 1
        flat = 0
        for k, size in enumerate(extent):
            flat = flat * size + int((0.5 + i * phi ** -(k + 1)) % 1 * size)
        chosen.add(flat)
    return torch.tensor(sorted(chosen))


def rows_read(
    module: nn.Module, source: Tensor, extent: Sequence[int], taps: int, together: int = 1
) -> Iterator[Tensor]:
    """What a layer multiplies its weight with at the positions that are read.

    Args:
        module: A convolution (transposed or not, of any rank) or a linear layer.
        source: The layer's input, (N, channels, ...) or, for a linear layer, (N, ..., features).
        extent: Size of the layer's output along each axis of space; for a linear layer of the axes between the first
            and the last.
        taps: Elements of the kernel; for a linear layer the number of consecutive features that count as one channel.
        together: A chunk holds whole groups of so many images after each other.

    Yields:
        Chunks of shape (groups, rows, taps, channels of a group) in float64, free to be overwritten.
    """
    device = torch.device("cpu") if source.device.type == "mps" else source.device  # mps knows no float64
    source = source.detach().to(device)
    if isinstance(module, nn.Linear):
        index = positions_read(extent, source.shape[-1]).to(device)
        tokens = source.reshape(source.shape[0] if source.dim() > 1 else 1, -1, source.shape[-1])
        for images in tokens.split(images_at_once(len(index) * source.shape[-1], source.shape[-1], together)):
            rows = images.index_select(1, index).to(torch.float64, copy=True)
            yield rows.reshape(1, -1, source.shape[-1] // taps, taps).transpose(2, 3)
        return
    if source.dim() == len(extent) + 1:
        source = source.unsqueeze(0)
    groups, channels = int(module.groups), source.shape[1]  # type: ignore[arg-type]
    patch = channels * taps // groups
    index = _pixels(module, tuple(source.shape[2:]), tuple(extent), patch).to(device)
    numbers = max(index.numel(), prod(source.shape[2:])) * channels
    for images in source.split(images_at_once(numbers, patch, together)):
        pixels = padded(module, images, extent).flatten(2).transpose(1, 2).contiguous()
        # float64 only now: of a large map most pixels are not read
        rows = pixels.index_select(1, index).to(torch.float64, copy=True)
        yield rows.reshape(-1, taps, groups, channels // groups).permute(2, 0, 1, 3).contiguous()


def rows_of_an_image(module: nn.Module, source: Tensor, extent: Sequence[int]) -> int:
    """How many rows `rows_read` makes of one image.

    Args:
        module: A convolution or a linear layer.
        source: The layer's input.
        extent: As for `rows_read`.

    Returns:
        The number of positions that are read.
    """
    if isinstance(module, nn.Linear):
        return len(positions_read(extent, source.shape[-1]))
    channels = source.shape[0] if source.dim() == len(extent) + 1 else source.shape[1]
    kernel: tuple[int, ...] = module.kernel_size  # type: ignore[assignment]  # of a convolution
    return len(positions_read(extent, channels * prod(kernel) // int(module.groups)))  # type: ignore[arg-type]


def images_at_once(numbers: int, patch: int = 1, together: int = 1) -> int:
    """Images of which rows are made in one chunk.

    Args:
        numbers: Numbers that are made of one image, in float64.
        patch: Numbers that one row holds.
        together: Images of a group.

    Returns:
        Whole groups, at least one.
    """
    chunk = min(max(CHUNK_BYTES, 8 * patch**2), LARGEST_CHUNK_BYTES)
    return together * max(1, chunk // (8 * max(numbers, 1) * together))


def _pixels(module: Any, shape: tuple[int, ...], extent: tuple[int, ...], patch: int) -> Tensor:
    """For every position that is read and every tap the flat index of the padded pixel that they meet at."""
    rank = len(extent)
    sizes = padded_shape(module, extent, shape)
    taps = torch.tensor(list(product(*map(range, module.kernel_size)))).reshape(-1, rank)
    if module.transposed:
        taps = taps.flip(0)
    places = torch.stack(torch.unravel_index(positions_read(extent, patch), extent), dim=1)
    at = places[:, None] * torch.tensor(stride_of(module)) + taps[None] * torch.tensor(module.dilation)
    flat = torch.zeros(at.shape[:2], dtype=torch.int64)
    for k, size in enumerate(sizes):
        flat = flat * size + at[..., k]
    return flat.flatten()
