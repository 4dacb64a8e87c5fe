"""Ridge regression from streamed sums: how a layer's weight must change so that its output fits better."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
"""Candidates, as shares of the mean diagonal of the Gram matrix; held-out rows choose among them."""
FIRST = 3
"""Which of them is tried first; then its neighbours, as long as that helps."""
UNJUDGED = 1e-4
"""The ridge where no rows are held out."""
MANY, MANY_PER_UNKNOWN = 60_000, 20
"""Of wide layers this many rows are enough, or so many per unknown if these are more."""
WIDE, STRIPES = 512, 8
"""Of so many inputs or more, products with themselves are made in stripes."""
ROWS = 16384
"""Rows are multiplied in their own precision in chunks of this many, and the products added up in float64."""


def rows_enough(unknowns: int, per_unknown: int) -> int:
    """How many rows make a fit.

    Args:
        unknowns: Of each output.
        per_unknown: Rows for each of them, as long as they are not many in all.

    Returns:
        The number.
    """
    return min(per_unknown * unknowns, max(MANY, MANY_PER_UNKNOWN * unknowns))


@dataclass(frozen=True)
class Correction:
    """What is added to a layer's weight and bias.

    Attributes:
        weight: Shape (groups, outputs, inputs).
        bias: Shape (groups, outputs); 0 where no intercept was asked for.
        ridge: The candidate that was chosen.
    """

    weight: Tensor
    bias: Tensor
    ridge: float

    def times(self, length: float) -> "Correction":
        """A part of it.

        Args:
            length: The share.

        Returns:
            The correction.
        """
        return Correction(self.weight * length, self.bias * length, self.ridge)


@dataclass
class _Sums:
    """Sums over rows of inputs x and residuals r, both shifted by constants."""

    count: int
    x: Tensor
    r: Tensor
    xx: Tensor
    xr: Tensor
    rr: Tensor


class Regression:
    """Fits residuals r by a change D of the weight, and a change c of the bias, that is as small as it can be.

    minimises  sum_n || r_n - D x_n - c ||^2 + ridge * mean(diag G) * || D ||^2,    G = sum_n (x_n - m)(x_n - m)^T

    with m the mean of x; without an intercept c and m are 0. D = 0 where there is nothing to explain, and inputs
    that do not vary get no change. The rows are split into fitted and held-out ones; the ridge is the candidate of
    `RIDGES` with the least squared error on those held out, the middle one (1e-4) where there are none.

    Args:
        intercept: Whether c is free.
    """

    def __init__(self, *, intercept: bool) -> None:
        self.intercept = intercept
        self.shift: tuple[Tensor, Tensor] | None = None
        self.sums: dict[bool, _Sums] = {}

    def afresh(self) -> "Regression":
        """A regression of other residuals on the same rows.

        Returns:
            One that knows the inputs and lacks the residuals; the same rows are then added with `known=True`.
        """
        other = Regression(intercept=self.intercept)
        if self.shift is not None:
            other.shift = self.shift[0], self.shift[1] * 0
        for held_out, sums in self.sums.items():
            residuals = [getattr(sums, name) * 0 for name in ("r", "xr", "rr")]
            other.sums[held_out] = _Sums(
                sums.count, sums.x, residuals[0], sums.xx, residuals[1], residuals[2]
            )
        return other

    def add(self, inputs: Tensor, residuals: Tensor, *, held_out: bool, known: bool = False) -> None:
        """Count rows.

        Args:
            inputs: Shape (groups, rows, inputs).
            residuals: Shape (groups, rows, outputs).
            held_out: Whether the rows judge the fit instead of making it.
            known: Whether the inputs of all rows are counted already (see `afresh`).
        """
        if inputs.element_size() < 4:
            inputs, residuals = inputs.float(), residuals.float()
        for x, r in zip(inputs.split(ROWS, dim=1), residuals.split(ROWS, dim=1), strict=True):
            if self.shift is None:
                # constants near the mean keep the products small; what is left of the mean is taken off in `solve`
                means = x.mean(dim=1, keepdim=True), r.mean(dim=1, keepdim=True)
                self.shift = means if self.intercept else (means[0] * 0, means[1] * 0)
            r = r - self.shift[1]
            new = {"r": r.sum(dim=1).double(), "rr": r.square().sum(dim=1).double()}
            if known:
                new["xr"] = (x.mT @ r).double() - self.shift[0].double().mT @ new["r"].unsqueeze(1)
            else:
                x = x - self.shift[0]
                new |= {"x": x.sum(dim=1).double(), "xx": _squared(x).double(), "xr": (x.mT @ r).double()}
            if held_out not in self.sums:
                self.sums[held_out] = _Sums(count=x.shape[1], **new)
                continue
            old = self.sums[held_out]
            old.count += 0 if known else x.shape[1]
            for name, total in new.items():
                getattr(old, name).add_(total)

    @property
    def rows(self) -> int:
        """Number of rows that make the fit."""
        return self.sums[False].count if False in self.sums else 0

    @property
    def unknowns(self) -> int:
        """Number of weights per output."""
        return self.sums[False].xx.shape[1] if False in self.sums else 0

    def inputs(self) -> tuple[Tensor, Tensor]:
        """Moments of the inputs of the rows that make the fit.

        Returns:
            Their mean, shape (groups, inputs), 0 without an intercept, and their mean product about it, shape (groups,
            inputs, inputs).
        """
        fit = self.sums[False]
        assert self.shift is not None
        offset = fit.x / fit.count if self.intercept else fit.x * 0
        covariance = fit.xx / fit.count - offset.unsqueeze(2) * offset.unsqueeze(1)
        return offset + self.shift[0].double()[:, 0], covariance

    def solve(self, ridges: Sequence[float] = RIDGES) -> Correction | None:
        """The least change that explains most.

        Args:
            ridges: Candidates.

        Returns:
            The correction, in float64; None where there are no rows, or sums are not finite.

        Cost: a Cholesky factorisation per candidate that is tried, cubic in the number of inputs; mostly three or four
            of the ten are.
        """
        fit, judge = self.sums.get(False), self.sums.get(True)
        if fit is None or self.shift is None:
            return None
        mean_x, mean_r = fit.x / fit.count, fit.r / fit.count
        if not self.intercept:
            mean_x, mean_r = mean_x * 0, mean_r * 0
        gram = fit.xx - fit.count * mean_x.unsqueeze(2) * mean_x.unsqueeze(1)
        cross = fit.xr - fit.count * mean_x.unsqueeze(2) * mean_r.unsqueeze(1)
        if not bool(gram.isfinite().all()) or not bool(cross.isfinite().all()):
            return None

        def tried(ridge: float) -> tuple[float, float, Tensor] | None:
            change = _ridge(gram, cross, ridge)
            if change is None:
                return None
            offset = mean_r - (mean_x.unsqueeze(1) @ change)[:, 0]
            return 0.0 if judge is None else _error(judge, change, offset), ridge, change

        best = _least([UNJUDGED] if judge is None else ridges, tried)
        if best is None:
            return None
        _, ridge, change = best
        shift_x, shift_r = (shift.double() for shift in self.shift)
        offset = (mean_r.unsqueeze(1) + shift_r) - (mean_x.unsqueeze(1) + shift_x) @ change
        if not self.intercept:
            offset = offset * 0
        return Correction(change.mT, offset[:, 0], ridge)


Found = TypeVar("Found", bound=tuple[float, float, Tensor])


def _least(ridges: Sequence[float], tried: Callable[[float], Found | None]) -> Found | None:
    """The candidate of the least error: from one in the middle down the slope, to where it rises again."""
    known: dict[int, Found] = {}
    at = min(FIRST, len(ridges) - 1)
    while True:
        for place in (at - 1, at, at + 1):
            if (
                0 <= place < len(ridges)
                and place not in known
                and (found := tried(ridges[place])) is not None
            ):
                known[place] = found
        if not known:
            if at + 1 >= len(ridges):
                return None
            at += 1  # the smaller ones could not be factorised
            continue
        best = min(known, key=lambda place: known[place][0])
        if best == at or best + 1 == len(ridges) or best == 0:
            return known[best]
        at = best


def _squared(rows: Tensor) -> Tensor:
    """rows^T rows; of wide ones no more than what lies above the diagonal is multiplied."""
    size = rows.shape[2]
    if size < WIDE:
        return rows.mT @ rows
    product = rows.new_empty(len(rows), size, size)
    step = -(-size // STRIPES)
    for start in range(0, size, step):
        here = slice(start, start + step)
        product[:, here, start:] = rows[:, :, here].mT @ rows[:, :, start:]
        product[:, start:, here] = product[:, here, start:].mT
    return product


def _ridge(gram: Tensor, cross: Tensor, ridge: float) -> Tensor | None:
    diagonal = gram.diagonal(dim1=1, dim2=2)
    amount = ridge * diagonal.clamp_min(0).mean(dim=1)
    amount = torch.where(amount > 0, amount, torch.ones_like(amount))  # inputs that never vary change nothing
    loaded = gram + torch.diag_embed(amount.unsqueeze(1).expand_as(diagonal))
    factor, failed = torch.linalg.cholesky_ex(loaded)
    if bool(failed.any()):
        return None
    return torch.cholesky_solve(cross, factor)


def _error(sums: _Sums, change: Tensor, offset: Tensor) -> float:
    """Sum over rows of || r - D x - c ||^2, from the sums alone."""
    quadratic = ((sums.xx @ change) * change).sum(dim=1) - 2 * (sums.xr * change).sum(dim=1) + sums.rr
    linear = (sums.x.unsqueeze(1) @ change)[:, 0] - sums.r
    return float((quadratic + 2 * offset * linear + sums.count * offset.square()).sum())
