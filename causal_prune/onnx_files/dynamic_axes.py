"""Axes of an ONNX file whose size is left open, and the batches that prove that they are."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from causal_prune.errors import InputError, first_line

SIZES = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}
"""Names of the axes behind batch and channels, by the number of axes."""
STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
"""Tried for other sizes, as networks that halve their maps want multiples of some power of two."""


def open_axes(example: Mapping[str, Tensor], *, batch: bool, size: bool) -> tuple[dict[int, Any], ...] | None:
    """Which axes of every input the exporter is to leave open.

    Args:
        example: Inputs by name.
        batch: Whether the first axis is.
        size: Whether those behind the channels are.

    Returns:
        By input names, or `torch.export.Dim`, by axis; None if there are none.

    Raises:
        InputError: If `size` is asked for and no input has a height, a width or a length.
    """
    if size and not any(tensor.dim() in SIZES for tensor in example.values()):
        shapes = {name: tuple(tensor.shape) for name, tensor in example.items()}
        raise InputError(
            f"dynamic_size: no input of {shapes} is an image, a volume or a signal; leave it out"
        )
    if not batch and not size:
        return None
    first = {0: torch.export.Dim("batch")} if batch else {}
    found = []
    for name, tensor in example.items():
        axes: dict[int, Any] = dict(first) if tensor.dim() else {}
        if size:
            mark = "" if len(example) == 1 else f"{name}_"
            axes |= {2 + k: f"{mark}{each}" for k, each in enumerate(SIZES.get(tensor.dim(), ()))}
        found.append(axes)
    return tuple(found)


def other_batch(example: Mapping[str, Tensor], *, dynamic: bool) -> dict[str, Tensor]:
    """A random batch: of another number of images where that is open.

    Args:
        example: Inputs by name.
        dynamic: Whether it is.

    Returns:
        Inputs by name.
    """
    count = next((len(tensor) for tensor in example.values() if tensor.dim()), 1)
    images = (3 if count != 3 else 2) if dynamic else None
    return {name: resampled(tensor, images) for name, tensor in example.items()}


def other_sizes(
    example: Mapping[str, Tensor], run: Callable[[dict[str, Tensor]], object], *, count: int = 2
) -> list[dict[str, Tensor]]:
    """Random batches of other sizes that a network takes.

    Args:
        example: Inputs by name.
        run: Runs the network; raises where it does not take a size.
        count: How many.

    Returns:
        The batches, each of another size, height and width by different shares wherever that works.

    Raises:
        InputError: If the network takes fewer other sizes.
    """
    found: list[dict[str, Tensor]] = []
    trouble = ""
    for resize in _resizings():
        batch = {name: resampled(tensor, None, resize) for name, tensor in example.items()}
        try:
            run(batch)
        except Exception as error:  # noqa: BLE001 - what a network raises has no common base
            trouble = trouble or first_line(error)
            continue
        found.append(batch)
        if len(found) == count:
            return found
    shape = tuple(next(tensor for tensor in example.values() if tensor.dim() in SIZES).shape[2:])
    raise InputError(
        f"dynamic_size: the network takes no size but {' x '.join(map(str, shape))} ({trouble}); "
        "dynamic_size=False exports it for that size alone"
    )


def resampled(tensor: Tensor, batch: int | None, resize: Callable[[int, int], int] | None = None) -> Tensor:
    """Values drawn from a tensor's own, so that integers stay valid indices; normal for a constant float.

    Args:
        tensor: Shape (batch, ...).
        batch: Another number of images, or None for the same.
        resize: From the position among the axes behind the channels and their size to another size; None for the same.

    Returns:
        The new tensor.
    """
    shape = list(tensor.shape)
    if batch is not None and shape:
        shape[0] = batch
    if resize is not None and tensor.dim() in SIZES:
        shape[2:] = [resize(k, size) for k, size in enumerate(shape[2:])]
    if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
        return torch.randn(shape, dtype=tensor.dtype, device=tensor.device)
    values = tensor.flatten()
    return values[torch.randint(len(values), shape).to(values.device)]


def _resizings() -> Iterator[Callable[[int, int], int]]:
    """Larger by a step, by two steps the other way round; then whole multiples, for inputs of several scales."""
    for step in STEPS:
        yield lambda k, size, step=step: size + step * (1 + 2 * k)  # type: ignore[misc]
        yield lambda k, size, step=step: size + step * (3 - k)  # type: ignore[misc]
    yield lambda k, size: size * (2 + k % 2)
    yield lambda k, size: size * (3 - k % 2)
    yield lambda _, size: size * 2  # squares alone
    yield lambda _, size: size * 3
