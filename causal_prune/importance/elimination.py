"""Backward elimination: which inputs of linear equations can go, and what the others then cannot reproduce."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.linalg import lapack
from torch import Tensor

SMALLEST_PIVOT = 1e-6
"""Where a correlation matrix has a smaller pivot than this, as much is added to its diagonal."""
AT_ONCE = 256
"""Of more units than this, several go in one step: one for every 256 that are left."""
ROWS_AT_ONCE = 144
"""So many inputs go before the matrices are downdated by all of them at once."""
THIN = 4
"""A covariance whose rank, so many times, is no more than its size is inverted by its factors."""
THINNEST = 1e-12
"""Pivots below this are rounding."""
COMPACT = 0.8
"""Where fewer units than this share are left, the others are taken out of the matrices."""


@dataclass(frozen=True)
class Equations:
    """The structural equations y = W x + b of one layer, and what is known of x.

    Attributes:
        weight: In units of the state, so that a squared residual is a share of the state's variance; float64 of shape
            (blocks, outputs, inputs). Blocks, the groups of a grouped convolution, read different inputs.
        covariance: Of the inputs, shape (blocks, inputs, inputs).
        owned: Inputs of every unit in every block, shape (blocks, units, most inputs of a unit), filled up with the
            number of inputs.
        shrinkage: What has been taken off the covariances between channels; 0 if nothing.
        own: Inputs of a channel, side by side; the covariances between them are whole.
        rank: The covariance that was shrunk has no larger one; None where that is not known.
    """

    weight: Tensor
    covariance: Tensor
    owned: Tensor
    shrinkage: float = 0.0
    own: int = 1
    rank: int | None = None


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
    effects[system.units] = (system.squares * system.diagonal).sum(dim=(0, 2, 3))
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

    Cost: per consumer one inversion and one factorisation, cubic in the number of inputs; the inversion is quadratic
        where few rows were seen and the covariance is shrunk. Memory for one matrix of inputs by inputs. Of more than
        256 units several go in a step, those of the least effects; their residuals are exact, the order within a step
        is not.
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
    """The equations of consumers while units go: W^T and P, and of both what belongs to each unit.

    Consumers are as further blocks of one: every step is then one operation for all of them, and most of its time
    would be that of starting operations. Units that they do not read are left out. W and P are downdated for some steps
    at once, as products of large matrices; what a step needs of them meanwhile takes those that wait into account. Of
    W, an effect needs W_j W_j^T alone, which is downdated in every step.

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
        side = len(self.units) * self.width
        self.weight = torch.empty(len(alike) * blocks, side, outputs, dtype=torch.float64)
        self.matrix = torch.empty(len(alike) * blocks, side, side, dtype=torch.float64)
        for k, each in enumerate(alike):
            own = slice(k * blocks, (k + 1) * blocks)
            _prepare(each, self.units, self.weight[own], self.matrix[own], inverted=inverted)
        self.left = torch.ones(len(self.units), dtype=torch.bool)
        self._look()

    def _look(self, height: int = 0) -> None:
        """Take what belongs to each unit out of W and P, which are as they should be."""
        self.place[:] = -1
        self.place[self.units] = torch.arange(len(self.units))
        split = self.matrix.unflatten(2, (-1, self.width)).unflatten(1, (-1, self.width))
        self.diagonal = split.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2).clone()
        own = self.weight.unflatten(1, (-1, self.width))
        self.squares = own @ own.mT
        height = max(height, min(ROWS_AT_ONCE, self.matrix.shape[2]))
        self.fresh = self.matrix.new_empty(len(self.matrix), height, self.matrix.shape[2])
        self.solved = self.weight.new_empty(len(self.matrix), height, self.weight.shape[2])
        self.rows = 0

    def add_effects(self, effects: Tensor) -> None:
        """Add the unique effect of every unit that is left, given those gone: tr(P_jj^-1 W_j W_j^T).

        Args:
            effects: Shape (all units,); changes.
        """
        left = self.left.nonzero().flatten()
        squares, diagonal = self.squares.index_select(1, left), self.diagonal.index_select(1, left)
        if self.width == 1:
            shares = (squares / diagonal.clamp_min(1e-300))[..., 0, 0]
        else:
            solved = torch.cholesky_solve(squares, _cholesky(diagonal))
            shares = solved.diagonal(dim1=2, dim2=3).sum(dim=2)
        effects[self.units[left]] += shares.sum(dim=0).clamp_min(0)

    def remove(self, going: Tensor) -> Tensor:
        """Let units go; returns by how much the residuals rise with each of them, in this order.

        Args:
            going: Units, not empty.

        Returns:
            Shape (consumers, units that go); 0 for units that they do not read.
        """
        rises = torch.zeros(self.consumers, len(going), dtype=torch.float64)
        read = self.place[going] >= 0
        height = int(read.sum()) * self.width
        if not height:
            return rises
        if self.rows + height > self.fresh.shape[1]:
            self._catch_up(height)
        here = self.place[going[read]]
        rows = (here[:, None] * self.width + torch.arange(self.width)).flatten()
        row, weight = self.matrix.index_select(1, rows), self.weight.index_select(1, rows)
        waiting, its = self.fresh[:, : self.rows], self.solved[:, : self.rows]
        mine = waiting.index_select(2, rows).mT
        row.baddbmm_(mine, waiting, alpha=-1)
        weight.baddbmm_(mine, its, alpha=-1)
        pivot = _cholesky(row.index_select(2, rows))
        fresh = torch.linalg.solve_triangular(pivot, row, upper=False)
        solved = torch.linalg.solve_triangular(pivot, weight, upper=False)
        self._downdate(fresh, solved)
        self.left[here] = False
        shape = (self.consumers, -1, len(here), self.width, solved.shape[2])
        rises[:, read] = solved.square().reshape(shape).sum(dim=(1, 3, 4))
        return rises

    def _downdate(self, fresh: Tensor, solved: Tensor) -> None:
        """Let what belongs to each unit be that after a step:  P_jj <- P_jj - f f^T,  W_j <- W_j - f s."""
        waiting, its = self.fresh[:, : self.rows], self.solved[:, : self.rows]
        crossed = self.weight @ solved.mT
        crossed.baddbmm_(waiting.mT, its @ solved.mT, alpha=-1)
        crossed.baddbmm_(fresh.mT, solved @ solved.mT, alpha=-0.5)
        by_unit = fresh.unflatten(2, (-1, self.width)).permute(0, 2, 3, 1)
        change = by_unit @ crossed.unflatten(1, (-1, self.width)).mT
        self.squares -= change + change.mT
        self.diagonal -= by_unit @ by_unit.mT
        until = self.rows + fresh.shape[1]
        self.fresh[:, self.rows : until], self.solved[:, self.rows : until] = fresh, solved
        self.rows = until

    def _catch_up(self, height: int) -> None:
        """Downdate W and P by what waits, forget the units that are gone, and have room for so many rows."""
        fresh, solved = self.fresh[:, : self.rows], self.solved[:, : self.rows]
        still = self.left.nonzero().flatten()
        if len(still) < COMPACT * len(self.left):
            rows = (still[:, None] * self.width + torch.arange(self.width)).flatten()
            self.weight, fresh = self.weight.index_select(1, rows), fresh.index_select(2, rows)
            self.matrix = self.matrix.index_select(1, rows).index_select(2, rows)
            self.units, self.left = self.units[still], self.left[still]
        self.matrix.baddbmm_(fresh.mT, fresh, alpha=-1)
        self.weight.baddbmm_(fresh.mT, solved, alpha=-1)
        self._look(height)


