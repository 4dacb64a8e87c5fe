"""Closed forms against equations that are fitted again from scratch after every removal."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_prune.importance import elimination
from causal_prune.importance.elimination import Equations, direct_effects, eliminate, unique_effects


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def equations(
    seed: int, *, blocks: int = 1, outputs: int = 4, units: int = 5, width: int = 3, others: int = 2
) -> tuple[Equations, Tensor]:
    """Equations over correlated inputs, of which the last ones belong to no unit, and the inputs themselves."""
    inputs = units * width + others
    mixing = torch.randn(blocks, inputs, inputs, generator=generator(seed), dtype=torch.float64)
    rows = torch.randn(blocks, 300, inputs, generator=generator(seed + 1), dtype=torch.float64) @ mixing
    rows = rows - rows.mean(dim=1, keepdim=True)
    weight = torch.randn(blocks, outputs, inputs, generator=generator(seed + 2), dtype=torch.float64)
    places = torch.randperm(inputs, generator=generator(seed + 3))[: units * width].reshape(units, width)
    owned = places.expand(blocks, units, width).clone()
    return Equations(weight, rows.mT @ rows / 300, owned), rows


def refitted(each: Equations, rows: Tensor, gone: list[int]) -> float:
    """What least squares from scratch leaves of the outputs when only the inputs of the other units may be used."""
    total = 0.0
    for block, data in enumerate(rows.numpy()):
        lost = [i for unit in gone for i in each.owned[block, unit].tolist() if i < data.shape[1]]
        kept = [i for i in range(data.shape[1]) if i not in lost]
        y = data @ each.weight[block].numpy().T
        fit = data[:, kept] @ np.linalg.lstsq(data[:, kept], y, rcond=None)[0] if kept else 0.0
        total += float(((y - fit) ** 2).sum() / len(data))
    return total


def some(pair: tuple[Equations, Tensor], units: list[int]) -> tuple[Equations, Tensor]:
    """The same equations, of which all but these units are the inputs of nobody."""
    each, rows = pair
    owned = torch.full_like(each.owned, rows.shape[2])
    owned[:, units] = each.owned[:, units]
    return Equations(each.weight, each.covariance, owned), rows


OWNERS = [(1, [0, 1, 2, 3, 4]), (20, [1, 3]), (30, [3, 1]), (40, [2, 4]), (50, [])]


@pytest.mark.parametrize(
    "kind",
    [
        "one",
        "several consumers",
        "alike",
        "some units each",
        "blocks",
        "ragged",
        "one input each",
        "no others",
    ],
)
def test_the_curve_is_that_of_fitting_from_scratch_at_every_step(kind: str) -> None:
    cases = {
        "one": [equations(1)],
        "several consumers": [
            equations(1),
            equations(20, outputs=2, width=1, others=0),
            equations(30, others=9),
        ],
        "alike": [
            equations(1, blocks=2),
            equations(1),
            equations(20, blocks=2),
            equations(30),
            equations(40),
        ],
        "some units each": [some(equations(seed), units) for seed, units in OWNERS],
        "blocks": [equations(1, blocks=3, width=2)],
        "ragged": [equations(1)],
        "one input each": [equations(1, width=1, units=9)],
        "no others": [equations(1, others=0)],
    }
    found = cases[kind]
    if kind == "ragged":  # units of 3, 1, 2, 3 and 0 inputs
        owned = found[0][0].owned.clone()
        owned[0, 1, 1:] = owned[0, 2, 2] = owned[0, 4] = 17
        found = [(Equations(found[0][0].weight, found[0][0].covariance, owned), found[0][1])]
    units = found[0][0].owned.shape[1]
    order, by_consumer = eliminate([each for each, _ in found], units)
    assert by_consumer.shape == (len(found), units + 1)
    lost = by_consumer.sum(dim=0)
    assert sorted(order.tolist()) == list(range(units)) and order.dtype == torch.int64
    assert lost.shape == (units + 1,) and float(lost[0]) == 0 and lost.dtype == torch.float64
    gone: list[int] = []
    for step, unit in enumerate(order.tolist()):
        rises = {
            each: sum(refitted(*pair, [*gone, each]) for pair in found)
            for each in range(units)
            if each not in gone
        }
        assert min(rises, key=lambda key: rises[key]) == unit, "the least effect goes"
        gone.append(unit)
        assert float(lost[step + 1]) == pytest.approx(rises[unit], rel=1e-8, abs=1e-12)
        for row, pair in zip(by_consumer, found, strict=True):
            assert float(row[step + 1]) == pytest.approx(refitted(*pair, gone), rel=1e-8, abs=1e-12)


def test_effects_are_those_of_interventions_with_and_without_fitting_again() -> None:
    each, rows = equations(5)
    direct, unique = direct_effects(each), unique_effects(each)
    for unit in range(5):
        x = rows[0, :, each.owned[0, unit]]
        expected = float((x @ each.weight[0][:, each.owned[0, unit]].T).square().sum() / 300)
        assert float(direct[unit]) == pytest.approx(expected, rel=1e-12)
        assert float(unique[unit]) == pytest.approx(refitted(each, rows, [unit]), rel=1e-10)
        assert float(unique[unit]) < float(direct[unit])


def test_the_scale_of_an_input_plays_no_part() -> None:
    each, _ = equations(6)
    scale = torch.logspace(-6, 6, 17, dtype=torch.float64)
    scaled = Equations(each.weight / scale, each.covariance * scale[:, None] * scale, each.owned)
    (order, (lost,)), (other_order, (other_lost,)) = eliminate([each], 5), eliminate([scaled], 5)
    assert torch.equal(order, other_order)
    torch.testing.assert_close(other_lost, lost, rtol=1e-9, atol=0)


def test_one_of_two_copies_is_free_to_go_and_the_other_then_counts_for_both() -> None:
    each, rows = equations(7, width=2)
    rows = rows.clone()
    rows[:, :, each.owned[0, 3]] = 3 * rows[:, :, each.owned[0, 1]]
    each = Equations(each.weight, rows.mT @ rows / 300, each.owned)
    unique, direct = unique_effects(each), direct_effects(each)
    assert bool((unique[[1, 3]] < 1e-5 * direct[[1, 3]]).all()) and float(unique[[0, 2, 4]].min()) > 0.1
    order, (lost,) = eliminate([each], 5)
    assert int(order[0]) in (1, 3) and float(lost[1]) < 1e-5 * float(direct[order[0]])
    for step in range(1, 6):
        assert float(lost[step]) == pytest.approx(
            refitted(each, rows, order[:step].tolist()), rel=1e-3, abs=1e-3
        )


def test_constant_and_unread_inputs_go_first_and_cost_nothing() -> None:
    each, rows = equations(8)
    rows, weight = rows.clone(), each.weight.clone()
    rows[:, :, each.owned[0, 2]] = 0
    weight[:, :, each.owned[0, 4]] = 0
    order, (lost,) = eliminate([Equations(weight, rows.mT @ rows / 300, each.owned)], 5)
    assert set(order[:2].tolist()) == {2, 4} and float(lost[2]) < 1e-12
    assert bool(lost.isfinite().all())


def test_more_inputs_than_rows_leave_finite_rising_curves() -> None:
    each, rows = equations(9, units=12, width=4)
    short = rows[:, :10]
    _, (lost,) = eliminate([Equations(each.weight, short.mT @ short / 10, each.owned)], 12)
    assert bool(lost.isfinite().all()) and bool((lost.diff() >= 0).all()) and float(lost[4] / lost[-1]) < 1e-5
    everything = float((short[0] @ each.weight[0].T).square().sum() / 10)
    assert float(lost[-1]) <= everything * (1 + 1e-6)


def test_large_groups_lose_several_units_a_step_with_exact_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    each, rows = equations(10, units=12, width=2)
    monkeypatch.setattr(elimination, "AT_ONCE", 4)
    order, (lost,) = eliminate([each], 12)
    assert sorted(order.tolist()) == list(range(12))
    for step in range(13):
        assert float(lost[step]) == pytest.approx(
            refitted(each, rows, order[:step].tolist()), rel=1e-8, abs=1e-12
        )


def test_nobody_reads_the_group() -> None:
    order, lost = eliminate([], 4)
    assert sorted(order.tolist()) == [0, 1, 2, 3] and lost.shape == (0, 5)


def shrunk(seed: int, *, rows: int, units: int = 12, own: int = 3, others: int = 6) -> Equations:
    """Equations over inputs of which few rows were seen, some of them constant; between channels shrunk by a fifth."""
    inputs = units * own + others
    seen = torch.randn(rows, 4, generator=generator(seed), dtype=torch.float64)
    mixing = torch.randn(4, inputs, generator=generator(seed + 1), dtype=torch.float64)
    x = seen @ mixing + 0.3 * torch.randn(rows, inputs, generator=generator(seed + 2), dtype=torch.float64)
    x[:, 1] = 2.0
    x = x - x.mean(dim=0)
    covariance = x.T @ x / rows
    blocks = torch.block_diag(*[covariance[k : k + own, k : k + own] for k in range(0, inputs, own)])
    covariance = 0.8 * covariance + 0.2 * blocks
    weight = torch.randn(1, 5, inputs, generator=generator(seed + 3), dtype=torch.float64)
    order = torch.randperm(inputs // own, generator=generator(seed + 4))[:units]
    owned = (order[:, None] * own + torch.arange(own)).unsqueeze(0)
    return Equations(weight, covariance[None], owned, shrinkage=0.2, own=own, rank=rows)


@pytest.mark.parametrize("rows", [2, 5, 9])
def test_few_rows_are_inverted_by_their_factors_to_the_same_equations(
    rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = shrunk(rows, rows=rows)
    thin = []
    original = elimination._thin_inverse
    monkeypatch.setattr(elimination, "_thin_inverse", lambda *given: thin.append(1) or original(*given))
    order, lost = eliminate([each], 12)
    assert thin
    whole_order, whole_lost = eliminate([replace(each, rank=None)], 12)
    assert len(thin) == 1
    assert torch.equal(order, whole_order)
    torch.testing.assert_close(lost, whole_lost, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("height", [1, 3, 7, 1000])
@pytest.mark.parametrize("keep", [0.0, 0.8, 1.0])
def test_it_makes_no_difference_how_many_steps_wait(
    height: int, keep: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = equations(3, blocks=2, units=7)
    second, _ = some(equations(8, units=7), [1, 2, 5])
    wanted = eliminate([first, second], 7)
    monkeypatch.setattr(elimination, "ROWS_AT_ONCE", height)
    monkeypatch.setattr(elimination, "COMPACT", keep)
    order, lost = eliminate([first, second], 7)
    assert torch.equal(order, wanted[0])
    torch.testing.assert_close(lost, wanted[1], rtol=1e-9, atol=1e-12)
