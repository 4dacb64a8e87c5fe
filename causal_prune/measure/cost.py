"""What one image costs: multiply-accumulates per layer, and parameters."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from causal_prune.errors import InputError
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import (
    Inputs,
    as_taken,
    batch_size,
    call,
    copied,
    device_of,
    on_device,
    part_of,
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
    """

    macs: int
    params: int
    layer_macs: dict[str, int]


@undisturbed
def count_cost(model: nn.Module, example_input: Inputs) -> Cost:
    """Count multiply-accumulates and parameters of one forward pass in eval mode.

    A multiply-accumulate is one product and its addition, half of torch's FLOPs. Counted are convolutions
    (padding included), matrix products and attention, also in functional form; a convolution has
    positions x kernel x (C_in / groups) x C_out. Biases, normalisation, activations and pooling are not counted,
    nor are recurrent cells and nn.Bilinear.

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
        Cost(macs=12, params=16, layer_macs={'': 12})
    """
    model = copied(model).eval()
    inputs = as_taken(model, on_device(example_input, device_of(model)))
    if not batch_size(inputs):
        raise InputError("example_input holds no image: give a tensor, a tuple or a mapping of (batch, ...)")
    device = device_of(model)
    one = part_of(inputs, slice(0, 1), batch_size(inputs))
    layer_macs: dict[str, int] = {}
    counter = FlopCounterMode(display=False)
    # The fused attention of eval mode is one operator without a FLOP formula: it would count as 0.
    watching = _attributed(model, counter, layer_macs)
    with seeded(0, device), torch.no_grad(), _without_fused_attention(), counter, watching:
        try:
            call(model, one)
        except Exception as error:
            raise InputError(f"the model cannot run example_input: {_first_line(error)}") from error
    params = sum(parameter.numel() for parameter in model.parameters())
    return Cost(counter.get_total_flops() // 2, params, layer_macs)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _without_fused_attention() -> Iterator[None]:
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _attributed(model: nn.Module, counter: FlopCounterMode, layer_macs: dict[str, int]) -> Iterator[None]:
    """Add to `layer_macs` what each module computes itself, while the block runs.

    The counter's own table repeats inner modules in outer ones, and misses the outer one where an inner module is
    called directly, so that differences of its rows are no safe way to a module's own share.
    """
    running: list[tuple[int, int]] = []  # FLOPs at entry, and FLOPs of inner modules so far

    def enter(*_: Any) -> None:
        running.append((counter.get_total_flops(), 0))

    def leave(name: str) -> None:
        start, inner = running.pop()
        spent = counter.get_total_flops() - start
        if spent > inner:
            layer_macs[name] = layer_macs.get(name, 0) + (spent - inner) // 2
        if running:
            outer_start, outer_inner = running[-1]
            running[-1] = (outer_start, outer_inner + spent)

    handles = []
    try:
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(enter, prepend=True))
            handles.append(module.register_forward_hook(lambda *_, name=name: leave(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
