"""Image folders: one folder per split, in it one per class."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import find_classes

from causal_prune.errors import CausalPruneNote, InputError
from causal_prune.sources.image_folder import read_image_folder
from causal_prune.sources.images import input_format
from causal_prune.sources.splits import Splits
from tests.unit.sources.reading import images_of, labels_of


def write_image(path: Path, value: int, *, mode: str = "RGB", size: tuple[int, int] = (7, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[1], size[0]) + value
    Image.fromarray(rows).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 5), ("val", 2)):
        for label, name in enumerate(("cat", "dog")):
            for index in range(count):
                write_image(tmp_path / split / name / f"{index}.png", 100 * label + 10 * index)
    return tmp_path


def read(
    folder: Path,
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> Splits:
    form_of = partial(input_format, mean=mean, std=std, input_shape=input_shape)
    return read_image_folder(folder, name="mine", form_of=form_of, converted=input_shape is not None)


def sizes(splits: Splits) -> list[int]:
    return [len(part.labels) for part in (splits.train, splits.validation, splits.test)]


def test_without_a_test_split_val_is_read_at_the_end(folder: Path) -> None:
    splits = read(folder, mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
    assert sizes(splits) == [8, 2, 4]
    assert splits.harmless_views, "photographs"
    assert splits.classes == ("cat", "dog")
    assert splits.name == "mine (test: val/; validation: a stratified 10% of the training images)"
    assert sorted(labels_of(splits.validation.images)) == [0, 1]
    image, label = splits.test.images[3]
    stored = np.asarray(Image.open(folder / "val" / "dog" / "1.png"), dtype=np.float32) / 255
    expected = (stored - 0.5) / np.array([0.5, 0.25, 0.5], np.float32)
    assert label == 1
    assert image.dtype == torch.float32
    assert torch.allclose(image, torch.from_numpy(expected).permute(2, 0, 1), atol=1e-6)


def test_with_a_test_split_nothing_is_cut_from_training(folder: Path) -> None:
    for name in ("cat", "dog"):
        write_image(folder / "test" / name / "deep" / "x.JPG", 3)
        (folder / "test" / name / "notes.txt").write_text("no image")
    splits = read(folder)
    assert sizes(splits) == [10, 4, 2] and splits.name == "mine" and splits.harmless_views
    assert splits.test.labels.tolist() == [0, 1]


def test_files_stand_in_the_order_of_their_names(folder: Path) -> None:
    assert read(folder).test.labels.tolist() == [0, 0, 1, 1]
    write_image(folder / "val" / "cat" / "00.png", 77)
    first, _ = read(folder).test.images[1]
    stored = np.asarray(Image.open(folder / "val" / "cat" / "00.png"))
    assert torch.equal(first, torch.from_numpy(stored.copy()).permute(2, 0, 1) / 255)


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for index in range(2):
            write_image(tmp_path / split / "a" / f"{index}.png", index, mode="L")
    assert read(tmp_path).train.images[0][0].shape == (1, 6, 7)


def test_images_share_their_shape_unless_they_are_converted(folder: Path) -> None:
    write_image(folder / "val" / "cat" / "9.png", 0, size=(9, 9))
    text = (
        "data: val/cat/9.png is 3,9,9 (channels,height,width) but train/cat/0.png is 3,6,7; "
        "`input_shape` resizes all to one (bilinear with antialiasing, the aspect is not kept)"
    )
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        read(folder)
    write_image(folder / "val" / "cat" / "8.png", 0, mode="L")
    assert images_of(read(folder, input_shape=(3, 4, 5)).test.images).shape == (6, 3, 4, 5)
    assert images_of(read(folder, input_shape=(1, 4, 5)).test.images).shape == (6, 1, 4, 5)


def test_an_unreadable_image_is_named_before_it_is_used(folder: Path) -> None:
    path = folder / "val" / "dog" / "1.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"^data: {re.escape(str(path))} is no readable image \(.+\)$"):
        read(folder)
    Image.fromarray(np.full((6, 7), 5, np.int32)).save(path.with_suffix(".tif"))
    path.unlink()
    with pytest.raises(InputError, match=r"1\.tif has 32 bits per channel; save it with 8 or 16$"):
        read(folder)


def test_folders_that_are_missing_or_empty_are_named(folder: Path) -> None:
    with pytest.raises(InputError, match="^data: there is no folder .*nowhere$"):
        read(folder / "nowhere")
    (folder / "val" / "cow").mkdir()
    with pytest.raises(InputError, match="^data: .*: class 'cow' is in val/ but not in train/$"):
        read(folder)
    (folder / "train" / "cow").mkdir()
    with pytest.raises(InputError, match=r"^data: class folder .*train/cow has no image \(\.jpg .*\)$"):
        read(folder)
    (folder / "val" / "cow").rmdir()
    with pytest.raises(InputError, match="class 'cow' is in train/ but not in val/$"):
        read(folder)
    (folder / "val").rename(folder / "valid")
    with pytest.raises(InputError, match="has no folder val/; imagefolder needs train/ and val/$"):
        read(folder)
    (folder / "bare" / "train").mkdir(parents=True)
    (folder / "bare" / "val").mkdir()
    with pytest.raises(InputError, match="^data: .*train has no class folder$"):
        read(folder / "bare")


def test_a_class_of_one_training_image_is_refused(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "a" / "0.png", 0)
    with pytest.raises(InputError, match="^data: class 'a' has 1 training images; at least 2 are needed"):
        read(tmp_path)


def test_what_tools_leave_behind_is_passed_over_with_a_note(folder: Path) -> None:
    expected = [part.labels.tolist() for part in (read(folder).train, read(folder).test)]
    write_image(folder / "train" / "__MACOSX" / "cat" / "._0.png", 0)
    write_image(folder / "train" / ".ipynb_checkpoints" / "0.png", 0, size=(3, 3))
    write_image(folder / "val" / "dog" / ".ipynb_checkpoints" / "1-checkpoint.png", 0, size=(3, 3))
    (folder / "val" / "cat" / "._0.png").write_bytes(b"Mac OS X")
    names = "train/.ipynb_checkpoints, train/__MACOSX, val/cat/._0.png and 1 more"
    text = f"passed over {names}, hidden or left behind by a tool"
    with pytest.warns(
        CausalPruneNote, match=rf"^data: {re.escape(str(folder))}: {re.escape(text)}$"
    ) as notes:
        splits = read(folder)
    assert len(notes) == 1 and splits.classes == ("cat", "dog")
    assert [part.labels.tolist() for part in (splits.train, splits.test)] == expected


def test_classes_are_numbered_as_torchvision_numbers_them(tmp_path: Path) -> None:
    names = ("b", "10", "9", "A", "a", "Ä", "a b", "ab")
    for split in ("train", "val"):
        for name in names:
            for index in range(2):
                write_image(tmp_path / split / name / f"{index}.png", index)
    classes, _ = find_classes(tmp_path / "train")
    assert read(tmp_path).classes == tuple(classes)
