"""What a rectifier lets through: each value by itself, each step against least squares row by row."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import scipy
import torch
from torch import Tensor

from causal_prune.compensation.least_squares import Correction, Regression
from causal_prune.compensation.output_paths import Bounds
from causal_prune.compensation.rectified_refit import Rows, inverse, shortfall, step
from tests.unit.compensation.cut_nets import INFINITE

Numbers = npt.NDArray[np.float64]
RECTIFIERS: list[Bounds] = [(0.0, INFINITE), (0.0, 1.0), (-0.5, 0.5), (-INFINITE, 0.0)]
every_rectifier = pytest.mark.parametrize("bounds", RECTIFIERS)


def literal(wanted: float, missing: float, bounds: Bounds) -> float:
    """How far the value must go until nothing is wrong behind the rectifier or until it is as wanted."""
    low, high = bounds
    now = wanted - missing
    if wanted <= low:
        return 0.0 if now <= low else low - now
    if wanted >= high:
        return 0.0 if now >= high else high - now
    return missing


@every_rectifier
def test_the_shortfall_is_that_of_every_number_alone(bounds: Bounds) -> None:
    values = [-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0, 1.5]
    wanted, now = torch.cartesian_prod(torch.tensor(values), torch.tensor(values)).unbind(dim=1)
    found = shortfall(wanted, wanted - now, bounds)
    expected = [literal(w, w - n, bounds) for w, n in zip(wanted.tolist(), now.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected)
    let_through = (wanted.clamp(*bounds) - now.clamp(*bounds)).abs()
    assert bool((found.abs() >= let_through - 1e-6).all()), "no less than what is off behind the rectifier"
    assert not found[let_through == 0][wanted[let_through == 0] != now[let_through == 0]].any()


def test_a_flat_slope_has_no_inverse() -> None:
    slopes = torch.tensor([2.0, -0.5, 1e-7, 0.0, -1e-9])
    given = slopes.clone()
    assert inverse(slopes).tolist() == [0.5, -2.0, 0.0, 0.0, 0.0] and torch.equal(slopes, given)


class Problem:
    """Inputs with an output of two filters that is wanted; a third of the rows is held out."""

    def __init__(self, bounds: Bounds, slope: list[float], groups: int = 1) -> None:
        generator = np.random.default_rng(2)
        self.bounds, self.slope = bounds, torch.tensor(slope, dtype=torch.float64).reshape(groups, 1, -1)
        self.x = generator.normal(1.0, 1.0, (groups, 60, 3))
        filters = self.slope.shape[2]
        truth = generator.normal(size=(groups, 3, filters))
        noise = generator.normal(0, 0.7, (groups, 60, filters))
        self.missing = self.x @ truth + noise - 0.5
        self.shift = generator.normal(size=(groups, 1, filters))

    @property
    def wanted(self) -> Numbers:
        """Behind slope and shift, if the layer returned nothing at first."""
        behind: Numbers = self.missing * self.slope.numpy() + self.shift
        return behind

    def rows(self) -> Rows:
        return torch.tensor(self.x), torch.tensor(self.missing), torch.tensor(self.wanted)

    def known(self) -> Regression:
        regression = Regression(intercept=True)
        for part, held_out in ((slice(0, 40), False), (slice(40, 60), True)):
            x, missing, _ = self.rows()
            regression.add(x[:, part], missing[:, part], held_out=held_out)
        return regression

    def left(self, change: Correction) -> Tensor:
        """What is missing before the rectifier on the rows that make the fit, up to the bounds."""
        x, missing, wanted = (each[:, :40] for each in self.rows())
        now = missing - x @ change.weight.mT - change.bias.unsqueeze(1)
        return shortfall(wanted, self.slope * now, self.bounds)

    def stepped(self, known: Regression, change: Correction) -> Correction:
        x, missing, wanted = (each[:, :40] for each in self.rows())
        halves = [(x[:, part], missing[:, part], wanted[:, part]) for part in (slice(0, 25), slice(25, 40))]
        further = step(halves, known, change, self.bounds, self.slope)
        assert further is not None
        return Correction(change.weight + further.weight, change.bias + further.bias, change.ridge)


@every_rectifier
@pytest.mark.parametrize("slope", [[1.0, 1.0], [2.0, -0.5]])
def test_a_step_is_ridge_regression_of_the_shortfall(bounds: Bounds, slope: list[float]) -> None:
    problem = Problem(bounds, slope, groups=2 if slope[0] == 1 else 1)
    known = problem.known()
    change = known.solve((1e-2,))
    assert change is not None
    found = problem.stepped(known, change)
    goals = (problem.left(change) / problem.slope).numpy()
    for group, (x, goal) in enumerate(zip(problem.x[:, :40], goals, strict=True)):
        centred = x - x.mean(axis=0)
        penalty = 1e-2 * (centred**2).sum(axis=0).mean()
        stacked = np.concatenate((centred, np.sqrt(penalty) * np.eye(3)))
        answers = np.concatenate((goal - goal.mean(axis=0), np.zeros((3, goal.shape[1]))))
        weight = np.linalg.lstsq(stacked, answers, rcond=None)[0].T
        np.testing.assert_allclose(found.weight[group] - change.weight[group], weight, rtol=1e-6, atol=1e-8)
        bias = goal.mean(axis=0) - weight @ x.mean(axis=0)
        np.testing.assert_allclose(found.bias[group] - change.bias[group], bias, rtol=1e-6, atol=1e-8)


@every_rectifier
def test_steps_go_down_towards_the_least_error_that_there_is(bounds: Bounds) -> None:
    problem = Problem(bounds, [1.5, -0.7])
    known = problem.known()
    change = known.solve((1e-9,))
    assert change is not None
    errors = [float(problem.left(change).square().sum())]
    for _ in range(150):
        change = problem.stepped(known, change)
        errors.append(float(problem.left(change).square().sum()))
    assert all(b <= a * (1 + 1e-9) for a, b in pairwise(errors))

    def error(numbers: Numbers) -> float:
        weight, bias = torch.tensor(numbers).reshape(1, 2, 4).split([3, 1], dim=2)
        return float(problem.left(Correction(weight, bias[..., 0], 0.0)).square().sum())

    least = scipy.optimize.minimize(error, np.zeros(8)).fun
    assert errors[-1] - least < 0.02 * (errors[0] - least), "nearly all that can be gained"


def test_a_filter_behind_a_flat_slope_is_left_alone() -> None:
    problem = Problem((0.0, INFINITE), [1.0, 1e-9])
    known = problem.known()
    nothing = Correction(torch.zeros(1, 2, 3).double(), torch.zeros(1, 2).double(), 1e-4)
    found = problem.stepped(known, nothing)
    assert bool(found.weight[0, 0].abs().sum() > 0.1)
    assert not found.weight[0, 1].any() and not found.bias[0, 1].any()


def test_numbers_that_are_not_finite_give_no_step() -> None:
    problem = Problem((0.0, INFINITE), [1.0, 1.0])
    x, missing, wanted = (each[:, :40] for each in problem.rows())
    missing[0, 3, 0] = torch.nan
    change = Correction(torch.zeros(1, 2, 3).double(), torch.zeros(1, 2).double(), 1e-4)
    assert step([(x, missing, wanted)], problem.known(), change, problem.bounds, problem.slope) is None
