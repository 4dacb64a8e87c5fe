"""Data sets that fit into memory: digits, npz files and torchvision's."""

import re
import struct
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.datasets import load_digits

from causal_prune.errors import InputError
from causal_prune.sources.arrays import (
    TORCHVISION,
    read_digits,
    read_npz,
    read_torchvision,
)
from causal_prune.sources.images import InputFormat, input_format
from causal_prune.sources.splits import Splits
from tests.unit.sources.reading import images_of, labels_of

Arrays = dict[str, npt.NDArray[np.generic]]
AS_STORED = partial(input_format, mean=None, std=None, input_shape=None)


def test_digits_are_split_without_overlap() -> None:
    splits = read_digits(form_of=partial(AS_STORED, white=16.0))
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part.labels) for part in parts] == [1168, 270, 359]
    assert splits.classes == tuple("0123456789") and "65/15/20 %" in splits.name
    images = [images_of(part.images) for part in parts]
    assert images[0].shape[1:] == (1, 8, 8) and float(images[0].min()) == 0 and float(images[0].max()) == 1
    found = sorted(image.numpy().tobytes() for part in images for image in part)
    stored = (load_digits().images / 16).astype(np.float32)
    assert found == sorted(image.tobytes() for image in stored), "every image stands in one split"
    for part in parts:
        counts = np.bincount(part.labels, minlength=10)
        assert counts.max() - counts.min() <= 0.06 * counts.sum() + 1
        assert labels_of(part.images) == part.labels.tolist()


@pytest.fixture
def arrays() -> Arrays:
    generator = np.random.default_rng(2)
    return {
        "train_images": generator.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8),
        "train_labels": np.arange(40, dtype=np.uint8) % 4,
        "test_images": generator.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8),
        "test_labels": np.arange(9) % 4,
    }


def load_npz(folder: Path, arrays: Arrays) -> Splits:
    np.savez(folder / "d.npz", **arrays)  # type: ignore[arg-type]
    return read_npz(folder / "d.npz", name="npz:d.npz", form_of=AS_STORED)


def test_arrays_of_a_file_are_read_with_channels_last(tmp_path: Path, arrays: Arrays) -> None:
    splits = load_npz(tmp_path, arrays)
    assert [len(part.labels) for part in (splits.train, splits.validation, splits.test)] == [36, 4, 9]
    assert sorted(labels_of(splits.validation.images)) == [0, 1, 2, 3]
    assert splits.classes == ("0", "1", "2", "3")
    assert splits.name == "npz:d.npz (validation: a stratified 10% of the training images)"
    expected = torch.from_numpy(arrays["test_images"]).permute(0, 3, 1, 2) / 255
    assert torch.equal(images_of(splits.test.images), expected)
    assert labels_of(splits.test.images) == arrays["test_labels"].tolist()


def test_grey_images_need_no_dimension_of_channels(tmp_path: Path, arrays: Arrays) -> None:
    grey = {key: value[..., 0] if "images" in key else value for key, value in arrays.items()}
    assert images_of(load_npz(tmp_path, grey).train.images).shape == (36, 1, 6, 5)


def test_the_form_is_asked_for_once_with_the_shape_that_is_stored(tmp_path: Path, arrays: Arrays) -> None:
    asked: list[tuple[int, int, int]] = []

    def form_of(stored: tuple[int, int, int]) -> InputFormat:
        asked.append(stored)
        return InputFormat((1, 2, 2), (0.0,), (1.0,))

    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    splits = read_npz(tmp_path / "d.npz", name="d", form_of=form_of)
    assert asked == [(3, 6, 5)]
    assert images_of(splits.test.images).shape == (9, 1, 2, 2)


@pytest.mark.parametrize("form", ["column", "one-hot", "one-hot of floats", "one-hot of truth values"])
def test_labels_in_a_column_or_one_hot_are_the_same_labels(tmp_path: Path, arrays: Arrays, form: str) -> None:
    expected = load_npz(tmp_path, arrays)
    eye = np.eye(4, dtype={"one-hot": np.int64, "one-hot of floats": np.float32}.get(form, bool))
    changed: Arrays = {**arrays}
    for key in ("train_labels", "test_labels"):
        labels = arrays[key].astype(np.int64)
        changed[key] = labels[:, None] if form == "column" else eye[labels]
    found = load_npz(tmp_path, changed)
    assert found.classes == expected.classes
    for part, other in ((found.train, expected.train), (found.test, expected.test)):
        assert part.labels.tolist() == other.labels.tolist() == labels_of(part.images)


