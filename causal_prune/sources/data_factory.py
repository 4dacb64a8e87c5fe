"""`--data path/file.py:factory`: data sets of the user's own."""

from collections.abc import Mapping, Sized
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from causal_prune.data import Data
from causal_prune.errors import InputError, one_line
from causal_prune.progress import track
from causal_prune.sources.factories import call_factory
from causal_prune.sources.splits import CUT_FROM_TRAINING, Labels, Splits, cut_validation, labelled

Items = Dataset[tuple[Tensor, int]]
FORMS = "a Data, {'train', 'test'[, 'validation'][, 'classes']}, (train, test) or (train, validation, test)"


def read_factory(spec: str) -> Data | Splits:
    """Call the user's factory and check what it returns.

    Data sets have a length and items (float32 image of shape (C, H, W), int label); they scale and
    normalise by themselves. Where no validation split is returned, it is cut from `train`.

    Args:
        spec: `path/file.py:factory` or `package.module:factory`, called without arguments.

    Returns:
        The `Data` that the factory returned, or the splits.

    Raises:
        InputError: If the factory fails, or what it returns has another form.

    Cost:
        Every item is read once, to know its label, unless a `Data` is returned.
    """
    made = call_factory(spec, {}, flag="--data")
    if isinstance(made, Data):
        for split, part in (
            ("train", made.train),
            ("validation", made.validation),
            ("calibration", made.calibration),
            ("test", made.test),
        ):
            _read_item(part, 0, f"{spec}: {split}", _length(part, f"{spec}: {split}"))
        return made
    parts, names = _parts(made, spec)
    labels = {split: _labels(part, f"{spec}: {split}") for split, part in parts.items()}
    highest = max(int(values.max()) for values in labels.values())
    classes = names or tuple(str(label) for label in range(highest + 1))
    for split, values in labels.items():
        outside = values[(values < 0) | (values >= len(classes))]
        if len(outside):
            raise InputError(f"--data: {spec}: {split} label {outside[0]} is outside 0..{len(classes) - 1}")
    train, test = (labelled(parts[split], labels[split]) for split in ("train", "test"))
    if "validation" in parts:
        return Splits(train, labelled(parts["validation"], labels["validation"]), test, classes, spec)
    train, validation = cut_validation(train, classes)
    return Splits(train, validation, test, classes, f"{spec} ({CUT_FROM_TRAINING})")


def _parts(made: object, spec: str) -> tuple[dict[str, Items], tuple[str, ...]]:
    if isinstance(made, tuple) and len(made) in (2, 3):
        names = ("train", "test") if len(made) == 2 else ("train", "validation", "test")
        return dict(zip(names, made, strict=True)), ()
    if not isinstance(made, Mapping):
        raise InputError(f"--data: {spec} returned a {type(made).__name__}, not {FORMS}")
    for key in ("train", "test"):
        if key not in made:
            raise InputError(f"--data: {spec} returned no '{key}'; it must return {FORMS}")
    for key in made:
        if key not in ("train", "validation", "test", "classes"):
            raise InputError(f"--data: {spec} returned an unknown '{key}'; it must return {FORMS}")
    classes = tuple(str(name) for name in made.get("classes", ()))
    return {key: cast(Items, part) for key, part in made.items() if key != "classes"}, classes


def _length(part: Items, place: str) -> int:
    try:
        size = len(cast(Sized, part))
    except TypeError as cause:
        raise InputError(f"--data: {place} has no length; a map-style data set is needed") from cause
    if size < 1:
        raise InputError(f"--data: {place} is empty")
    return size


def _labels(part: Items, place: str) -> Labels:
    size = _length(part, place)
    positions = track(range(size), "check data", unit="image")
    return np.array([_read_item(part, position, place, size) for position in positions], dtype=np.int64)


def _read_item(part: Items, position: int, place: str, size: int) -> int:
    try:
        item: object = part[position]
    except Exception as cause:  # a user's data set may raise anything
        raise InputError(f"--data: {place}: item {position} of {size} raised {one_line(cause)}") from cause
    if not isinstance(item, tuple) or len(item) != 2:
        raise InputError(f"--data: {place}: item {position} is no pair of an image and a label")
    image, label = item
    if not isinstance(image, Tensor) or image.dtype != torch.float32 or image.ndim != 3:
        form = (
            f"{image.dtype} of shape {tuple(image.shape)}"
            if isinstance(image, Tensor)
            else type(image).__name__
        )
        raise InputError(f"--data: {place}: image {position} is {form}, not float32 of shape (C, H, W)")
    if isinstance(label, Tensor) and label.ndim == 0 and not label.is_floating_point():
        label = label.item()
    if not isinstance(label, (int, np.integer)):
        raise InputError(f"--data: {place}: label {position} is a {type(label).__name__}, not an int")
    return int(label)
