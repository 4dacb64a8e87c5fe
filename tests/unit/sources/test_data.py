"""What `data` may name."""

import re
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset, TensorDataset

from causal_prune.data.data import Data
from causal_prune.errors import InputError
from causal_prune.sources.data import load_data
from causal_prune.sources.images import InputFormat, to_inputs
from causal_prune.sources.splits import draw_stratified, labelled_set, split_validation

Arrays = dict[str, npt.NDArray[np.generic]]


def labels_of(part: Dataset[tuple[torch.Tensor, int]]) -> list[int]:
    return [label for _, labels in DataLoader(part, batch_size=50) for label in labels.tolist()]


def images_of(part: Dataset[tuple[torch.Tensor, int]]) -> torch.Tensor:
    return torch.cat([images for images, _ in DataLoader(part, batch_size=50)])


# --- splits ---------------------------------------------------------------------------------------


def test_draws_are_stratified_nested_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    for count in (10, 50, 100):
        drawn = np.bincount(labels[draw_stratified(labels, count, seed=4)], minlength=3)
        assert np.abs(drawn - np.array([0.6, 0.3, 0.1]) * count).max() <= 1
    small, large = (set(draw_stratified(labels, count, seed=4)) for count in (17, 40))
    assert len(small) == 17
    assert small < large
    assert small != set(draw_stratified(labels, 17, seed=5))
    assert draw_stratified(labels, 0, seed=4).size == 0


def test_draws_follow_their_definition() -> None:
    labels = np.array([2, 0, 0, 2, 1, 0, 2, 0, 2, 2, 0])
    generator = np.random.default_rng(6)
    keys = {}
    for name in (0, 1, 2):
        members = [position for position in range(len(labels)) if labels[position] == name]
        order = generator.permutation(members)
        u = generator.random()
        for k, position in enumerate(order):
            keys[int(position)] = (k + u) / len(members)
    for count in range(len(labels) + 1):
        least = sorted(sorted(keys, key=lambda position: keys[position])[:count])
        assert draw_stratified(labels, count, seed=6).tolist() == least


