"""What a convolution's kernel slides over: its input with the margins that it gets."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def padded(module: Any, images: Tensor, extent: Sequence[int]) -> Tensor:
    """The input of a convolution with its margins; of a transposed one also with zeros between its pixels.

    Over the latter a transposed convolution is one of stride 1 whose taps are reversed.

    Args:
        module: A convolution of any rank, transposed or not.
        images: What it reads, (N, channels, ...).
        extent: Size of its output along each axis of space.

    Returns:
        Of as many dimensions as the input; the kernel meets it at every `stride_of(module)`-th position.
    """
    around = margins(module, extent, images.shape[2:])
    mode = "constant" if module.transposed or module.padding_mode == "zeros" else module.padding_mode
    if module.transposed:
        spread = images.new_zeros(*images.shape[:2], *spread_shape(module, images.shape[2:]))
        spread[(slice(None), slice(None), *[slice(None, None, s) for s in module.stride])] = images
        images = spread
    elif around != list(module._reversed_padding_repeated_twice):
        mode = "constant"
    return F.pad(images, around, mode=mode) if any(around) else images


def margins(module: Any, extent: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Pixels that are added around the input.

    A class derived from a convolution may pad by itself (as TensorFlow's "same" does, by what the image's size asks
    for). Where the module's own padding does not lead to the extent, so much is added as does, half of it in front,
    rounded down.

    Args:
        module: A convolution of any rank, transposed or not.
        extent: Size of its output along each axis of space.
        shape: Size of its input along each axis of space.

    Returns:
        Numbers for `torch.nn.functional.pad`, last axis first; negative where pixels are cut off.
    """
    if not module.transposed:
        own = list(module._reversed_padding_repeated_twice)
        if _extent(module, own, shape) == list(extent):
            return own
    pairs = []
    for k, (n, e) in enumerate(zip(spread_shape(module, shape), extent, strict=True)):
        reach = (module.kernel_size[k] - 1) * module.dilation[k]
        if module.transposed:
            front = reach - module.padding[k]
            pairs.append((front, e + reach - n - front))
        else:
            missing = (e - 1) * module.stride[k] + reach + 1 - n
            pairs.append((missing // 2, missing - missing // 2))
    return [amount for pair in reversed(pairs) for amount in pair]


def padded_shape(module: Any, extent: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Size of what `padded` returns along each axis of space.

    Args:
        module: A convolution of any rank, transposed or not.
        extent: Size of its output along each axis of space.
        shape: Size of its input along each axis of space.

    Returns:
        The size with margins.
    """
    return _widened(spread_shape(module, shape), margins(module, extent, shape))


def spread_shape(module: Any, shape: Sequence[int]) -> list[int]:
    """Size of the input along each axis of space, with the zeros that a transposed convolution puts between pixels.

    Args:
        module: A convolution of any rank, transposed or not.
        shape: Size of its input along each axis of space.

    Returns:
        The size before margins are added.
    """
    if not module.transposed:
        return list(shape)
    return [(n - 1) * s + 1 for n, s in zip(shape, module.stride, strict=True)]


def stride_of(module: Any) -> tuple[int, ...]:
    """How far the kernel moves over what `padded` returns.

    Args:
        module: A convolution of any rank, transposed or not.

    Returns:
        One number per axis of space.
    """
    return (1,) * len(module.kernel_size) if module.transposed else tuple(module.stride)


def _extent(module: Any, around: Sequence[int], shape: Sequence[int]) -> list[int]:
    return [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(
            _widened(shape, around), module.kernel_size, module.stride, module.dilation, strict=True
        )
    ]


def _widened(shape: Sequence[int], around: Sequence[int]) -> list[int]:
    return [n + a + b for n, a, b in zip(shape, around[-2::-2], around[-1::-2], strict=True)]