def test_validation_arrays_are_the_validation_split(tmp_path: Path, arrays: Arrays) -> None:
    more = {"val_images": arrays["test_images"][:5] // 2, "val_labels": arrays["test_labels"][:5][:, None]}
    splits = load_npz(tmp_path, {**arrays, **more})
    assert [len(part.labels) for part in (splits.train, splits.validation, splits.test)] == [40, 5, 9]
    stored = torch.from_numpy(more["val_images"]).permute(0, 3, 1, 2)  # type: ignore[arg-type]  # they are uint8
    assert torch.equal(images_of(splits.validation.images), stored / 255)
    assert splits.validation.labels.tolist() == arrays["test_labels"][:5].tolist()
    assert splits.name.endswith("(validation: val_images)")


def test_sixteen_bits_are_scaled_to_the_unit_interval(tmp_path: Path, arrays: Arrays) -> None:
    deep = {key: value.astype(np.uint16) * 257 if "images" in key else value for key, value in arrays.items()}
    plain, found = load_npz(tmp_path, arrays), load_npz(tmp_path, deep)
    torch.testing.assert_close(images_of(found.test.images), images_of(plain.test.images))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"train_images": None, "test_labels": None},
            "has no array train_images, test_labels (it has train_labels, ",
        ),
        ({"train_images": np.ones((40, 6, 5, 3))}, "train_images is float64; uint8 from 0 to 255 is needed"),
        (
            {"test_images": np.ones((9, 5), np.uint8)},
            "test_images has shape (9, 5); (N,H,W,C) or (N,H,W) is needed",
        ),
        (
            {"test_images": np.ones((0, 6, 5, 3), np.uint8)},
            "test_images has shape (0, 6, 5, 3); (N,H,W,C) or",
        ),
        (
            {"train_images": np.ones((40, 3, 6, 5), np.uint8)},
            "train_images has shape (40, 3, 6, 5); channels must come last, as (N,H,W,C)",
        ),
        (
            {"test_images": np.ones((9, 6, 6, 3), np.uint8)},
            "test and training images differ in shape: (6, 6, 3) and (6, 5, 3)",
        ),
        ({"train_labels": np.arange(39) % 4}, "the train arrays hold 40 images but 39 labels"),
        ({"test_labels": np.arange(10) % 4}, "the test arrays hold 9 images but 10 labels"),
        ({"train_labels": np.zeros(0, int)}, "the train arrays hold 40 images but 0 labels"),
        (
            {"train_labels": np.ones(40)},
            "train_labels is float64 of shape (40,); integers of shape (N,) or (N, 1) are needed, or rows of zeros",
        ),
        (
            {"test_labels": np.ones((9, 2), int)},
            "test_labels is int64 of shape (9, 2); integers of shape (N,)",
        ),
        (
            {"train_labels": np.full((40, 4), 0.25)},
            "train_labels is float64 of shape (40, 4); integers of shape (N,)",
        ),
        (
            {"test_images": np.ones((9, 6, 5, 3), np.uint16)},
            "test_images is uint16 but train_images is uint8",
        ),
        ({"val_images": np.ones((9, 6, 5, 3), np.uint8)}, "has no array val_labels (it has train_images, "),
        ({"val_labels": np.zeros(9, int)}, "has no array val_images (it has train_images, "),
        (
            {"val_labels": np.zeros(3, int), "val_images": np.ones((3, 6, 6, 3), np.uint8)},
            "val and training images differ in shape: (6, 6, 3) and (6, 5, 3)",
        ),
        (
            {"val_labels": np.full(3, 4), "val_images": np.ones((3, 6, 5, 3), np.uint8)},
            "val label 4 is outside 0..3",
        ),
        ({"test_labels": np.arange(9)}, "test label 4 is outside 0..3"),
        ({"test_labels": np.arange(9) % 4 - 1}, "test label -1 is outside 0..3"),
        ({"train_labels": np.arange(40) % 4 - 2}, "train label -2 is outside 0..1"),
        (
            {"train_labels": np.arange(40) % 4 + 1},
            "train_labels go up to 4 but hold no image of class 0; classes count from 0 without gaps",
        ),
        (
            {"train_labels": np.arange(40) // 39, "test_labels": np.zeros(9, int)},
            "class '1' has 1 training images; at least 2 are needed",
        ),
        (
            {"train_labels": np.array([None] * 40)},
            "is no readable npz file: ValueError: Object arrays cannot be",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: Arrays, change: dict[str, npt.NDArray[np.generic] | None], text: str
) -> None:
    changed = {key: value for key, value in {**arrays, **change}.items() if value is not None}
    with pytest.raises(InputError, match=f"^data: .*{re.escape(text)}"):
        load_npz(tmp_path, changed)


def test_a_file_that_is_missing_damaged_or_something_else_is_refused(tmp_path: Path, arrays: Arrays) -> None:
    load_npz(tmp_path, arrays)
    (tmp_path / "half.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:500])
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").touch()
    for name in ("half.npz", "one.npy", "text.npz", "empty.npz"):
        with pytest.raises(InputError, match=rf"^data: .*{name} is no readable npz file: \w+: .+"):
            read_npz(tmp_path / name, name=name, form_of=AS_STORED)
    for name in ("none.npz", "."):
        with pytest.raises(InputError, match=r"^data: there is no file "):
            read_npz(tmp_path / name, name=name, form_of=AS_STORED)


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def fashion(tmp_path: Path) -> npt.NDArray[np.uint8]:
    """Thirty images in the files of FashionMNIST, the first ten of them for the test."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    for split, count in (("train", 30), ("t10k", 10)):
        write_idx(raw / f"{split}-images-idx3-ubyte", images[:count])
        write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    return images


def test_a_data_set_of_torchvision_is_read_from_its_folder(
    tmp_path: Path, fashion: npt.NDArray[np.uint8]
) -> None:
    splits = read_torchvision(f"FashionMNIST:{tmp_path}", name="fashion", form_of=AS_STORED)
    assert [len(part.labels) for part in (splits.train, splits.validation, splits.test)] == [20, 10, 10]
    assert splits.classes[9] == "Ankle boot"
    assert not splits.harmless_views, "a shoe points to the left"
    assert splits.name == "fashion (validation: a stratified 10% of the training images)"
    assert torch.equal(images_of(splits.test.images)[3, 0], torch.from_numpy(fashion[3]) / 255)


def test_photographs_of_torchvision_have_harmless_views(
    tmp_path: Path, fashion: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    monkeypatch.setattr(datasets, "CIFAR10", datasets.FashionMNIST)
    assert len(fashion)
    assert read_torchvision(f"CIFAR10:{tmp_path}", name="cifar", form_of=AS_STORED).harmless_views


@pytest.mark.parametrize("kind", TORCHVISION)
def test_a_data_set_that_is_missing_comes_with_a_command_that_fetches_it(tmp_path: Path, kind: str) -> None:
    root = re.escape(str(tmp_path))
    text = (
        rf"^data: {kind} cannot be read from {root} \(RuntimeError: Dataset not found.*\); "
        rf"fetch it with: python -c \"import torchvision; "
        rf"torchvision\.datasets\.{kind}\('{root}', download=True\)\"$"
    )
    with pytest.raises(InputError, match=text):
        read_torchvision(f"{kind}:{tmp_path}", name="x", form_of=AS_STORED)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("CIFAR11:.", "torchvision:CIFAR11 is not a data set that can be read; did you mean 'CIFAR10'?"),
        (
            "Food:.",
            f"torchvision:Food is not a data set that can be read; known are {', '.join(TORCHVISION)}",
        ),
        ("MNIST", "'torchvision:MNIST' names no folder; write torchvision:MNIST:ROOT"),
        ("MNIST:", "'torchvision:MNIST:' names no folder; write torchvision:MNIST:ROOT"),
    ],
)
def test_a_data_set_that_is_unknown_or_nowhere_is_refused(place: str, text: str) -> None:
    with pytest.raises(InputError, match=f"^data: {re.escape(text)}$"):
        read_torchvision(place, name=f"torchvision:{place}", form_of=AS_STORED)
