import pytest
import torch
from torch import Tensor

from causal_prune.compensation import least_squares
from causal_prune.compensation.least_squares import Regression, rows_enough


def rows(count: int, inputs: int, seed: int = 0) -> Tensor:
    noise = torch.randn(2, count, inputs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mixing = torch.randn(inputs, inputs, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    return noise @ mixing + torch.arange(inputs, dtype=torch.float64)


def literal(x: Tensor, r: Tensor, ridge: float, *, intercept: bool) -> tuple[Tensor, Tensor]:
    """Ridge regression of one group by stacking rows: sqrt(penalty) times the unit vectors, with answers 0."""
    mean_x, mean_r = (x.mean(0), r.mean(0)) if intercept else (x[0] * 0, r[0] * 0)
    centred = x - mean_x
    penalty = ridge * centred.square().sum(0).mean()
    stacked = torch.cat((centred, penalty.sqrt() * torch.eye(x.shape[1], dtype=x.dtype)))
    answers = torch.cat((r - mean_r, torch.zeros(x.shape[1], r.shape[1], dtype=x.dtype)))
    change = torch.linalg.lstsq(stacked, answers).solution
    return change.mT, mean_r - mean_x @ change


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("ridge", [1e-4, 1e-1])
def test_equals_ridge_regression_row_by_row(intercept: bool, ridge: float) -> None:
    x = rows(60, 5)
    r = torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 4
    regression = Regression(intercept=intercept)
    for part in (slice(0, 7), slice(7, 50), slice(50, 60)):
        regression.add(x[:, part], r[:, part], held_out=False)
    regression.add(x, r, held_out=True)
    found = regression.solve((ridge,))
    assert found is not None
    assert (regression.rows, regression.unknowns) == (60, 5)
    for group in range(2):
        weight, bias = literal(x[group], r[group], ridge, intercept=intercept)
        torch.testing.assert_close(found.weight[group], weight, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(found.bias[group], bias, rtol=1e-7, atol=1e-9)


def test_held_out_rows_choose_the_ridge_with_the_least_error_on_them() -> None:
    candidates = (1e-6, 1e-3, 1e-2, 1e-1)
    fit, judge = rows(9, 6), rows(400, 6, seed=5)
    generator = torch.Generator().manual_seed(2)
    truth = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    noise = [2 * torch.randn(2, n, 2, generator=generator, dtype=torch.float64) for n in (9, 400)]
    regression = Regression(intercept=True)
    regression.add(fit, fit @ truth + noise[0], held_out=False)
    regression.add(judge, judge @ truth + noise[1], held_out=True)
    found = regression.solve(candidates)
    errors = []
    for ridge in candidates:
        left = torch.zeros((), dtype=torch.float64)
        for group in range(2):
            weight, bias = literal(fit[group], (fit @ truth + noise[0])[group], ridge, intercept=True)
            left += ((judge @ truth + noise[1])[group] - judge[group] @ weight.mT - bias).square().sum()
        errors.append(float(left))
    assert found is not None
    assert found.ridge == candidates[errors.index(min(errors))]
    assert found.ridge != candidates[0]


def test_inputs_that_never_vary_change_nothing_and_stay_finite() -> None:
    x = rows(30, 4)
    x[..., 2] = 7.0
    regression = Regression(intercept=True)
    regression.add(x, x[..., :1] * 3, held_out=False)
    found = regression.solve()
    assert found is not None
    assert found.weight[..., 2].abs().max() < 1e-9
    constant = Regression(intercept=True)
    constant.add(torch.ones(1, 5, 3), torch.full((1, 5, 2), 4.0), held_out=False)
    found = constant.solve()
    assert found is not None
    assert torch.equal(found.weight, torch.zeros(1, 2, 3, dtype=torch.float64))
    assert torch.equal(found.bias, torch.full((1, 2), 4.0, dtype=torch.float64))


def test_a_large_mean_does_not_drown_the_fit_in_single_precision() -> None:
    x = rows(4000, 3).float() + 1000
    regression = Regression(intercept=True)
    regression.add(x, x[..., :2] * 0.5, held_out=False)
    found = regression.solve()
    assert found is not None
    left = x.double() @ found.weight.mT + found.bias.unsqueeze(1) - x[..., :2].double() * 0.5
    assert left.std() < 5e-3


def test_nothing_to_fit_or_numbers_that_are_not_finite_give_no_correction() -> None:
    empty = Regression(intercept=True)
    assert empty.solve() is None
    assert (empty.rows, empty.unknowns) == (0, 0)
    broken = Regression(intercept=True)
    broken.add(torch.full((1, 4, 2), torch.inf), torch.ones(1, 4, 1), held_out=False)
    assert broken.solve() is None


@pytest.mark.parametrize("size", [511, 512, 777])
def test_wide_rows_times_themselves_are_whole(size: int) -> None:
    rows = torch.randn(2, 40, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    torch.testing.assert_close(least_squares._squared(rows), rows.mT @ rows)


def test_wide_layers_take_fewer_rows_per_unknown_and_never_fewer_in_all() -> None:
    counts = [rows_enough(unknowns, 100) for unknowns in range(1, 10_000)]
    assert counts[:600] == [100 * unknowns for unknowns in range(1, 601)]
    assert counts == sorted(counts)
    assert counts[4607] == 20 * 4608
