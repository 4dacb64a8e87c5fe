"""Backward elimination: which inputs of linear equations can go, and what the others then cannot reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_PIVOT = 1e-6
"""Where a correlation matrix has a smaller pivot than this, as much is added to its diagonal."""
AT_ONCE = 256
"""Of more units than this, several go in one step: one for every 256 that are left."""


@dataclass(frozen=True)
class Equations:
    """The structural equations y = W x + b of one layer, and what is known of x.

    Attributes:
        weight: In units of the state, so that a squared residual is a share of the state's variance; float64 of shape
            (blocks, outputs, inputs). Blocks, the groups of a grouped convolution, read different inputs.
        covariance: Of the inputs, shape (blocks, inputs, inputs).
        owned: Inputs of every unit in every block, shape (blocks, units, most inputs of a unit), filled up with the
            number of inputs.
    """

    weight: Tensor
    covariance: Tensor
    owned: Tensor


def direct_effects(equations: Equations) -> Tensor:
    """What do(unit = its mean) changes: tr(W_j S_jj W_j^T).

    Args:
        equations: The equations of one consumer.

    Returns:
        One share of the state's variance per unit, shape (units,).
    """
    system = _System(equations, inverted=False)
    return (system.weights_of_units().mT * (system.diagonal @ system.weights_of_units().mT)).sum(
        dim=(0, 2, 3)
    )


def unique_effects(equations: Equations) -> Tensor:
    """What is left of a direct effect once all other inputs' equations are re-learned: tr(W_j ([S^-1]_jj)^-1 W_j^T).

    ([S^-1]_jj)^-1 is the covariance of what the other inputs cannot tell of x_j, the Schur complement. It is the
    saliency of optimal brain surgeon (Hassibi and Stork 1993, eq. 5) for a block of weights.

    Args:
        equations: The equations of one consumer.

    Returns:
        One share of the state's variance per unit, shape (units,).
    """
    return _System(equations).effects()


def eliminate(consumers: Sequence[Equations], units: int) -> tuple[Tensor, Tensor]:
    """Remove the unit of the least unique effect, re-learn all equations from the units left, and go on.

    Let R be the units gone. The least squared residual of the equations without them is
        u(R) = tr(W_R ([S^-1]_RR)^-1 W_R^T),
    and the unit j that raises it least has, with S^-1 and W downdated in closed form to those of the reduced
    equations,
        P <- P - P_:j (P_jj)^-1 P_j:,    W <- W - W_j (P_jj)^-1 P_j:,    P = S^-1 at first,
    the unique effect tr(W_j (P_jj)^-1 W_j^T). That is a pivoted block Cholesky factorisation of S^-1, and is computed
    as one. Effects and residuals are added over the consumers.

    S is scaled to a correlation matrix first, so that the scale of an input plays no part. Where its smallest Cholesky
    pivot is below 1e-6 (constant, duplicated or linearly dependent inputs), 1e-6 is added to its diagonal.

    Args:
        consumers: The equations of every layer that reads the units.
        units: Number of units.

    Returns:
        The units in the order in which they go, int64 of shape (units,), and u after every removal at each consumer,
        float64 of shape (consumers, units + 1), 0 at first and never falling.

    Cost: per consumer one inversion and one factorisation, cubic in the number of inputs. Of more than 256 units
        several go in a step, those of the least effects; their residuals are exact, the order within a step is not.
    """
    systems = [_System(each) for each in consumers]
    order: list[int] = []
    lost = [torch.zeros(len(systems), dtype=torch.float64)]
    left = torch.ones(units, dtype=torch.bool)
    while len(order) < units:
        effects = torch.zeros(units, dtype=torch.float64)
        for system in systems:
            effects += system.effects()
        effects[~left] = torch.inf
        going = torch.argsort(effects, stable=True)[: max(1, (units - len(order)) // AT_ONCE)]
        rises = torch.zeros(len(systems), len(going), dtype=torch.float64)
        for row, system in zip(rises, systems, strict=True):
            row += system.remove(going).clamp_min(0)
        left[going] = False
        order += going.tolist()
        lost += [lost[-1] + each for each in rises.cumsum(dim=1).unbind(dim=1)]
    return torch.tensor(order), torch.stack(lost, dim=1)


class _System:
    """The equations of one consumer while units go: W, and of P what belongs to units."""

    def __init__(self, equations: Equations, *, inverted: bool = True) -> None:
        blocks, outputs, inputs = equations.weight.shape
        _, self.units, self.width = equations.owned.shape
        owned = equations.owned.flatten(1)
        variance = equations.covariance.diagonal(dim1=1, dim2=2)
        scale = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
        self.matrix = equations.covariance / scale[:, :, None] / scale[:, None, :]
        if inverted:
            self.matrix = _inverse(self.matrix)
        alive = torch.cat((variance.clamp_min(0).sqrt(), variance.new_zeros(blocks, 1)), dim=1)
        padded = (
            torch.cat((equations.weight, equations.weight.new_zeros(blocks, outputs, 1)), dim=2)
            * alive[:, None]
        )
        missing = owned == inputs
        safe = owned.clamp_max(inputs - 1)
        block = torch.arange(blocks)[:, None]
        self.weight = torch.gather(padded, 2, owned[:, None].expand(-1, outputs, -1))
        self.matrix = self.matrix[block[:, :, None], safe[:, :, None], safe[:, None, :]]
        self.matrix[missing[:, :, None] | missing[:, None, :]] = (
            0  # an input that a unit lacks stands for itself
        )
        self.matrix.diagonal(dim1=1, dim2=2)[missing] = 1
        side = self.units * self.width
        self.factor = self.matrix.new_zeros(blocks, side, side if inverted else 0)
        self.done = 0
        split = self.matrix.reshape(blocks, self.units, self.width, self.units, self.width)
        self.diagonal = split.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).clone()
        self.gone = torch.zeros(self.units, dtype=torch.bool)

    def weights_of_units(self) -> Tensor:
        """Shape (blocks, units, outputs, inputs of a unit)."""
        blocks, outputs, _ = self.weight.shape
        return self.weight.reshape(blocks, outputs, self.units, self.width).transpose(1, 2)

    def effects(self) -> Tensor:
        """Unique effect of every unit given those gone; of these nothing that means anything."""
        if self.width == 1:
            squares = self.weight.square().sum(dim=1)
            return (squares / self.diagonal[..., 0, 0].clamp_min(1e-300)).sum(dim=0)
        self.diagonal[:, self.gone] = torch.eye(self.width, dtype=self.diagonal.dtype)
        factor = _cholesky(self.diagonal)
        solved: Tensor = torch.linalg.solve_triangular(factor, self.weights_of_units().mT, upper=False)
        return solved.square().sum(dim=(0, 2, 3))

    def remove(self, going: Tensor) -> Tensor:
        """Let units go; returns by how much the residual rises with each of them, in this order."""
        columns = (going[:, None] * self.width + torch.arange(self.width)).flatten()
        known = self.factor[:, :, : self.done]
        column = self.matrix[:, :, columns] - known @ known[:, columns].mT
        pivot = _cholesky(column[:, columns])
        fresh = torch.linalg.solve_triangular(pivot, column.mT, upper=False).mT
        moved: Tensor = torch.linalg.solve_triangular(pivot, self.weight[:, :, columns].mT, upper=False).mT
        self.weight -= moved @ fresh.mT
        by_unit = fresh.reshape(fresh.shape[0], self.units, self.width, -1)
        self.diagonal -= by_unit @ by_unit.mT
        self.factor[:, :, self.done : self.done + len(columns)] = fresh
        self.done += len(columns)
        self.gone[going] = True
        return moved.square().sum(dim=(0, 1)).reshape(len(going), self.width).sum(dim=1)


def _inverse(correlation: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(correlation)
    pivots = factor.diagonal(dim1=1, dim2=2).square()
    added = SMALLEST_PIVOT
    while bool(failed.any()) or float(pivots.min()) < SMALLEST_PIVOT / 2:
        ridge = added * torch.eye(correlation.shape[1], dtype=correlation.dtype)
        factor, failed = torch.linalg.cholesky_ex(correlation + ridge)
        pivots = factor.diagonal(dim1=1, dim2=2).square()
        added *= 10
    return torch.cholesky_inverse(factor)


def _cholesky(blocks: Tensor) -> Tensor:
    """Cholesky factors of small blocks that rounding may have left barely indefinite."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(blocks)
    added = 1e-15
    while bool(failed.any()) and added < 1:
        size = blocks.diagonal(dim1=-2, dim2=-1).abs().mean(dim=-1)[..., None, None].clamp_min(1e-300)
        ridge = added * size * torch.eye(blocks.shape[-1], dtype=blocks.dtype)
        again, still = torch.linalg.cholesky_ex(blocks + ridge)
        factor = torch.where((failed == 0)[..., None, None], factor, again)
        failed = torch.where(failed == 0, failed, still)
        added *= 10
    return factor
