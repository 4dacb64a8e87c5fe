"""Rows that belong together are found, kept together and counted per image."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal_prune.network.row_groups import (
    interleaved,
    per_image,
    row_groups_of,
    rows_of_labels,
    rows_together,
)
from causal_prune.network.tensor_trees import ImageList


class Doing(nn.Module):
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, *inputs: Any) -> Any:
        return self.run(*inputs)


def shifted(frames: int) -> Callable[[Tensor], Tensor]:
    """Every row gets the next of its clip added."""
    return lambda x: x + x.view(-1, frames, *x.shape[1:]).roll(1, 1).view_as(x)


X = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("run", "inputs", "expected"),
    [
        (lambda x: x * 2, X, 1),
        (lambda x: {"a": (x * 2, 3), "b": torch.ones(())}, X, 1),
        (lambda x, t: x * t, (X, torch.tensor(3.0)), 1),
        (lambda t, x: x * t, (torch.tensor(3.0), X), 1),
        (lambda x, grid: x @ grid, (X, torch.ones(5, 4)), 1),
        (shifted(2), X, 2),
        (shifted(3), X, 3),
        (lambda x: shifted(4)(x).view(-1, 4, 5).mean(1), X, 4),
        (lambda x: x - x.mean(0), X, 12),
        (lambda x: x.sum(), X, 12),
        (lambda x: x * 2, X[:1], 1),
        (lambda x: x.reshape(12, 5), X, 12),
        (lambda images: [image * 2 for image in images], ImageList([X, X]), 1),
    ],
)
def test_the_fewest_rows_that_compute_alone_what_they_do_among_others(
    run: Callable[..., Any], inputs: Any, expected: int
) -> None:
    assert rows_together(Doing(run), inputs) == expected


def test_groups_are_taken_whole() -> None:
    rows = torch.arange(12)
    assert row_groups_of(rows, slice(0, 2), 3).tolist() == [0, 1, 2, 3, 4, 5]
    assert row_groups_of(rows, torch.tensor([3, 1]), 3).tolist() == [9, 10, 11, 3, 4, 5]
    assert row_groups_of(rows, torch.tensor([True, False, True]), 4).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert row_groups_of((rows, torch.tensor(7)), slice(1, 2), 6)[0].tolist() == [6, 7, 8, 9, 10, 11]
    assert rows_of_labels(rows, torch.tensor([1]), 3).tolist() == [4, 5, 6, 7]
    assert rows_of_labels(rows, torch.tensor([1, 5]), 12).tolist() == [1, 5]


def test_rows_of_one_image_stand_side_by_side_or_apart() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.folded, self.joined, self.mixed = nn.Identity(), nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            folded = self.folded(x.view(4, 3, 2).flatten(0, 1))
            joined = self.joined(torch.cat((x, x + 1)))
            return folded.sum() + joined.sum() + self.mixed(torch.cat((x, x)) - x.mean()).sum()

    net = Net()
    layers = {name: net.get_submodule(name) for name in ("folded", "joined", "mixed")}
    assert interleaved(net, torch.randn(4, 6), layers) == {"joined"}


def test_sums_per_image() -> None:
    rows = torch.arange(6.0)[:, None]
    assert per_image(rows, 3, apart=False).flatten().tolist() == [1, 5, 9]
    assert per_image(rows, 3, apart=True).flatten().tolist() == [3, 5, 7]
    assert per_image(rows, 6, apart=True) is rows
    assert per_image(rows[:2], 4, apart=False).flatten().tolist() == [0, 0, 0.5, 0.5]
    assert per_image(rows[:3], 2, apart=False).flatten().tolist() == [1.5, 1.5]
