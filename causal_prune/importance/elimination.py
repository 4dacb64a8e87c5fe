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
    effects = torch.zeros(equations.owned.shape[1], dtype=torch.float64)
    if not len(_units_read(equations)):
        return effects
    system = _System([equations], inverted=False)
    weights = system.weights_of_units()
    effects[system.units] = (weights * (system.diagonal @ weights)).sum(dim=(0, 2, 3))
    return effects


def unique_effects(equations: Equations) -> Tensor:
    """What is left of a direct effect once all other inputs' equations are re-learned: tr(W_j ([S^-1]_jj)^-1 W_j^T).

    ([S^-1]_jj)^-1 is the covariance of what the other inputs cannot tell of x_j, the Schur complement. It is the
    saliency of optimal brain surgeon (Hassibi and Stork 1993, eq. 5) for a block of weights.

    Args:
        equations: The equations of one consumer.

    Returns:
        One share of the state's variance per unit, shape (units,).
    """
    effects = torch.zeros(equations.owned.shape[1], dtype=torch.float64)
    if len(_units_read(equations)):
        _System([equations]).add_effects(effects)
    return effects


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
    systems = [([at for at, _ in alike], _System([each for _, each in alike])) for alike in _alike(consumers)]
    order: list[int] = []
    lost = [torch.zeros(len(consumers), dtype=torch.float64)]
    left = torch.ones(units, dtype=torch.bool)
    while len(order) < units:
        effects = torch.zeros(units, dtype=torch.float64)
        for _, system in systems:
            system.add_effects(effects)
        effects[~left] = torch.inf
        going = torch.argsort(effects, stable=True)[: max(1, (units - len(order)) // AT_ONCE)]
        rises = torch.zeros(len(consumers), len(going), dtype=torch.float64)
        for at, system in systems:
            rises[at] = system.remove(going).clamp_min(0)
        left[going] = False
        order += going.tolist()
        lost += [lost[-1] + each for each in rises.cumsum(dim=1).unbind(dim=1)]
    return torch.tensor(order), torch.stack(lost, dim=1)


def _alike(consumers: Sequence[Equations]) -> list[list[tuple[int, Equations]]]:
    """Consumers of the same shape that read the same units, with their places; without those that read none."""
    found: dict[object, list[tuple[int, Equations]]] = {}
    for at, each in enumerate(consumers):
        units = tuple(_units_read(each).tolist())
        if units:
            found.setdefault((each.weight.shape, each.owned.shape, units), []).append((at, each))
    return list(found.values())


def _units_read(equations: Equations) -> Tensor:
    inputs = equations.weight.shape[2]
    return (equations.owned < inputs).any(dim=2).any(dim=0).nonzero().flatten()


class _System:
    """The equations of consumers while units go: W^T, and of P what belongs to units.

    Consumers are as further blocks of one: every step is then one operation for all of them, and most of its time
    would be that of starting operations. Units that they do not read are left out.

    Args:
        alike: Equations of the same shape, of consumers that read the same units.
        inverted: Whether P is the inverse of the correlations, or these themselves.
    """

    def __init__(self, alike: Sequence[Equations], *, inverted: bool = True) -> None:
        blocks, outputs, _ = alike[0].weight.shape
        _, units, self.width = alike[0].owned.shape
        self.consumers = len(alike)
        self.units = _units_read(alike[0])
        self.place = torch.full((units,), -1)
        self.place[self.units] = torch.arange(len(self.units))
        side = len(self.units) * self.width
        self.weight = torch.empty(len(alike) * blocks, side, outputs, dtype=torch.float64)
        self.matrix = torch.empty(len(alike) * blocks, side, side, dtype=torch.float64)
        for k, each in enumerate(alike):
            own = slice(k * blocks, (k + 1) * blocks)
            _prepare(each, self.units, self.weight[own], self.matrix[own], inverted=inverted)
        self.factor = self.matrix.new_zeros(len(self.matrix), side if inverted else 0, side)
        self.done = 0
        split = self.matrix.unflatten(2, (-1, self.width)).unflatten(1, (-1, self.width))
        self.diagonal = split.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).clone()
        self.left = torch.ones(len(self.units), dtype=torch.bool)

    def weights_of_units(self) -> Tensor:
        """Shape (blocks, units, inputs of a unit, outputs)."""
        return self.weight.reshape(len(self.weight), len(self.units), self.width, -1)

    def add_effects(self, effects: Tensor) -> None:
        """Add the unique effect of every unit, given those gone, to those of all units."""
        left = self.left.nonzero().flatten()
        weights, diagonal = self.weights_of_units().index_select(1, left), self.diagonal.index_select(1, left)
        if self.width == 1:
            shares = weights.square().sum(dim=(2, 3)) / diagonal[..., 0, 0].clamp_min(1e-300)
            effects[self.units[left]] += shares.sum(dim=0)
            return
        solved: Tensor = torch.linalg.solve_triangular(_cholesky(diagonal), weights, upper=False)
        effects[self.units[left]] += solved.square().sum(dim=(0, 2, 3))

    def remove(self, going: Tensor) -> Tensor:
        """Let units go; returns by how much the residuals rise with each of them, in this order.

        Args:
            going: Units, not empty.

        Returns:
            Shape (consumers, units that go); 0 for units that they do not read.
        """
        rises = torch.zeros(self.consumers, len(going), dtype=torch.float64)
        places = self.place[going]
        read = places >= 0
        here = places[read]
        if not len(here):
            return rises
        rows = (here[:, None] * self.width + torch.arange(self.width)).flatten()
        known = self.factor[:, : self.done]
        row = torch.baddbmm(
            self.matrix.index_select(1, rows), known.index_select(2, rows).mT, known, alpha=-1
        )
        pivot = _cholesky(row.index_select(2, rows))
        fresh = torch.linalg.solve_triangular(pivot, row, upper=False)
        solved: Tensor = torch.linalg.solve_triangular(pivot, self.weight.index_select(1, rows), upper=False)
        self.weight.baddbmm_(fresh.mT, solved, alpha=-1)
        by_unit = fresh.unflatten(2, (-1, self.width)).permute(0, 2, 3, 1)
        self.diagonal -= by_unit @ by_unit.mT
        self.factor[:, self.done : self.done + len(rows)] = fresh
        self.done += len(rows)
        self.left[here] = False
        rises[:, read] = (
            solved.square()
            .reshape(self.consumers, -1, len(here), self.width, solved.shape[2])
            .sum(dim=(1, 3, 4))
        )
        return rises


def _prepare(equations: Equations, units: Tensor, weight: Tensor, matrix: Tensor, *, inverted: bool) -> None:
    """Write W^T and P of one consumer, inputs in units of their deviation and in the order of the units."""
    blocks, _, inputs = equations.weight.shape
    owned = equations.owned[:, units].flatten(1)
    variance = equations.covariance.diagonal(dim1=1, dim2=2)
    scale = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
    correlation = equations.covariance / scale[:, :, None] / scale[:, None, :]
    if inverted:
        correlation = _inverse(correlation)
    alive = equations.weight * variance.clamp_min(0).sqrt()[:, None]
    missing = owned == inputs
    safe = owned.clamp_max(inputs - 1)
    block = torch.arange(blocks)[:, None]
    weight[:] = alive.mT[block, safe]
    weight[missing] = 0
    matrix[:] = correlation[block[:, :, None], safe[:, :, None], safe[:, None, :]]
    matrix[missing[:, :, None] | missing[:, None, :]] = 0  # an input that a unit lacks stands for itself
    matrix.diagonal(dim1=1, dim2=2)[missing] = 1


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
