"""The splits of one set of images, and batches of them."""

from collections.abc import Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from causal_prune.data.classification import STANDARD_TASK
from causal_prune.data.task import Task
from causal_prune.errors import InputError
from causal_prune.network.running import IMAGE_KEYS, LABEL_KEYS

Images: TypeAlias = Dataset[tuple[Tensor, float]]
BATCH = 128
JUDGED_IMAGES = 1000


class Pairs(Dataset[tuple[Tensor, float]]):
    """A data set whose items are mappings, as one of pairs.

    Args:
        items: A map-style data set.
        image: The name of the image in an item.
        label: The name of its label.
    """

    def __init__(self, items: Dataset[Any], image: str, label: str) -> None:
        self.items = items
        self.image, self.label = image, label

    def __len__(self) -> int:
        """Return the number of items."""
        return len(cast(Sized, self.items))

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        """Return an image and its label.

        Args:
            index: Position, below the number of items.

        Returns:
            Both, as the item holds them.
        """
        item = self.items[index]
        return item[self.image], item[self.label]


def paired(items: Dataset[Any], place: str) -> Images:
    """A data set of the user's as one of pairs (image, label).

    Args:
        items: A map-style data set of at least one item, of pairs or of mappings.
        place: What it is, for the error.

    Returns:
        The data set itself, or its mappings as pairs.

    Raises:
        InputError: If its first item is a mapping in which image or label cannot be told.
    """
    first = items[0]
    if not isinstance(first, Mapping):
        return cast(Images, items)
    images, labels = ([key for key in first if key in names] for names in (IMAGE_KEYS, LABEL_KEYS))
    if len(images) != 1 or len(labels) != 1:
        raise InputError(
            f"data: {place}: an item has {', '.join(map(str, first))}; give (image, label), or name one 'image' and "
            "one 'label'"
        )
    return Pairs(items, images[0], labels[0])


@dataclass(frozen=True)
class Data:
    """The splits of one set of labelled images; every item is (float32 image of shape (C, H, W), label).

    Attributes:
        train: What networks are trained on.
        validation: What choices are made on; never trained on.
        calibration: What statistics are estimated on; a part of `train`, its labels are not used.
        test: What is read once per arm, at the end.
        classes: The name of each class, in the order of the labels; empty for a task without classes.
        name: What the data are and how they were split, for the report.
        calibration_source: Where the calibration images come from, for the report.
        task: What the labels are, and what is asked of a network.
        harmless_views: Whether mirror images and zoomed crops show what the images show (see `Views`).
        mean: What was subtracted from pixels in 0..1, per channel, so that pictures can be shown in their colours;
            empty where that is not known.
        std: What they were divided by.
    """

    train: Images
    validation: Images
    calibration: Images
    test: Images
    classes: tuple[str, ...]
    name: str
    calibration_source: str
    task: Task = STANDARD_TASK
    harmless_views: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def split(self) -> dict[str, int]:
        """The number of images of each split."""
        parts = {
            "train": self.train,
            "validation": self.validation,
            "calibration": self.calibration,
            "test": self.test,
        }
        return {name: len(cast(Sized, part)) for name, part in parts.items()}


def with_pairs(data: Data) -> Data:
    """Data whose items may be mappings, as data of pairs.

    Args:
        data: Of which the first calibration image is looked at.

    Returns:
        `data` itself where that is a pair.

    Raises:
        InputError: If it is a mapping in which image or label cannot be told.
    """
    if not isinstance(cast(Dataset[Any], data.calibration)[0], Mapping):
        return data
    return replace(
        data,
        train=paired(data.train, "train"),
        validation=paired(data.validation, "validation"),
        calibration=paired(data.calibration, "calibration"),
        test=paired(data.test, "test"),
    )


def loader(
    images: Images, *, shuffle: bool = False, seed: int = 0, batch: int = BATCH
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of a split.

    Args:
        images: The split.
        shuffle: Whether the order changes with every epoch.
        seed: Of the order.
        batch: Images per batch.

    Returns:
        A loader of (images, labels).
    """
    generator = torch.Generator().manual_seed(seed)
    # a last batch of one image has no variance and cannot train a batch norm
    ragged = shuffle and len(images) % batch == 1 and len(images) > batch  # type: ignore[arg-type]
    return DataLoader(
        cast(Dataset[tuple[Tensor, Tensor]], images),
        batch,
        shuffle=shuffle,
        generator=generator,
        drop_last=ragged,
        collate_fn=_collated,
    )


def _collated(items: list[Any]) -> Any:
    shapes = [
        tuple(item[0].shape) for item in items if isinstance(item, tuple) and isinstance(item[0], Tensor)
    ]
    other = next((shape for shape in shapes if shape != shapes[0]), None)
    if other is not None:
        raise InputError(
            f"data: images of shape {shapes[0]} and {other} stand in one batch; resize them to one shape"
        )
    return default_collate(items)


def held_out(validation: Images, most: int = JUDGED_IMAGES) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of labelled validation images, for importances that ask for the loss.

    Args:
        validation: Validation images.
        most: How many are read at most; they are spread evenly over the split.

    Returns:
        A loader of (images, labels).
    """
    size = len(validation)  # type: ignore[arg-type]
    return loader(Subset(validation, evenly(size, most)))


def evenly(size: int, most: int) -> list[int]:
    """Some positions of many, evenly spread.

    Args:
        size: How many there are.
        most: How many are taken at most.

    Returns:
        Ascending positions below `size`, the first among them.

    Example:
        >>> evenly(10, 4), evenly(2, 4)
        ([0, 2, 5, 7], [0, 1])
    """
    count = min(most, size)
    return [k * size // count for k in range(count)]