def _prepare(equations: Equations, units: Tensor, weight: Tensor, matrix: Tensor, *, inverted: bool) -> None:
    """Write W^T and P of one consumer, inputs in units of their deviation and in the order of the units."""
    blocks, _, inputs = equations.weight.shape
    owned = equations.owned[:, units].flatten(1)
    variance = equations.covariance.diagonal(dim1=1, dim2=2)
    scale = torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()
    correlation = equations.covariance / scale[:, :, None]
    correlation /= scale[:, None, :]
    if inverted:
        correlation = _inverse_of(correlation, equations)
    alive = equations.weight * variance.clamp_min(0).sqrt()[:, None]
    missing = owned == inputs
    safe = owned.clamp_max(inputs - 1)
    block = torch.arange(blocks)[:, None]
    weight[:] = alive.mT[block, safe]
    for picked, whole, places in zip(matrix, correlation, safe, strict=True):
        as_it_is = len(places) == inputs and bool((places.diff() == 1).all())
        picked[:] = whole if as_it_is else whole.index_select(0, places).index_select(1, places)
    if bool(missing.any()):
        weight[missing] = 0
        matrix[missing[:, :, None] | missing[:, None, :]] = 0  # an input that a unit lacks stands for itself
        matrix.diagonal(dim1=1, dim2=2)[missing] = 1


