"""Where the filters of a convolution respond in an image, and the image in its own colours."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from causal_prune.errors import InputError
from causal_prune.network.hooks import outputs_of
from causal_prune.network.running import attempt, copied, device_of

Array: TypeAlias = NDArray[np.float64]
Scale: TypeAlias = Sequence[float] | None
"""What was subtracted from channels, or what they were divided by."""


ROUNDING = 1e-6
"""What differs by less than this share of the largest is rounding."""


@dataclass(frozen=True)
class Heatmap:
    """What `visualize_heatmap_on_input` shows of one image.

    Attributes:
        raw: sum_i importance_i * map_i of the convolution's raw output, scaled to 0..1; all 0 where it is flat.
        heat: `raw` at the size of the image (bilinear).
        image: The image as colours, shape (H, W, 3), 0..1.
    """

    raw: Array
    heat: Array
    image: Array


def heatmaps_of(
    model: nn.Module, images: Tensor, importances: ArrayLike, layer: str | None, mean: Scale, std: Scale
) -> list[Heatmap]:
    """Where a convolution responds, weighted by its filters' importances.

    Args:
        model: A network.
        images: One image (C, H, W) or a batch (N, C, H, W) with 1 or 3 channels.
        importances: Of its filters, shape (filters,).
        layer: Name of the convolution; None for the first one.
        mean: As in `colours_of`.
        std: As in `colours_of`.

    Returns:
        One per image.

    Raises:
        InputError: If images, layer or importances do not fit.
    """
    name, convolution = convolution_of(model, layer)
    weights = torch.from_numpy(importances_of(importances, convolution.out_channels))
    if not bool(weights.isfinite().all()):
        raise InputError("importances: some are not finite, so no sum can be weighted by them")
    batch, maps = responses_of(model, images, name)
    return [
        heatmap((weights[:, None, None] * responses).sum(dim=0), image, mean, std)
        for image, responses in zip(batch, maps, strict=True)
    ]


def heatmap(weighted: Tensor, image: Tensor, mean: Scale, std: Scale) -> Heatmap:
    """A weighted sum of maps beside its image.

    Args:
        weighted: Shape (h, w).
        image: As the network reads it, shape (C, H, W).
        mean: As in `colours_of`.
        std: As in `colours_of`.

    Returns:
        The arrays.
    """
    raw = _stretched(weighted)
    heat = functional.interpolate(raw[None, None], image.shape[1:], mode="bilinear")[0, 0]
    return Heatmap(raw.numpy(), heat.numpy(), colours_of(image, mean, std))


def responses_of(model: nn.Module, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """The raw output of a convolution for some images.

    Args:
        model: A network; a copy runs in eval mode.
        images: One image (C, H, W) or a batch (N, C, H, W) with 1 or 3 channels.
        layer: Name of the convolution.

    Returns:
        The images as a batch, and float64 maps of shape (N, filters, h, w) on the CPU; of a convolution that runs more
        than once those of its first call.

    Raises:
        InputError: If the shape is another one, or the convolution does not run.
    """
    if not isinstance(images, Tensor):
        raise InputError(f"images: {type(images).__name__} is no tensor")
    batch = images.detach()[None] if images.dim() == 3 else images.detach()
    if batch.dim() != 4 or batch.shape[1] not in (1, 3) or not len(batch):
        raise InputError(
            f"images: the shape is {tuple(images.shape)}; give (C, H, W) or (N, C, H, W) with 1 or 3 channels"
        )
    network, seen = copied(model).eval(), []
    layers = {layer: network.get_submodule(layer)}

    def see(_: str, __: nn.Module, output: Any) -> None:
        seen.append(output.detach().double().cpu())

    with torch.no_grad(), outputs_of(layers, see):
        attempt("images: the network", network, batch.to(device_of(network)), "the images")
    if not seen:
        raise InputError(f"layer: {layer!r} does not run")
    return batch, seen[0]


def convolution_of(model: nn.Module, layer: str | None) -> tuple[str, nn.Conv2d]:
    """A convolution of a network.

    Args:
        model: The network.
        layer: Its name; None for the first one in order of registration.

    Returns:
        Name and module.

    Raises:
        InputError: If there is none.
    """
    modules = dict(model.named_modules())
    if layer is not None and layer not in modules:
        raise InputError(f"layer: there is no layer {layer!r} in the network")
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d) and layer in (None, name):
            return name, module
    raise InputError(
        f"layer: {layer!r} is no Conv2d" if layer is not None else "model: there is no Conv2d in it"
    )


def importances_of(importances: ArrayLike, filters: int) -> Array:
    """Importances as numbers.

    Args:
        importances: One for each filter.
        filters: How many there are.

    Returns:
        Shape (filters,).

    Raises:
        InputError: If the shape is another one.
    """
    scores = numbers_of(importances)
    if scores.shape != (filters,):
        raise InputError(
            f"importances: the shape is {scores.shape}; one for each of {filters} filters is needed"
        )
    return scores


def numbers_of(values: ArrayLike) -> Array:
    """Numbers as an array, of a tensor on any device and with a history, too.

    Args:
        values: An array, a list or a tensor.

    Returns:
        The same, float64.
    """
    return np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)


def colours_of(image: Tensor, mean: Scale = None, std: Scale = None) -> Array:
    """An input of a network as the picture that it was.

    Args:
        image: Shape (C, H, W).
        mean: What was subtracted from the channels of pixels in 0..1. Without one number for each channel the image is
            stretched to 0..1.
        std: What they were divided by.

    Returns:
        Colours, shape (H, W, 3), 0 to 1; other channels than one or three are shown by their mean, in grey.
    """
    pixels = image.detach().double().cpu()
    known = mean is not None and std is not None and len(mean) == len(std) == len(pixels)
    shown = pixels
    if known:
        shown = pixels * pixels.new_tensor(std)[:, None, None] + pixels.new_tensor(mean)[:, None, None]
    if len(shown) not in (1, 3):
        shown = shown.mean(dim=0, keepdim=True)
    shown = shown.clamp(0, 1) if known else _stretched(shown)
    colours: Array = shown.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return colours


def is_constant(values: Array) -> bool:
    """Whether a map shows nothing: it is the same everywhere but for rounding, or not finite.

    Args:
        values: A map.

    Returns:
        True for a map of one place that was enlarged, too.
    """
    spread, largest = float(np.ptp(values)), float(np.abs(values).max())
    return not np.isfinite(spread) or spread <= ROUNDING * largest


def _stretched(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
