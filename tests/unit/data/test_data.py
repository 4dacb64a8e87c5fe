"""Batches of a split: their order, their last one, and images held out."""

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from causal_prune.data.data import Data, held_out, loader, paired, with_pairs
from causal_prune.errors import InputError
from tests.unit.counted_images import Counted


def test_a_loader_keeps_the_order_unless_it_shuffles_by_its_seed() -> None:
    images = Counted(10, 1)
    batches = [labels.tolist() for _, labels in loader(images, batch=4)]
    assert list(map(len, batches)) == [4, 4, 2]
    assert [label for batch in batches for label in batch] == images.labels.tolist()
    state = torch.get_rng_state()
    shuffled = [loader(images, shuffle=True, seed=seed, batch=4) for seed in (1, 1, 2)]
    orders = [torch.cat([x[:, 0, 0, 0] for x, _ in batches]) for batches in shuffled]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0].sort().values, images.images[:, 0, 0, 0].sort().values)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_last_batch_of_one_image_is_dropped_in_training_only() -> None:
    nine = Counted(9, 1)
    assert [len(x) for x, _ in loader(nine, shuffle=True, batch=4)] == [4, 4]
    assert [len(x) for x, _ in loader(nine, batch=4)] == [4, 4, 1]
    assert [len(x) for x, _ in loader(Counted(1, 1), shuffle=True, batch=4)] == [1]
    assert [len(x) for x, _ in loader(Counted(10, 1), shuffle=True, batch=4)] == [4, 4, 2]


def test_images_that_judge_are_spread_evenly_over_the_split() -> None:
    split = TensorDataset(torch.arange(10.0), torch.arange(10))
    assert torch.cat([labels for _, labels in held_out(split, most=4)]).tolist() == [0, 2, 5, 7]
    assert torch.cat([labels for _, labels in held_out(split)]).tolist() == list(range(10))


def test_splits_are_counted() -> None:
    parts = [Counted(size, 1) for size in (4, 3, 2, 1)]
    data = Data(*parts, ("a",), "noise", "two images")
    assert data.split == {"train": 4, "validation": 3, "calibration": 2, "test": 1}


class Named(Dataset[Any]):
    """Two images as mappings."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: torch.full((1, 2, 2), float(index)) if key == "image" else index for key in self.keys}


def test_mappings_become_pairs_and_pairs_stay() -> None:
    images = Counted(4, 1)
    data = Data(images, images, images, images, ("a",), "noise", "two images")
    assert with_pairs(data) is data
    table = Named("id", "image", "label")
    found = with_pairs(Data(table, table, table, table, ("a", "b"), "noise", "all"))
    assert found.split == {"train": 2, "validation": 2, "calibration": 2, "test": 2}
    pixels, labels = next(iter(loader(found.test)))
    assert pixels[:, 0, 0, 0].tolist() == [0, 1] and labels.tolist() == [0, 1]
    with pytest.raises(InputError, match="^data: train: an item has image, target, label; give"):
        paired(Named("image", "target", "label"), "train")


def test_images_of_two_shapes_in_a_batch_are_refused() -> None:
    images: Any = [(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 3, 2), 1)]
    text = r"^data: images of shape \(1, 2, 2\) and \(1, 3, 2\) stand in one batch; resize them to one shape$"
    with pytest.raises(InputError, match=text):
        next(iter(loader(images)))
