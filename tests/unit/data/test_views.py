"""Views of images."""

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from causal_prune.data.views import Views, loader_of_views, views_unasked
from causal_prune.errors import InputError


class Ramps(Dataset[tuple[Tensor, float]]):
    """Images whose value is the column, of a label that is the index."""

    def __init__(self, count: int = 5, width: int = 20) -> None:
        self.count, self.width = count, width

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        if index >= self.count:
            raise IndexError(index)
        return torch.arange(self.width, dtype=torch.float32).expand(2, 10, -1) + 100 * index, float(index)


def test_the_first_view_is_the_image_and_views_of_an_image_stand_side_by_side() -> None:
    views = Views(Ramps(), 3)
    assert len(views) == 15
    assert [views[k][1] for k in range(15)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    for k in range(5):
        assert torch.equal(views[3 * k][0], Ramps()[k][0])
    with pytest.raises(IndexError, match="15"):
        views[15]


def test_crops_are_zoomed_and_every_second_view_is_mirrored() -> None:
    views = Views(Ramps(40), 4)
    for k in range(160):
        image, _ = views[k]
        assert image.shape == (2, 10, 20)
        low, high = 100 * (k // 4), 100 * (k // 4) + 19
        assert low - 1e-3 <= float(image.min()) <= float(image.max()) <= high + 1e-3
        rises = image[0, 0, -1] > image[0, 0, 0]
        assert bool(rises) == (k % 4 in (0, 2))
        if k % 4:
            # sides of 17 to 20 columns: the ramp of a crop is flatter by that share
            assert 15.5 <= float((image[0, 0, -1] - image[0, 0, 0]).abs()) <= 19


def test_views_are_the_same_whenever_they_are_asked_for_and_differ_between_images() -> None:
    views = Views(Ramps(), 2)
    first = [views[k][0] for k in range(10)]
    torch.manual_seed(5)
    assert all(torch.equal(views[k][0], first[k]) for k in reversed(range(10)))
    assert not torch.equal(first[1], first[3] - 100)


def test_a_batch_holds_all_views_of_its_images() -> None:
    batches = list(loader_of_views(Ramps(100), 3))
    assert [len(images) for images, _ in batches] == [126, 126, 48]
    assert all(len(images) == len(labels) for images, labels in batches)
    assert len(next(iter(loader_of_views(Ramps(3), 500)))[0]) == 500


@pytest.mark.parametrize(
    "item", [(torch.zeros(5), 0), (torch.zeros(3, 4, 4, dtype=torch.uint8), 0), ("text", 0)]
)
def test_items_that_are_no_images_have_no_views(item: tuple[object, int]) -> None:
    with pytest.raises(InputError, match="`views` 1 takes them as they are"):
        Views([item], 2)[1]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("images", "harmless", "count"),
    [(50, True, 4), (128, True, 4), (200, True, 2), (513, True, 1), (50, False, 1)],
)
def test_views_that_nobody_asked_for_are_taken_of_few_images_where_they_are_harmless(
    images: int, harmless: bool, count: int
) -> None:
    assert views_unasked(images, harmless=harmless) == count
