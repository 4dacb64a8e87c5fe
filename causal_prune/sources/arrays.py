"""Data sets that fit into memory: scikit-learn's digits, `.npz` files and torchvision's."""

import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from causal_prune.data import classes_in
from causal_prune.errors import InputError, nearest, one_line
from causal_prune.sources.factories import anchored
from causal_prune.sources.images import DEEP_WHITE, WHITE, FormOf, ImageArrays, InputFormat
from causal_prune.sources.splits import (
    CUT_FROM_TRAINING,
    LabelledSet,
    Labels,
    Splits,
    labelled_set,
    split_off,
    split_validation,
)

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
VALIDATION_ARRAYS = ("val_images", "val_labels")
DEPTHS: dict[str, float] = {"uint8": WHITE, "uint16": DEEP_WHITE}
"""Types of pixels, and what becomes 1."""
# These share one interface: (root, train, download) in, `data`, `targets` and `classes` out.
MIRRORED = ("CIFAR10", "CIFAR100")
"""Of these, mirror images and zoomed crops show what the images show."""
TORCHVISION = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST")
DIGITS_NOISE = 0.3
DIGITS_TEST_SHARE = 0.2
DIGITS_VALIDATION_SHARE = 0.15


def read_digits(*, form_of: FormOf) -> Splits:
    """Read scikit-learn's 1,797 handwritten digits, 8x8 grey pixels of 0 to 16.

    Args:
        form_of: Gives the format of the inputs for the shape of an image.

    Returns:
        A stratified 65/15/20 % split.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    return _split_digits(digits, digits.images.astype(np.uint8), form_of, "8x8 grey")


def read_noisy_digits(*, form_of: FormOf) -> Splits:
    """Read the same digits under normal noise, which makes them hard for a small network.

    Pixels of 0 to 1 have noise of a standard deviation of `DIGITS_NOISE`, the same in every run, and are then cut to
    0 to 1 and stored as 0 to 255.

    Args:
        form_of: Gives the format of the inputs for the shape of an image.

    Returns:
        The split of `read_digits`.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    noise = np.random.default_rng(0).normal(0, DIGITS_NOISE, digits.images.shape)
    noisy = np.rint(255 * np.clip(digits.images / 16.0 + noise, 0, 1)).astype(np.uint8)
    return _split_digits(digits, noisy, form_of, f"8x8 grey, with noise of {DIGITS_NOISE}")


def _split_digits(digits: Any, pixels: npt.NDArray[np.uint8], form_of: FormOf, told: str) -> Splits:
    images = _channels_first(pixels)
    labels: Labels = digits.target.astype(np.int64)
    classes = tuple(str(name) for name in digits.target_names)
    whole = labelled_set(ImageArrays(images, labels, form_of((1, 8, 8))), labels)
    rest, test = split_off(whole, round(DIGITS_TEST_SHARE * len(labels)))
    train, validation = split_off(rest, round(DIGITS_VALIDATION_SHARE * len(labels)))
    name = f"digits of scikit-learn ({told}; stratified train/validation/test split of 65/15/20 %)"
    return Splits(train, validation, test, classes, name)


def read_npz(path: Path, *, name: str, form_of: FormOf) -> Splits:
    """Read `train_images`, `train_labels`, `test_images`, `test_labels` and, if it has them, `val_*` of an `.npz` file.

    Images are uint8 or uint16 of shape (N, H, W, C) or (N, H, W), scaled to [0, 1]; labels integers of shape (N,) or
    (N, 1) from 0, or one-hot of shape (N, classes).

    Args:
        path: The file.
        name: Description of the data.
        form_of: Gives the format of the inputs for the shape of an image.

    Returns:
        The splits; without `val_*`, validation is cut from the training images.

    Raises:
        InputError: If the file is missing or damaged, or an array is missing or not of this form.
    """
    if not path.is_file():
        raise InputError(f"data: there is no file {path}")
    arrays = _loaded(path)
    splits = ("train", "val", "test") if VALIDATION_ARRAYS[0] in arrays else ("train", "test")
    for split in splits:
        _check_images(arrays[f"{split}_images"], f"{path}: {split}_images")
        arrays[f"{split}_labels"] = _labels(arrays[f"{split}_labels"], f"{path}: {split}_labels")
    depth = str(arrays["train_images"].dtype)
    for split in splits:
        if (other := str(arrays[f"{split}_images"].dtype)) != depth:
            raise InputError(f"data: {path}: {split}_images is {other} but train_images is {depth}")
    present = np.unique(arrays["train_labels"])
    present = present[present >= 0]
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if len(gaps):
        found = f"go up to {present[-1]} but hold no image of class {gaps[0]}"
        raise InputError(f"data: {path}: train_labels {found}; classes count from 0 without gaps")
    classes = tuple(str(label) for label in present)

    def scaled(shape: tuple[int, int, int]) -> InputFormat:
        return replace(form_of(shape), white=DEPTHS[depth])

    return _splits(arrays, classes, place=str(path), name=name, form_of=scaled)


