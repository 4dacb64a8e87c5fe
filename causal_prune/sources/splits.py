"""Stratified splits: validation and calibration images are drawn from training data only."""

from collections.abc import Sized
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch.utils.data import Subset

from causal_prune.data import STANDARD_TASK, Data, Images, Task
from causal_prune.errors import InputError

Labels = npt.NDArray[Any]
"""Labels of a data set, or positions in it."""
# Splits do not follow the seed of a run, so that runs are compared on the same images.
SPLIT_SEED = 0
VALIDATION_SHARE = 0.1
CUT_FROM_TRAINING = f"validation: a stratified {VALIDATION_SHARE:.0%} of the training images"


@dataclass(frozen=True)
class LabelledSet:
    """A data set and the labels of its items, known without reading the images.

    Attributes:
        images: The data set.
        labels: Its labels, shape (N,).
    """

    images: Images
    labels: Labels

    def part(self, chosen: Labels) -> "LabelledSet":
        """Return the items at some positions.

        Args:
            chosen: Positions, shape (M,).

        Returns:
            A view of these items.
        """
        return LabelledSet(Subset(self.images, chosen.tolist()), self.labels[chosen])


@dataclass(frozen=True)
class Splits:
    """What a source of data yields, before the calibration images are drawn.

    Attributes:
        train: The training split.
        validation: The validation split.
        test: The test split.
        classes: Names of the classes.
        name: What the data are and how they were split.
        task: What the labels are.
        harmless_views: Whether mirror images and zoomed crops show what the images show.
    """

    train: LabelledSet
    validation: LabelledSet
    test: LabelledSet
    classes: tuple[str, ...]
    name: str
    task: Task = STANDARD_TASK
    harmless_views: bool = False


def labelled_set(images: Images, labels: Labels) -> LabelledSet:
    """Join a data set with its labels.

    Args:
        images: The data set.
        labels: Its labels, shape (N,).

    Returns:
        Both.

    Raises:
        InputError: If their lengths differ.
    """
    size = len(cast(Sized, images))
    if size != len(labels):
        raise InputError(f"data: {size} images but {len(labels)} labels")
    return LabelledSet(images, labels)


def draw_stratified(labels: Labels, count: int, *, seed: int) -> Labels:
    """Draw positions so that every class has its share.

    The k-th of n images of a class, in random order, gets the key (k + u) / n, with one u in [0, 1) per
    class; the `count` least keys are drawn. So each class has its share up to rounding, for every count,
    and a smaller draw is a part of a larger one.

    Args:
        labels: Class of each image, shape (N,).
        count: How many to draw, 0 to N.
        seed: Of the random order.

    Returns:
        The positions, ascending, shape (count,).

    Example:
        >>> draw_stratified(np.array([0, 0, 0, 0, 1, 1]), 3, seed=0).size
        3
    """
    generator = np.random.default_rng(seed)
    keys = np.empty(len(labels))
    for name in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == name))
        keys[members] = (np.arange(len(members)) + generator.random()) / len(members)
    return np.sort(np.argsort(keys, kind="stable")[:count]).astype(np.int64)


def split_off(
    whole: LabelledSet, count: int, *, seed: int = SPLIT_SEED, task: Task = STANDARD_TASK
) -> tuple[LabelledSet, LabelledSet]:
    """Cut a stratified part off a data set.

    Args:
        whole: The data set.
        count: Items of the part that is cut off.
        seed: Of the draw.
        task: What the labels are.

    Returns:
        What stays, and what was cut off.
    """
    chosen = draw_stratified(task.strata(whole.labels), count, seed=seed)
    rest = np.setdiff1d(np.arange(len(whole.labels)), chosen)
    return whole.part(rest), whole.part(chosen)


def split_validation(
    train: LabelledSet, classes: tuple[str, ...], task: Task = STANDARD_TASK
) -> tuple[LabelledSet, LabelledSet]:
    """Cut a stratified tenth off the training images, of at least one image per class.

    Args:
        train: All training images.
        classes: Names of the classes; empty for a task without.
        task: What the labels are.

    Returns:
        The training and the validation split.

    Raises:
        InputError: If a class has fewer than two images.
    """
    counts = np.bincount(task.strata(train.labels), minlength=len(classes))
    poorest = int(counts.argmin())
    if counts[poorest] < 2:
        name = f"class '{classes[poorest]}'" if classes else "a tenth of the range of the labels"
        raise InputError(
            f"data: {name} has {counts[poorest]} training images; "
            "at least 2 are needed, one to train on and one to validate on"
        )
    count = max(round(VALIDATION_SHARE * len(train.labels)), len(counts))
    return split_off(train, count, task=task)


def with_calibration(splits: Splits, *, calibration_images: int, seed: int) -> Data:
    """Draw the calibration images from the training split and join everything.

    Args:
        splits: The three splits.
        calibration_images: How many images to calibrate on, >= 1; more than there are means all.
        seed: Of the draw.

    Returns:
        The data.
    """
    train = splits.train
    size = len(train.labels)
    source = f"{calibration_images:,} images of the training split"
    if calibration_images >= size:
        asked = f"; {calibration_images:,} were asked for" if calibration_images > size else ""
        source = f"all {size:,} images of the training split{asked}"
    chosen = draw_stratified(splits.task.strata(train.labels), calibration_images, seed=seed)
    return Data(
        train=train.images,
        validation=splits.validation.images,
        calibration=train.part(chosen).images,
        test=splits.test.images,
        classes=splits.classes,
        name=splits.name,
        calibration_source=source,
        task=splits.task,
        harmless_views=splits.harmless_views,
    )
