"""Batches of a split: their order, their last one, and images held out."""

import torch
from torch.utils.data import TensorDataset

from causal_prune.data.data import Data, held_out, loader
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
