"""Nested inputs and outputs: compare, copy, draw anew."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map


def error_between(expected: Any, found: Any) -> float:
    """The largest difference of any output tensor relative to its largest value; infinite for another structure."""
    (a, shape_a), (b, shape_b) = tree_flatten(_opened(expected)), tree_flatten(_opened(found))
    if shape_a != shape_b:
        return float("inf")
    return max((_leaf_error(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def _opened(value: Any) -> Any:
    """Objects as dictionaries of what they hold."""
    if isinstance(value, dict):
        return {key: _opened(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_opened(entry) for entry in value]
    if not isinstance(value, Tensor) and hasattr(value, "__dict__"):
        return _opened(vars(value))
    return value


def _leaf_error(a: Any, b: Any) -> float:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return 0.0 if type(a) is type(b) and a == b else float("inf")
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.numel() == 0:
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.detach().to(wide), b.detach().to(wide)
    if not bool(b.isfinite().all()):
        if not torch.equal(a.isfinite(), b.isfinite()) or not torch.equal(a[a.isinf()], b[b.isinf()]):
            return float("inf")
        a, b = a.nan_to_num(), b.nan_to_num()
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-6))


def finite(value: Any) -> bool:
    """Whether every tensor inside holds finite numbers only."""
    return all(bool(x.isfinite().all()) for x in tree_flatten(value)[0] if isinstance(x, Tensor))


def like(value: Any, dtype: torch.dtype | None = None) -> Any:
    """A copy, in which floating-point tensors have `dtype`: a network may write into its input."""
    return tree_map(
        lambda x: (
            x.clone().to(dtype if dtype and x.is_floating_point() else x.dtype)
            if isinstance(x, Tensor)
            else x
        ),
        value,
    )


def resampled(value: Any, batch: int | None, seed: int, *, sign: float) -> Any:
    """Inputs of the same kind: normal floats, integers and booleans drawn from those that are there.

    Args:
        value: A network's inputs.
        batch: Images; None for as many as there are.
        seed: Of the values.
        sign: The example is kept, multiplied by it, where it is negative; else floats are drawn anew.
    """
    generator = torch.Generator().manual_seed(seed)

    def one(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dim() == 0:
            return x
        if sign < 0 and x.is_floating_point():
            return sign * x
        shape = x.shape if batch is None else (batch, *x.shape[1:])
        if x.is_floating_point():
            return torch.randn(shape, generator=generator).to(x.dtype)
        return x.flatten()[torch.randint(x.numel(), shape, generator=generator)]

    return tree_map(one, value)
