"""What `CausalCNNExplainer` reads off a network: one number per image and filter."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.hooks import outputs_of
from causal_prune.network.running import Inputs, batch_size, inputs_of, on_device
from causal_prune.progress import track

Array: TypeAlias = NDArray[np.float64]


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
