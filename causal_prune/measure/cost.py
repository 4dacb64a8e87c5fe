"""What one image costs: multiply-accumulates per layer, and parameters."""

from dataclasses import dataclass

import torch
from torch import nn

from causal_prune.errors import InputError, first_line
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.operation_costs import OperationCounter, named_uncounted, without_fused_attention
from causal_prune.network.row_groups import row_groups_of, rows_together
from causal_prune.network.running import (
    Inputs,
    as_taken,
    batch_size,
    call,
    copied,
    device_of,
    on_device,
    seeded,
)


@dataclass(frozen=True)
class Cost:
    """The size of a network.

    Attributes:
        macs: Multiply-accumulates for one image; the sum of `layer_macs`.
        params: Number of parameters, shared ones once.
        layer_macs: Multiply-accumulates by module name, those of inner modules not repeated in outer ones;
            "" is the network itself, modules without any are left out.
        uncounted: Operations that multiply in a way that is not known here, with their modules: no part of `macs`.
    """

    macs: int
    params: int
    layer_macs: dict[str, int]
    uncounted: tuple[str, ...] = ()


@undisturbed
def count_cost(model: nn.Module, example_input: Inputs) -> Cost:
    """Count multiply-accumulates and parameters of one forward pass in eval mode.

    A multiply-accumulate is one product and its addition, half of torch's FLOPs. Counted are convolutions
    (padding included), matrix products, attention, recurrent and bilinear layers, also in functional form; a
    convolution has positions x kernel x (C_in / groups) x C_out. Biases, normalisation, activations and pooling are not
    counted.

    Args:
        model: The network; not changed.
        example_input: A tensor, a tuple of positional or a mapping of keyword tensors, each (batch, ...). Only the
            first image is run; a tensor whose first dimension is not the batch is passed whole.

    Returns:
        The cost of a batch of one image.

    Raises:
        InputError: If the example holds no image, or the network cannot run on it.

    Cost:
        One forward pass.

    Example:
        >>> count_cost(nn.Linear(3, 4), torch.zeros(2, 3))
        Cost(macs=12, params=16, layer_macs={'': 12}, uncounted=())
    """
    model = copied(model).eval()
    inputs = as_taken(model, on_device(example_input, device_of(model)))
    if not batch_size(inputs):
        raise InputError("example_input holds no image: give a tensor, a tuple or a mapping of (batch, ...)")
    device = device_of(model)
    together = rows_together(model, inputs)
    one = row_groups_of(inputs, slice(0, 1), together)
    counter = OperationCounter(model)
    with seeded(0, device), torch.no_grad(), without_fused_attention(), counter:
        try:
            call(model, one)
        except Exception as error:
            raise InputError(f"the model cannot run example_input: {first_line(error)}") from error
    params = sum(parameter.numel() for parameter in model.parameters())
    macs = {name: round(count / together) for name, count in counter.macs.items()}
    return Cost(sum(macs.values()), params, macs, named_uncounted(counter.uncounted))
