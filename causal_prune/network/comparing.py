"""How far what two networks return lies apart; nothing passes that compared nothing."""

from collections.abc import Sequence

import torch
from torch import Tensor

from causal_prune.errors import CausalPruneError


class ComparisonError(CausalPruneError):
    """A comparison that held no number against another one."""


def largest_difference(reference: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of any tensor, relative to its largest value.

    Values that are not finite must be the same in both. Integers and truth values must be equal.

    Args:
        reference: What it should be.
        other: What it is, in the same order.

    Returns:
        0 or more; infinite where the number, a shape, a kind or what is not finite differs.

    Raises:
        ComparisonError: If no finite number was compared with another one.
    """
    if len(reference) != len(other):
        return float("inf")
    worst, compared = 0.0, 0
    for a, b in zip(reference, other, strict=True):
        if a.shape != b.shape or a.is_floating_point() != b.is_floating_point():
            return float("inf")
        difference, count = _difference(a, b)
        worst, compared = max(worst, difference), compared + count
    if not compared and worst == 0:
        raise ComparisonError("there is no number to compare in what the network returns")
    return worst


def _difference(a: Tensor, b: Tensor) -> tuple[float, int]:
    if not a.numel():
        return 0.0, 0
    if not a.is_floating_point() and not a.is_complex():
        return (0.0 if torch.equal(a, b) else float("inf")), a.numel()
    a, b = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in (a, b))
    a, b = a.double(), b.double()
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()) or not torch.equal(
        a[~finite].nan_to_num(), b[~finite].nan_to_num()
    ):
        return float("inf"), a.numel()
    if not bool(finite.any()):
        return 0.0, 0
    scale = a[finite].abs().max().clamp_min(1e-30)
    return float((a[finite] - b[finite]).abs().max() / scale), int(finite.sum())
