"""The guard: images that made no candidate decide which one stays."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal_prune.compensation.guard import FEW, FOLDS, GUARDED, MOST, decide, divergences, splits
from causal_prune.network.comparing import ComparisonError


def numbers(batches: list[Tensor]) -> list[int]:
    return [int(each) for batch in batches for each in batch]


@pytest.mark.parametrize("sizes", [[4], [10, 1, 12], [63], [1] * 20])
def test_of_few_images_every_one_judges_once_and_makes_the_others(sizes: list[int]) -> None:
    batches = [*torch.arange(float(sum(sizes))).split(sizes)]
    found = splits(batches, 1)
    assert len(found) == FOLDS
    assert sorted(each for _, judging in found for each in numbers(judging)) == list(range(sum(sizes)))
    for making, judging in found:
        assert sorted(numbers(making) + numbers(judging)) == list(range(sum(sizes)))
        assert all(len(batch) for batch in (*making, *judging))


@pytest.mark.parametrize(("count", "judging"), [(FEW, 11), (600, 100), (5000, 250)])
def test_of_many_images_some_are_kept_apart(count: int, judging: int) -> None:
    ((making, kept),) = splits([*torch.arange(float(count)).split(128)], 1)
    assert sum(map(len, kept)) == judging <= MOST and sum(map(len, making)) == count - judging
    assert count > MOST * GUARDED or judging == pytest.approx(count / GUARDED, abs=1)


def test_rows_that_belong_together_stay_together_and_too_few_images_are_not_split() -> None:
    ((making, judging), *_) = splits([torch.arange(24.0)], 2)
    assert all(each.reshape(-1, 2).diff(dim=1).unique().tolist() == [1.0] for each in (*making, *judging))
    assert splits([torch.arange(3.0)], 1) == splits([torch.arange(12.0)], 4) == []


def linear(scale: float) -> nn.Module:
    net = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.eye(3) * scale)
    return net


def test_scores_are_held_against_each_other_by_kl_and_other_outputs_by_their_error() -> None:
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        measure, found = divergences(linear(1), {"a": linear(1), "b": linear(2)}, [*x.split(5)], "cpu")
        p, q = x.double().log_softmax(1), (2 * x).double().log_softmax(1)
        assert measure == "mean KL to the dense network" and found["a"].abs().max() < 1e-12
        torch.testing.assert_close(found["b"], (p.exp() * (p - q)).sum(1), rtol=1e-5, atol=1e-7)
        maps = x[:, :, None, None]
        wide = nn.Sequential(nn.Conv2d(3, 2, 1), nn.Identity())
        measure, found = divergences(wide, {"a": nn.Sequential(wide[0], nn.ReLU())}, [maps], "cpu")
        y = wide(maps)
        expected = (y.relu() - y).square().flatten(1).sum(1) / y.square().flatten(1).sum(1).mean()
    assert measure == "mean relative squared error"
    torch.testing.assert_close(found["a"], expected.double(), rtol=1e-5, atol=1e-7)


def test_modes_and_devices_of_candidates_are_left_alone() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    net[1].eval()
    with torch.no_grad():
        divergences(linear(1), {"a": net}, [torch.randn(4, 3)], "cpu")
    assert net.training and net[0].training and not net[1].training


class Returns(nn.Module):
    def __init__(self, found: Any) -> None:
        super().__init__()
        self.found = found

    def forward(self, x: Tensor) -> Any:
        return self.found


@pytest.mark.parametrize("found", [torch.ones(3, 2), torch.ones(4, 2, dtype=torch.int64), torch.ones(())])
def test_what_is_no_row_per_image_cannot_be_compared(found: Tensor) -> None:
    with pytest.raises(ComparisonError, match="one row per image|no output is a number"):
        divergences(Returns(found), {"a": Returns(found)}, [torch.randn(4, 3)], "cpu")
    with pytest.raises(ComparisonError, match="outputs of shape"):
        divergences(linear(1), {"a": Returns(torch.ones(4, 5))}, [torch.randn(4, 3)], "cpu")


def spread(mean: float, count: int = 50, deviation: float = 1.0) -> Tensor:
    values = torch.randn(count, generator=torch.Generator().manual_seed(int(100 * mean)), dtype=torch.float64)
    return mean + deviation * (values - values.mean()) / values.std()


def test_another_than_the_simplest_must_be_ahead_by_a_standard_error() -> None:
    simple = spread(1.0)
    assert decide("m", {"simple": simple, "other": simple - 0.5}).best == "other"
    assert decide("m", {"simple": simple, "other": spread(0.95)}).best == "simple"
    assert decide("m", {"simple": simple, "other": simple}).best == "simple"
    found = decide("m", {"simple": simple, "a": simple - 0.3, "b": simple - 0.4})
    assert found.best == "b" and found.images == 50
    assert found.behind["simple"][0] == pytest.approx(0.4) and found.means["b"] == pytest.approx(0.6)
    assert str(found).startswith(
        "b was kept: m 0.6 on 50 images that made none of them; simple 1 (+0.4, standard error "
    )


def test_a_candidate_that_returns_nan_is_never_kept() -> None:
    broken = torch.full((50,), torch.nan, dtype=torch.float64)
    assert decide("m", {"simple": broken, "other": spread(5.0)}).best == "other"
    assert decide("m", {"simple": spread(5.0), "other": broken}).best == "simple"
