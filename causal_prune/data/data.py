"""The splits of one set of images, and batches of them."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from causal_prune.data.classification import STANDARD_TASK
from causal_prune.data.task import Task

Images: TypeAlias = Dataset[tuple[Tensor, float]]
BATCH = 128
JUDGED_IMAGES = 1000


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
    """

    train: Images
    validation: Images
    calibration: Images
    test: Images
    classes: tuple[str, ...]
    name: str
    calibration_source: str
    task: Task = STANDARD_TASK

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
    return DataLoader(images, batch, shuffle=shuffle, generator=generator, drop_last=ragged)  # type: ignore[arg-type]


def held_out(validation: Images, most: int = JUDGED_IMAGES) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of labelled validation images, for importances that ask for the loss.

    Args:
        validation: Validation images.
        most: How many are read at most; they are spread evenly over the split.

    Returns:
        A loader of (images, labels).
    """
    size = len(validation)  # type: ignore[arg-type]
    count = min(most, size)
    return loader(Subset(validation, [k * size // count for k in range(count)]))