def _inverse_of(correlation: Tensor, equations: Equations) -> Tensor:
    if not 0 < equations.shrinkage < 1 or (equations.rank or len(correlation[0])) * THIN > len(
        correlation[0]
    ):
        return _inverse(correlation)
    return torch.stack([_thin_inverse(each, equations) for each in correlation])


def _thin_inverse(correlation: Tensor, equations: Equations) -> Tensor:
    """The inverse where few rows were seen, by the identity of Sherman, Morrison and Woodbury.

    With rho the shrinkage, R = L L^T the correlation before it was shrunk (L from a Cholesky factorisation that pivots,
    with as many columns as R has ranks) and D = rho times the channels' own blocks of R,
        (D + (1 - rho) L L^T)^-1 = D^-1 - D^-1 L ((1 - rho)^-1 I + L^T D^-1 L)^-1 L^T D^-1.
    """
    own, rho = equations.own, equations.shrinkage
    blocks = (
        correlation.unflatten(0, (-1, own)).unflatten(2, (-1, own)).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    )
    whole = correlation / (1 - rho)
    split = whole.unflatten(0, (-1, own)).unflatten(2, (-1, own))
    split.diagonal(dim1=0, dim2=2).copy_(blocks.permute(1, 2, 0))
    packed, order, rank, _ = lapack.dpstrf(whole.numpy().T, tol=THINNEST, lower=1, overwrite_a=1)
    factor = torch.from_numpy(packed[:, :rank]).tril()
    rows = torch.empty_like(factor)
    rows[torch.from_numpy(order.astype("int64")) - 1] = factor
    inverse = torch.cholesky_inverse(_firm(blocks * rho))
    spread = (inverse @ rows.unflatten(0, (-1, own))).flatten(0, 1)
    inner = torch.eye(rank, dtype=rows.dtype) / (1 - rho) + rows.mT @ spread
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), spread.mT, upper=False)
    found: Tensor = half.mT @ -half
    found.unflatten(0, (-1, own)).unflatten(2, (-1, own)).diagonal(dim1=0, dim2=2).add_(
        inverse.permute(1, 2, 0)
    )
    return found


def _inverse(correlation: Tensor) -> Tensor:
    return torch.cholesky_inverse(_firm(correlation))


def _firm(correlation: Tensor) -> Tensor:
    """Cholesky factors of correlation matrices, of which none has a pivot that is too small."""
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(correlation)
    pivots = factor.diagonal(dim1=1, dim2=2).square()
    added = SMALLEST_PIVOT
    while bool(failed.any()) or float(pivots.min()) < SMALLEST_PIVOT / 2:
        ridge = added * torch.eye(correlation.shape[1], dtype=correlation.dtype)
        factor, failed = torch.linalg.cholesky_ex(correlation + ridge)
        pivots = factor.diagonal(dim1=1, dim2=2).square()
        added *= 10
    return factor


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
