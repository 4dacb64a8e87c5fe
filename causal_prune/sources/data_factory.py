"""`data=path/file.py:factory`: data sets of the user's own."""

from collections.abc import Mapping, Sized
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset
from torchvision.datasets import DatasetFolder

from causal_prune.data import STANDARD_TASK, Data, Images, Pairs, Task, paired, width_of, with_pairs
from causal_prune.errors import InputError, one_line
from causal_prune.progress import track
from causal_prune.sources.factories import call_factory
from causal_prune.sources.splits import CUT_FROM_TRAINING, Labels, Splits, labelled_set, split_validation

FORMS = "a Data, {'train', 'test'[, 'validation'][, 'classes'][, 'task']}, (train, test) or (train, validation, test)"


def read_factory(spec: str, *, within: Path | None = None) -> Data | Splits:
    """Call the user's factory and check what it returns.

    Data sets have a length and items (float32 image of shape (C, H, W), label), or mappings with an entry `image` and
    an entry `label`; they scale and normalise by themselves. Labels are ints that name classes, or one-hot, unless a
    `task` says something else. Where no validation split is returned, it is
    cut from `train`.

    Args:
        spec: `path/file.py:factory` or `package.module:factory`, called without arguments.
        within: The folder from which a relative path counts; None for the working folder.

    Returns:
        The `Data` that the factory returned, or the splits.

    Raises:
        InputError: If the factory fails, or what it returns has another form.

    Cost:
        Every item is read once, to know its label, unless a `Data` is returned.
    """
    made = call_factory(spec, {}, option="data", within=within)
    if isinstance(made, Data):
        splits = {
            "train": made.train,
            "validation": made.validation,
            "calibration": made.calibration,
            "test": made.test,
        }
        for split, part in splits.items():
            _read_item(_in_pairs(part, f"{spec}: {split}"), 0, f"{spec}: {split}", made.task)
        return with_pairs(made)
    parts, names, task = _parts(made, spec)
    parts = {split: _in_pairs(part, f"{spec}: {split}") for split, part in parts.items()}
    read = _Read(spec, task)
    labels = {split: read.labels(part, split) for split, part in parts.items()}
    names = names or tuple(map(str, range(read.width or 0)))
    classes = _classes(labels, names, spec) if task.has_classes else ()
    train, test = (labelled_set(parts[split], labels[split]) for split in ("train", "test"))
    if "validation" in parts:
        return Splits(
            train, labelled_set(parts["validation"], labels["validation"]), test, classes, spec, task
        )
    train, validation = split_validation(train, classes, task)
    return Splits(train, validation, test, classes, f"{spec} ({CUT_FROM_TRAINING})", task)


def _classes(labels: Mapping[str, Labels], names: tuple[str, ...], spec: str) -> tuple[str, ...]:
    highest = max(int(values.max()) for values in labels.values())
    classes = names or tuple(str(label) for label in range(highest + 1))
    for split, values in labels.items():
        outside = values[(values < 0) | (values >= len(classes))]
        if len(outside):
            raise InputError(f"data: {spec}: {split} label {outside[0]} is outside 0..{len(classes) - 1}")
    return classes


def _parts(made: object, spec: str) -> tuple[dict[str, Images], tuple[str, ...], Task]:
    if isinstance(made, tuple) and len(made) in (2, 3):
        names = ("train", "test") if len(made) == 2 else ("train", "validation", "test")
        return dict(zip(names, made, strict=True)), (), STANDARD_TASK
    if not isinstance(made, Mapping):
        raise InputError(f"data: {spec} returned a {type(made).__name__}, not {FORMS}")
    for key in ("train", "test"):
        if key not in made:
            raise InputError(f"data: {spec} returned no '{key}'; it must return {FORMS}")
    for key in made:
        if key not in ("train", "validation", "test", "classes", "task"):
            raise InputError(f"data: {spec} returned an unknown '{key}'; it must return {FORMS}")
    classes = tuple(str(name) for name in made.get("classes", ()))
    task = made.get("task", STANDARD_TASK)
    if not isinstance(task, Task):
        raise InputError(f"data: {spec}: 'task' is a {type(task).__name__}, not a Task of causal_prune.data")
    parts = {key: cast(Images, part) for key, part in made.items() if key not in ("classes", "task")}
    return parts, classes, task


def _length(part: Images, place: str) -> int:
    try:
        size = len(cast(Sized, part))
    except TypeError as cause:
        raise InputError(f"data: {place} has no length; a map-style data set is needed") from cause
    if size < 1:
        raise InputError(f"data: {place} is empty")
    return size


def _in_pairs(part: Images, place: str) -> Images:
    size = _length(part, place)
    try:
        return paired(part, place)
    except InputError:
        raise
    except Exception as cause:  # a user's data set may raise anything
        raise InputError(f"data: {place}: item 0 of {size} raised {one_line(cause)}") from cause


class _Read:
    """What was read of the splits of a factory: all labels, and that the images are of one shape."""

    def __init__(self, spec: str, task: Task) -> None:
        self.spec, self.task = spec, task
        self.first: tuple[str, tuple[int, ...]] | None = None
        self.width: int | None = None

    def labels(self, part: Images, split: str) -> Labels:
        place = f"{self.spec}: {split}"
        positions = track(range(_length(part, place)), "check data", unit="image")
        return np.array([self._label(part, position, split) for position in positions])

    def _label(self, part: Images, position: int, split: str) -> float:
        shape, given, number = _read_item(part, position, f"{self.spec}: {split}", self.task)
        if self.first is None:
            self.first = _called(part, position, split), shape
            self.width = width_of(given) if self.task.has_classes else None
        if shape != self.first[1]:
            raise InputError(
                f"data: {self.spec}: {_called(part, position, split)} is {_comma(shape)} (channels,height,width) but "
                f"{self.first[0]} is {_comma(self.first[1])}; have the factory resize them to one shape"
            )
        return number


def _called(part: object, position: int, split: str) -> str:
    """An item in an error: its file, where the data set is a folder of torchvision's."""
    while isinstance(part, Subset | Pairs):
        if isinstance(part, Subset):
            position = part.indices[position]
        part = part.dataset if isinstance(part, Subset) else part.items
    if isinstance(part, DatasetFolder):
        return str(part.samples[position][0])
    return f"image {position} of {split}"


def _comma(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape))


def _read_item(part: Images, position: int, place: str, task: Task) -> tuple[tuple[int, ...], object, float]:
    """The shape of an image, its label as it was given, and the number that it stands for."""
    try:
        item: object = part[position]
    except Exception as cause:  # a user's data set may raise anything
        size = _length(part, place)
        raise InputError(f"data: {place}: item {position} of {size} raised {one_line(cause)}") from cause
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise InputError(f"data: {place}: item {position} is no pair of an image and a label")
    image, label = item
    if not isinstance(image, Tensor) or image.dtype != torch.float32 or image.ndim != 3:
        form = (
            f"{image.dtype} of shape {tuple(image.shape)}"
            if isinstance(image, Tensor)
            else type(image).__name__
        )
        raise InputError(f"data: {place}: image {position} is {form}, not float32 of shape (C, H, W)")
    number = task.label(label)
    if number is None:
        raise InputError(
            f"data: {place}: label {position} is a {type(label).__name__}, not {task.label_form}"
        )
    return tuple(image.shape), label, number