def test_rare_classes_are_not_favoured() -> None:
    labels = np.concatenate([np.zeros(900, dtype=np.int64), np.arange(1, 101)])
    drawn = labels[draw_stratified(labels, 100, seed=0)]
    assert 3 <= np.count_nonzero(drawn) <= 20


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3, 2), (2, 40), (3, 3, 3, 3)])
def test_validation_leaves_every_class_something_to_train_on(sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    images = TensorDataset(torch.zeros(len(labels), 1), torch.from_numpy(labels))
    classes = tuple(str(name) for name in range(len(sizes)))
    train, validation = split_validation(labelled_set(images, labels), classes)
    assert np.bincount(train.labels, minlength=len(sizes)).min() >= 1
    assert len(validation.labels) == max(len(sizes), round(0.1 * len(labels)))
    with pytest.raises(InputError, match="^data: 1 images but 2 labels$"):
        labelled_set(TensorDataset(torch.zeros(1, 1)), labels[:2])


# --- digits ---------------------------------------------------------------------------------------


def test_digits_are_split_without_overlap() -> None:
    data = load_data("digits", calibration_images=200, seed=3)
    assert data.split == {"train": 1168, "validation": 270, "calibration": 200, "test": 359}
    assert data.classes == tuple("0123456789")
    assert data.calibration_source == "200 images of the training split"
    assert "65/15/20 %" in data.name
    parts = [images_of(part) for part in (data.train, data.validation, data.test)]
    everything = torch.from_numpy(load_digits().images).float() / 16
    split_sum = sum(float(part.sum()) for part in parts)
    assert split_sum == pytest.approx(float(everything.sum()), rel=1e-6)
    train = {image.numpy().tobytes() for image in parts[0]}
    assert {image.numpy().tobytes() for image in images_of(data.calibration)} <= train
    for part in (data.train, data.validation, data.test, data.calibration):
        counts = np.bincount(labels_of(part), minlength=10)
        assert counts.max() - counts.min() <= 0.06 * counts.sum() + 1


def test_only_calibration_follows_the_seed() -> None:
    first, second, again = (load_data("digits", calibration_images=64, seed=seed) for seed in (0, 1, 0))
    assert torch.equal(images_of(first.test), images_of(second.test))
    assert torch.equal(images_of(first.validation), images_of(second.validation))
    assert not torch.equal(images_of(first.calibration), images_of(second.calibration))
    assert torch.equal(images_of(first.calibration), images_of(again.calibration))


def test_items_are_float_images_and_ints_one_by_one_and_in_batches() -> None:
    data = load_data("digits", mean=(0.25,), std=(0.5,))
    image, label = data.train[7]
    images, labels = next(iter(DataLoader(data.train, batch_size=8)))
    assert image.dtype == torch.float32
    assert image.shape == (1, 8, 8)
    assert type(label) is int
    assert torch.equal(images[7], image)
    assert labels[7] == label
    assert images.min() == -0.5
    assert images.max() == 1.5


def test_too_many_calibration_images_are_all_and_it_is_said() -> None:
    data = load_data("digits", calibration_images=5000)
    assert data.split["calibration"] == 1168
    assert data.calibration_source == "all 1,168 images of the training split; 5,000 were asked for"


@pytest.mark.parametrize("count", [0, -5])
def test_no_calibration_images(count: int) -> None:
    with pytest.raises(InputError, match=f"^calibration_images: {count} is not at least 1$"):
        load_data("digits", calibration_images=count)


def test_input_shape_resizes_and_converts() -> None:
    data = load_data("digits", input_shape=(3, 16, 12), mean=(0.0, 0.1, 0.2))
    image, _ = data.train[0]
    assert image.shape == (3, 16, 12)
    assert torch.allclose(image[0], image[2] + 0.2)


def test_grey_from_colour_is_luma() -> None:
    pixels = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1)
    form = InputFormat((1, 1, 1), (0.1,), (0.5,))
    expected = ((0.299 * 10 + 0.587 * 100 + 0.114 * 200) / 255 - 0.1) / 0.5
    assert to_inputs(pixels, form).item() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mean": (0.1, 0.2, 0.3)}, "mean: 3 values for 1-channel images; give 1"),
        ({"std": (0.1, 0.2)}, "std: 2 values for 1-channel images; give 1"),
        ({"std": (0.0,)}, "std: 0 is not above 0"),
        ({"std": (float("nan"),)}, "std: nan is not finite"),
        ({"mean": (float("inf"),)}, "mean: inf is not finite"),
        ({"input_shape": (2, 8, 8)}, "input_shape: 1-channel images cannot become 2-channel inputs"),
        ({"input_shape": (1, 0, 8)}, "input_shape: 1,0,8 is not channels,height,width of at least 1"),
    ],
)
def test_bad_options(options: dict[str, tuple[float, ...]], text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        load_data("digits", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", ["digit", "", "cifar10.npz"])
def test_unknown_form(spec: str) -> None:
    with pytest.raises(InputError, match=f"^data: '{spec}' is not one of digits, imagefolder:DIR, npz:FILE"):
        load_data(spec)


@pytest.mark.parametrize("spec", ["npz:", "imagefolder", "torchvision:"])
def test_no_place(spec: str) -> None:
    with pytest.raises(InputError, match=f"^data: '{spec}' names no place; write digits, imagefolder:DIR"):
        load_data(spec)


# --- npz ------------------------------------------------------------------------------------------


@pytest.fixture
def arrays() -> Arrays:
    generator = np.random.default_rng(2)
    return {
        "train_images": generator.integers(0, 256, (40, 6, 5, 3), dtype=np.uint8),
        "train_labels": np.arange(40, dtype=np.uint8) % 4,
        "test_images": generator.integers(0, 256, (9, 6, 5, 3), dtype=np.uint8),
        "test_labels": np.arange(9) % 4,
    }


def load_npz(folder: Path, arrays: Arrays) -> Data:
    np.savez(folder / "d.npz", **arrays)  # type: ignore[arg-type]
    return load_data(f"npz:{folder / 'd.npz'}")


def test_npz(tmp_path: Path, arrays: Arrays) -> None:
    data = load_npz(tmp_path, arrays)
    assert data.split == {"train": 36, "validation": 4, "calibration": 36, "test": 9}
    assert sorted(labels_of(data.validation)) == [0, 1, 2, 3]
    assert data.name.endswith("d.npz (validation: a stratified 10% of the training images)")
    expected = torch.from_numpy(arrays["test_images"]).permute(0, 3, 1, 2) / 255
    assert torch.equal(images_of(data.test), expected)
    assert labels_of(data.test) == arrays["test_labels"].tolist()


def test_npz_of_grey_images(tmp_path: Path, arrays: Arrays) -> None:
    grey = {key: value[..., 0] if "images" in key else value for key, value in arrays.items()}
    assert load_npz(tmp_path, grey).train[0][0].shape == (1, 6, 5)


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
            "train_labels is float64 of shape (40,); integers of shape (N,) are needed",
        ),
        (
            {"test_labels": np.ones((9, 1), int)},
            "test_labels is int64 of shape (9, 1); integers of shape (N,)",
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
def test_bad_npz(
    tmp_path: Path, arrays: Arrays, change: dict[str, npt.NDArray[np.generic] | None], text: str
) -> None:
    changed = {key: value for key, value in {**arrays, **change}.items() if value is not None}
    with pytest.raises(InputError, match=f"^data: .*{re.escape(text)}"):
        load_npz(tmp_path, changed)


def test_npz_that_is_missing_damaged_or_something_else(tmp_path: Path, arrays: Arrays) -> None:
    with pytest.raises(InputError, match=r"^data: there is no file .*none\.npz$"):
        load_data(f"npz:{tmp_path}/none.npz")
    load_npz(tmp_path, arrays)
    (tmp_path / "half.npz").write_bytes((tmp_path / "d.npz").read_bytes()[:500])
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("hello")
    for name in ("half.npz", "one.npy", "text.npz"):
        with pytest.raises(InputError, match=rf"^data: .*{name} is no readable npz file: \w+: "):
            load_data(f"npz:{tmp_path / name}")


# --- torchvision ----------------------------------------------------------------------------------


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def test_torchvision_data_set(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    for split, count in (("train", 30), ("t10k", 10)):
        write_idx(raw / f"{split}-images-idx3-ubyte", images[:count])
        write_idx(raw / f"{split}-labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    data = load_data(f"torchvision:FashionMNIST:{tmp_path}")
    assert data.split == {"train": 20, "validation": 10, "calibration": 20, "test": 10}
    assert data.classes[9] == "Ankle boot"
    assert torch.equal(images_of(data.test)[3, 0], torch.from_numpy(images[3]) / 255)


def test_torchvision_data_set_that_is_missing(tmp_path: Path) -> None:
    text = (
        rf"^data: CIFAR10 cannot be read from {tmp_path} \(RuntimeError: Dataset not found or .*\); "
        r"fetch it with: python -c \"import torchvision; .*\.CIFAR10\(.*, download=True\)\"$"
    )
    with pytest.raises(InputError, match=text):
        load_data(f"torchvision:CIFAR10:{tmp_path}")


def test_torchvision_data_set_that_is_unknown_or_nowhere() -> None:
    with pytest.raises(InputError, match="torchvision:CIFAR11 is not a data set .*; did you mean 'CIFAR10'"):
        load_data("torchvision:CIFAR11:.")
    with pytest.raises(
        InputError, match="torchvision:Food is not a data set .*; known are CIFAR10, CIFAR100"
    ):
        load_data("torchvision:Food:.")
    with pytest.raises(InputError, match="'torchvision:MNIST' names no folder; write torchvision:MNIST:ROOT"):
        load_data("torchvision:MNIST")


# --- image folders --------------------------------------------------------------------------------


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
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def test_image_folder_without_a_test_split(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder}", mean=(0.5, 0.5, 0.5), std=(0.5, 0.25, 0.5))
    assert data.split == {"train": 8, "validation": 2, "calibration": 8, "test": 4}
    assert data.classes == ("cat", "dog")
    assert data.name.endswith("(test: val/; validation: a stratified 10% of the training images)")
    assert sorted(labels_of(data.validation)) == [0, 1]
    image, label = data.test[3]
    stored = np.asarray(Image.open(folder / "val" / "dog" / "1.png"), dtype=np.float32) / 255
    expected = (stored - 0.5) / np.array([0.5, 0.25, 0.5], np.float32)
    assert label == 1
    assert image.dtype == torch.float32
    assert torch.allclose(image, torch.from_numpy(expected).permute(2, 0, 1), atol=1e-6)


def test_image_folder_with_a_test_split(folder: Path) -> None:
    for name in ("cat", "dog"):
        write_image(folder / "test" / name / "deep" / "x.JPG", 3)
    data = load_data(f"imagefolder:{folder}")
    assert data.split == {"train": 10, "validation": 4, "calibration": 10, "test": 2}
    assert data.name == f"imagefolder:{folder}"


def test_grey_images_keep_one_channel(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for index in range(2):
            write_image(tmp_path / split / "a" / f"{index}.png", index, mode="L")
    assert load_data(f"imagefolder:{tmp_path}").train[0][0].shape == (1, 6, 7)


def test_images_of_different_shapes(folder: Path) -> None:
    write_image(folder / "val" / "cat" / "9.png", 0, size=(9, 9))
    text = (
        "data: val/cat/9.png is 3,9,9 (channels,height,width) but train/cat/0.png is 3,6,7; "
        "`input_shape` converts all to one"
    )
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        load_data(f"imagefolder:{folder}")
    write_image(folder / "val" / "cat" / "8.png", 0, mode="L")
    data = load_data(f"imagefolder:{folder}", input_shape=(3, 4, 5))
    assert images_of(data.test).shape == (6, 3, 4, 5)
    assert images_of(load_data(f"imagefolder:{folder}", input_shape=(1, 4, 5)).test).shape == (6, 1, 4, 5)


def test_unreadable_images_are_named(folder: Path) -> None:
    path = folder / "val" / "dog" / "1.png"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"^data: {path} is no readable image \(.+\)$"):
        load_data(f"imagefolder:{folder}")
    path.write_text("hello")
    with pytest.raises(InputError, match=r"1\.png is no readable image \(cannot identify image file"):
        load_data(f"imagefolder:{folder}")
    Image.fromarray(np.full((6, 7), 5, np.uint16)).save(path)
    with pytest.raises(InputError, match=r"1\.png has more than 8 bits per channel; save it with 8$"):
        load_data(f"imagefolder:{folder}")


def test_folders_that_are_missing_or_empty(folder: Path) -> None:
    with pytest.raises(InputError, match="^data: there is no folder .*nowhere$"):
        load_data(f"imagefolder:{folder}/nowhere")
    (folder / "val" / "cow").mkdir()
    with pytest.raises(InputError, match="class 'cow' is in val/ but not in train/$"):
        load_data(f"imagefolder:{folder}")
    (folder / "train" / "cow").mkdir()
    with pytest.raises(InputError, match=r"^data: class folder .*train/cow has no image \(\.jpg "):
        load_data(f"imagefolder:{folder}")
    (folder / "val" / "cow").rmdir()
    with pytest.raises(InputError, match="class 'cow' is in train/ but not in val/$"):
        load_data(f"imagefolder:{folder}")
    (folder / "val").rename(folder / "valid")
    with pytest.raises(InputError, match="has no folder val/; imagefolder needs train/ and val/$"):
        load_data(f"imagefolder:{folder}")
    (folder / "bare" / "train").mkdir(parents=True)
    (folder / "bare" / "val").mkdir()
    with pytest.raises(InputError, match="^data: .*train has no class folder$"):
        load_data(f"imagefolder:{folder}/bare")


def test_class_of_one_training_image(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_image(tmp_path / split / "a" / "0.png", 0)
    text = "class 'a' has 1 training images; at least 2 are needed, one to train on and one to validate on"
    with pytest.raises(InputError, match=text):
        load_data(f"imagefolder:{tmp_path}")


# --- the user's own -------------------------------------------------------------------------------

MODULE = """
import torch
from torch.utils.data import TensorDataset, IterableDataset
from causal_prune import Data

def part(count, offset=0):
    images = torch.arange(count * 8.0).view(count, 2, 2, 2)
    return TensorDataset(images, torch.arange(count) % 3 + offset)

def pair(): return part(30), part(6)
def three(): return part(30), part(9), part(6)
def named(): return {"train": part(30), "test": part(6), "classes": ["a", "b", "c"]}
def whole(): return Data(part(4), part(3), part(2), part(1), ("a", "b", "c"), "mine", "two of four")
def outside(): return {"train": part(30), "test": part(6, 1), "classes": ["a", "b", "c"]}
def number(): return 3
def no_test(): return {"train": part(30)}
def typo(): return {"train": part(30), "test": part(6), "valid": part(6)}
def empty(): return part(30), part(0)
def hollow(): return Data(part(4), part(3), part(0), part(1), ("a", "b", "c"), "mine", "none")
def double(): return part(30), [(torch.zeros(1, 2, 2, dtype=torch.float64), 0)]
def array(): return part(30), [([1, 2], 0)]
def word(): return part(30), [(torch.zeros(1, 2, 2), "cat")]
def alone(): return part(30), [torch.zeros(1, 2, 2)]
def keyed(): return part(30), {"x": 1}
def stream():
    class Stream(IterableDataset):
        def __iter__(self): return iter([])
    return part(30), Stream()
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "data_for_sources.py"
    path.write_text(MODULE)
    return path


def test_factories(module: Path) -> None:
    pair = load_data(f"{module}:pair", calibration_images=10)
    assert pair.split == {"train": 27, "validation": 3, "calibration": 10, "test": 6}
    assert pair.classes == ("0", "1", "2")
    assert pair.name == f"{module}:pair (validation: a stratified 10% of the training images)"
    three = load_data(f"{module}:three")
    assert three.split == {"train": 30, "validation": 9, "calibration": 30, "test": 6}
    assert three.name == f"{module}:three"
    assert load_data(f"{module}:named").classes == ("a", "b", "c")
    whole = load_data(f"{module}:whole")
    assert whole.calibration_source == "two of four"
    assert isinstance(whole.train, TensorDataset)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("outside", r"outside: test label 3 is outside 0\.\.2$"),
        ("number", r"number returned a int, not a Data, \{'train', 'test'"),
        ("no_test", "no_test returned no 'test'; it must return a Data, "),
        ("typo", "typo returned an unknown 'valid'; it must return a Data, "),
        ("empty", "empty: test is empty$"),
        ("hollow", "hollow: calibration is empty$"),
        ("double", r"image 0 is torch\.float64 of shape \(1, 2, 2\), not float32 of shape \(C, H, W\)$"),
        ("array", r"image 0 is list, not float32 of shape \(C, H, W\)$"),
        ("word", "label 0 is a str, not an int$"),
        ("alone", "item 0 is no pair of an image and a label$"),
        ("keyed", "item 0 of 1 raised KeyError: 0$"),
        ("stream", "test has no length; a map-style data set is needed$"),
        ("absent", "has no 'absent'"),
    ],
)
def test_bad_factory(module: Path, name: str, text: str) -> None:
    with pytest.raises(InputError, match=f"^data: .*{text}"):
        load_data(f"{module}:{name}")


def test_factories_prepare_their_own_images(module: Path) -> None:
    with pytest.raises(InputError, match="^std: a data factory prepares its own images; leave it out$"):
        load_data(f"{module}:pair", std=(0.5, 0.5))
    with pytest.raises(InputError, match="^input_shape: a data factory prepares its own images"):
        load_data(f"{module}:pair", input_shape=(2, 4, 4))