def _loaded(path: Path) -> dict[str, npt.NDArray[np.generic]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            more = VALIDATION_ARRAYS if any(key in content for key in VALIDATION_ARRAYS) else ()
            missing = [key for key in (*ARRAYS, *more) if key not in content]
            if missing:
                held = ", ".join(content) or "none"
                raise InputError(f"data: {path} has no array {', '.join(missing)} (it has {held})")
            return {key: content[key] for key in (*ARRAYS, *more)}
    except (
        OSError,
        ValueError,
        EOFError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
    ) as cause:
        raise InputError(f"data: {path} is no readable npz file: {one_line(cause)}") from cause


def _labels(labels: npt.NDArray[np.generic], place: str) -> npt.NDArray[np.generic]:
    """Labels of shape (N,), also where they stand in a column or are one-hot."""
    plain = {"i": np.int64, "u": np.int64, "f": np.float64, "b": np.bool_}.get(labels.dtype.kind)
    found = None if plain is None else classes_in(torch.from_numpy(labels.astype(plain)))
    if found is not None:
        return found.numpy()
    form = f"{labels.dtype} of shape {labels.shape}"
    raise InputError(
        f"data: {place} is {form}; integers of shape (N,) or (N, 1) are needed, or rows of zeros and a single one"
    )


def read_torchvision(place: str, *, name: str, form_of: FormOf, within: Path | None = None) -> Splits:
    """Read a data set of torchvision from a folder; nothing is downloaded.

    Args:
        place: `NAME:ROOT`.
        name: Description of the data.
        form_of: Gives the format of the inputs for the shape of an image.
        within: The folder from which a relative root counts; None for the working folder.

    Returns:
        The splits; validation is cut from the training images.

    Raises:
        InputError: If the name is not known, or the files are missing or damaged.
    """
    from torchvision import datasets

    kind, _, root = place.partition(":")
    if kind not in TORCHVISION:
        known = nearest(kind, list(TORCHVISION)) or f"; known are {', '.join(TORCHVISION)}"
        raise InputError(f"data: torchvision:{kind} is not a data set that can be read{known}")
    if not root:
        raise InputError(f"data: '{name}' names no folder; write torchvision:{kind}:ROOT")
    factory: Callable[..., Any] = vars(datasets)[kind]
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    classes: tuple[str, ...] = ()
    for split in ("train", "test"):
        try:
            part = factory(str(anchored(root, within)), train=split == "train", download=False)
        except Exception as cause:  # missing and damaged files raise RuntimeError, OSError, ValueError, ...
            code = f"import torchvision; torchvision.datasets.{kind}({root!r}, download=True)"
            raise InputError(
                f"data: {kind} cannot be read from {root} ({one_line(cause)}); "
                f'fetch it with: python -c "{code}"'
            ) from cause
        arrays[f"{split}_images"] = np.asarray(part.data)
        arrays[f"{split}_labels"] = np.asarray(part.targets)
        classes = tuple(part.classes)
    found = _splits(arrays, classes, place=root, name=name, form_of=form_of)
    return replace(found, harmless_views=kind in MIRRORED)


def _splits(
    arrays: dict[str, npt.NDArray[np.generic]],
    classes: tuple[str, ...],
    *,
    place: str,
    name: str,
    form_of: FormOf,
) -> Splits:
    found = [split for split in ("train", "val", "test") if f"{split}_images" in arrays]
    images = {split: _channels_first(arrays[f"{split}_images"]) for split in found}
    channels, height, width = images["train"].shape[1:]
    form = form_of((channels, height, width))
    for split in found:
        if images[split].shape[1:] != images["train"].shape[1:]:
            shapes = " and ".join(str(arrays[f"{each}_images"].shape[1:]) for each in (split, "train"))
            raise InputError(f"data: {place}: {split} and training images differ in shape: {shapes}")
    parts: dict[str, LabelledSet] = {}
    for split in found:
        labels = arrays[f"{split}_labels"].astype(np.int64)
        if len(images[split]) != len(labels):
            sizes = f"{len(images[split]):,} images but {len(labels):,} labels"
            raise InputError(f"data: {place}: the {split} arrays hold {sizes}")
        outside = labels[(labels < 0) | (labels >= len(classes))]
        if len(outside):
            raise InputError(f"data: {place}: {split} label {outside[0]} is outside 0..{len(classes) - 1}")
        parts[split] = labelled_set(ImageArrays(images[split], labels, form), labels)
    if "val" in parts:
        return Splits(
            parts["train"], parts["val"], parts["test"], classes, f"{name} (validation: val_images)"
        )
    train, validation = split_validation(parts["train"], classes)
    return Splits(train, validation, parts["test"], classes, f"{name} ({CUT_FROM_TRAINING})")


def _check_images(images: npt.NDArray[np.generic], place: str) -> None:
    if str(images.dtype) not in DEPTHS:
        needed = "uint8 from 0 to 255 is needed, or uint16 from 0 to 65535"
        raise InputError(f"data: {place} is {images.dtype}; {needed}")
    if images.ndim not in (3, 4) or min(images.shape, default=0) < 1:
        raise InputError(f"data: {place} has shape {images.shape}; (N,H,W,C) or (N,H,W) is needed")
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        raise InputError(f"data: {place} has shape {images.shape}; channels must come last, as (N,H,W,C)")


def _channels_first(images: npt.NDArray[np.generic]) -> Tensor:
    channels_last = images if images.ndim == 4 else images[..., None]
    if channels_last.dtype == np.uint16:
        channels_last = channels_last.astype(np.int32)  # torch has few operations for uint16
    return torch.from_numpy(np.ascontiguousarray(channels_last)).permute(0, 3, 1, 2).contiguous()
