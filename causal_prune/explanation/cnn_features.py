"""What `CausalCNNExplainer` reads off a network: one number per image and filter, and maps of one image."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.hooks import outputs_of
from causal_prune.network.running import Inputs, batch_size, inputs_of, on_device
from causal_prune.progress import track

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Heatmap:
    """What `visualize_heatmap_on_input` shows of one image.

    Attributes:
        raw: sum_i importance_i * map_i of the first convolution's raw output, scaled to 0..1; all 0 where it is flat.
        heat: `raw` at the size of the image (bilinear).
        image: The image as colours, shape (H, W, 3), 0..1.
    """

    raw: Array
    heat: Array
    image: Array


def frobenius_norm(output: Tensor) -> Tensor:
    """Square root of the sum of squares over space: one number per image and filter.

    Args:
        output: Shape (images, filters, H, W).

    Returns:
        Shape (images, filters), float64.
    """
    return output.double().square().sum(dim=(2, 3)).sqrt()


def collect(
    layers: Sequence[tuple[str, nn.Module]],
    run: Callable[[Inputs], Any],
    batches: Iterable[Any],
    norm: Callable[[Tensor], Tensor],
    *,
    device: torch.device,
) -> dict[int, Array]:
    """One number per image and filter of every convolution.

    Args:
        layers: Names and modules of the convolutions.
        run: Runs the network on inputs.
        batches: As `running.inputs_of` takes them.
        norm: From a raw output to features of shape (images, filters). Calls of one module are summed in squares.
        device: Where the network is.

    Returns:
        By position in `layers` features of shape (images, filters); convolutions that never ran are absent.

    Raises:
        InputError: If there are no images, an output is NaN or infinite, or the features have another shape.
    """
    rows: dict[int, list[Array]] = {}
    found: dict[int, Tensor] = {}

    positions = {name: index for index, (name, _) in enumerate(layers)}

    def see(number: int, name: str, _: nn.Module, output: Tensor) -> None:
        squares = _features(output.detach(), norm, name, number).square()
        index = positions[name]
        found[index] = found[index] + squares if index in found else squares

    images = 0
    for number, batch in enumerate(track(batches, "collect"), start=1):
        inputs = on_device(inputs_of(batch), device)
        size = batch_size(inputs)
        images += size
        if size:
            with torch.no_grad(), outputs_of(dict(layers), partial(see, number)):
                run(inputs)
        _keep(found, rows)
    if not images:
        raise InputError("data_loader: there are no images")
    return {index: np.concatenate(rows[index]) for index in sorted(rows)}


def _keep(found: dict[int, Tensor], rows: dict[int, list[Array]]) -> None:
    for index, squares in found.items():
        rows.setdefault(index, []).append(squares.sqrt().cpu().numpy())
    found.clear()


def _features(output: Tensor, norm: Callable[[Tensor], Tensor], name: str, number: int) -> Tensor:
    if not bool(output.isfinite().all()):
        raise InputError(f"data_loader: the output of {name} is NaN or infinite in batch {number}")
    features = norm(output)
    if features.shape != output.shape[:2]:
        raise InputError(
            f"frobenius_norm_func: returned {tuple(features.shape)} for {name}; "
            f"it must return {tuple(output.shape[:2])}"
        )
    return features.double()


def heatmap(
    weighted: Tensor, image: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Heatmap:
    """A weighted map of responses beside its image.

    Args:
        weighted: Shape (h, w).
        image: Normalised, shape (1 or 3, H, W).
        mean: What was subtracted from the channels; with None, or one channel, the image is stretched to 0..1.
        std: What they were divided by.

    Returns:
        The arrays.
    """
    raw = _stretched(weighted)
    heat = F.interpolate(raw[None, None], image.shape[1:], mode="bilinear")[0, 0]
    pixels = image.double().cpu()
    if mean is None or std is None or len(image) == 1:
        shown = _stretched(pixels)
    else:
        shown = pixels * pixels.new_tensor(std)[:, None, None] + pixels.new_tensor(mean)[:, None, None]
    colours = shown.clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)
    return Heatmap(raw.numpy(), heat.numpy(), colours.numpy())


def _stretched(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
