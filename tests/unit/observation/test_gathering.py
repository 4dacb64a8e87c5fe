import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from causal_prune.observation import gathering as module
from causal_prune.observation.gathering import Gathering, Moments, moments_of


def generator(seed: int = 4) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scatter in float64, in two passes."""
    rows = rows.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    return rows.mean(axis=0), centred.T @ centred


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, -3e5])
def test_moments_are_exact_where_the_mean_is_far_above_the_deviation(mean: float) -> None:
    spread = torch.tensor([0.5, 1.0, 3.0, 0.1])
    rows = torch.randn(4000, 4, generator=generator()) * spread + mean
    found, (expected_mean, expected) = moments_of(rows), exact(rows.numpy())
    scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    assert found.count == 4000 and found.scatter.dtype == found.mean.dtype == torch.float64
    assert np.abs(found.mean.numpy() - expected_mean).max() <= 1e-12 * max(abs(mean), 1)
    assert (np.abs(found.scatter.numpy() - expected) / scale).max() < 1e-6
    if abs(mean) >= 1e4:  # the case is hard: raw float32 sums lose everything
        raw = (rows.T @ rows - len(rows) * torch.outer(rows.mean(0), rows.mean(0))).numpy()
        assert (np.abs(raw - expected) / scale).max() > 0.1


def merge(a: Moments, b: Moments) -> Moments:
    """Chan, Golub and LeVeque 1979, eq. 1.1, literally: S = S_a + S_b + d d^T n_a n_b / n."""
    n, d = a.count + b.count, (b.mean - a.mean).unsqueeze(-1)
    scatter = a.scatter + b.scatter + (d @ d.mT) * (a.count * b.count / n)
    return Moments(n, a.mean + d.squeeze(-1) * (b.count / n), scatter)


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.floats(-1e4, 1e4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_moments_of_parts_merge_to_the_moments_of_the_whole(sizes: list[int], mean: float, seed: int) -> None:
    drift = torch.linspace(-5, 5, sum(sizes)).unsqueeze(1)  # parts with different means
    rows = torch.randn(sum(sizes), 3, generator=generator(seed), dtype=torch.float64) + drift + mean
    whole, (merged, *others) = moments_of(rows), map(moments_of, rows.split(sizes))
    for part in others:
        merged = merge(merged, part)
    assert merged.count == whole.count == sum(sizes)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(merged.covariance, torch.cov(rows.T, correction=0), rtol=1e-9, atol=1e-7)


def test_merging_is_commutative_and_keeps_batched_shapes() -> None:
    rows = torch.randn(5, 9, 2, generator=generator()) + 10
    a, b = moments_of(rows[:, :4]), moments_of(rows[:, 4:])
    one, other = merge(a, b), merge(b, a)
    assert one.mean.shape == (5, 2) and one.scatter.shape == (5, 2, 2)
    torch.testing.assert_close(one.scatter, other.scatter)
    torch.testing.assert_close(one.scatter, moments_of(rows).scatter)
    assert not Moments(0, torch.zeros(5, 2), torch.zeros(5, 2, 2)).covariance.any()


def gathered(parts: list[Tensor]) -> Gathering:
    """Rows of shape (blocks, n, parts, size), added one after the other."""
    found = Gathering(parts[0].shape[0], parts[0].shape[2], parts[0].shape[3], torch.device("cpu"))
    for part in parts:
        found.add(part.clone())
    return found


@pytest.mark.parametrize("triangle", [1, 1000], ids=["above the diagonal", "whole"])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_gathering_in_place_is_merging(monkeypatch: pytest.MonkeyPatch, mean: float, triangle: int) -> None:
    monkeypatch.setattr(module, "TRIANGLE", triangle)
    rows = torch.randn(2, 60, 1, 7, generator=generator(), dtype=torch.float64) + mean
    rows += torch.linspace(-3, 3, 60)[None, :, None, None]
    found = gathered([rows[:, :7], rows[:, 7:8], rows[:, 8:]]).result()
    whole = moments_of(rows[:, :, 0])
    assert found.count == 60
    torch.testing.assert_close(found.mean, whole.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.scatter, whole.scatter, rtol=1e-10, atol=1e-8)


def test_parts_add_up_their_scatters_about_means_of_their_own() -> None:
    rows = torch.randn(2, 40, 3, 5, generator=generator(), dtype=torch.float64)
    rows += torch.tensor([0.0, 10.0, -20.0])[None, None, :, None]
    found = gathered([rows[:, :13], rows[:, 13:]]).result()
    expected = sum(moments_of(rows[:, :, part]).scatter for part in range(3))
    assert found.count == 120
    torch.testing.assert_close(found.scatter, expected)


def test_a_shift_makes_the_scatter_one_about_that_point() -> None:
    rows = torch.randn(1, 50, 1, 4, generator=generator(), dtype=torch.float64)
    found, point = gathered([rows]), torch.tensor([1.0, -2.0, 0.5, 0.0]).reshape(1, 1, 4)
    found.shift_to(point)
    about = rows[0, :, 0] - point[0]
    torch.testing.assert_close(found.result().scatter[0], about.T @ about)


def test_columns_are_picked_in_the_order_given() -> None:
    rows = torch.randn(20, 4, generator=generator())
    columns = torch.tensor([2, 0])
    picked, alone = moments_of(rows).picked(columns), moments_of(rows[:, columns])
    torch.testing.assert_close(picked.mean, alone.mean)
    torch.testing.assert_close(picked.scatter, alone.scatter)
