"""Mean and squared deviations of numbers in parts, against numpy on all of them."""

import numpy as np
import pytest
import torch
from torch import Tensor

from causal_prune.network.spread import Spread


def joined(rows: Tensor, sizes: list[int]) -> Spread:
    spread = Spread()
    for part in rows.split(sizes):
        spread = spread.with_more(len(part), part.mean(0), (part - part.mean(0)).square().sum(0))
    return spread


@pytest.mark.parametrize("sizes", [[12], [1] * 12, [5, 1, 6], [11, 1]])
def test_parts_in_any_order_are_the_whole(sizes: list[int]) -> None:
    rows = torch.randn(12, 2, 3, generator=torch.Generator().manual_seed(1)).double() + 1e4
    values = rows.numpy()
    for order in (rows, rows.flip(0)):
        found = joined(order, sizes)
        assert found.count == 12
        np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.squares, 12 * values.var(axis=0), rtol=1e-6)


def test_nothing_is_known_of_no_numbers_and_a_constant_has_no_spread() -> None:
    nothing = Spread()
    assert (nothing.count, float(nothing.mean), float(nothing.squares)) == (0, 0, 0)
    constant = joined(torch.full((7, 2), 0.1, dtype=torch.float64), [2, 5])
    assert constant.squares.tolist() == [0, 0] and nothing.count == 0
    assert constant.mean.dtype == torch.float64


def test_nan_stays_at_its_element() -> None:
    rows = torch.ones(4, 2, dtype=torch.float64)
    rows[1, 0] = torch.nan
    found = joined(rows, [2, 2])
    assert found.mean.isnan().tolist() == found.squares.isnan().tolist() == [True, False]
