"""What `data` may name: every form finds its reader, and options reach it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from causal_prune.errors import InputError
from causal_prune.sources.data import FORMS, load_data
from tests.unit.sources.reading import images_of

PICTURES = np.random.default_rng(2).integers(0, 256, (24, 6, 5, 3), dtype=np.uint8)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The same pictures as an image folder, as arrays and from a factory."""
    labels = np.arange(24) % 2
    for index, (picture, label) in enumerate(zip(PICTURES, labels, strict=True)):
        path = tmp_path / "folder" / ("train" if index < 20 else "val") / f"{label}" / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    np.savez(
        tmp_path / "d.npz",
        train_images=PICTURES[:20],
        train_labels=labels[:20],
        test_images=PICTURES[20:],
        test_labels=labels[20:],
    )
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\nfrom causal_prune import Data\n"
        "def part(count): return TensorDataset(torch.ones(count, 2, 2, 2), torch.arange(count) % 2)\n"
        "def pair(): return part(20), part(4)\n"
        "def whole(): return Data(part(4), part(3), part(2), part(1), ('a', 'b'), 'mine', 'two of four')\n"
    )
    return tmp_path


@pytest.mark.parametrize("spec", ["imagefolder:{}/folder", "npz:{}/d.npz", "{}/mine.py:pair"])
def test_every_form_is_split_and_calibrated_alike(place: Path, spec: str) -> None:
    data = load_data(spec.format(place), calibration_images=10)
    assert data.split == {"train": 18, "validation": 2, "calibration": 10, "test": 4}
    assert data.classes == ("0", "1") and data.name.startswith(spec.format(place))
    assert data.calibration_source == "10 images of the training split"


@pytest.mark.parametrize("spec", ["imagefolder:{}/folder", "npz:{}/d.npz"])
def test_options_reach_the_images(place: Path, spec: str) -> None:
    spec = spec.format(place)
    stored = images_of(load_data(spec).test)
    assert stored.shape == (4, 3, 6, 5)
    changed = images_of(load_data(spec, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.2)).test)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.1, 0.2, 0.3), (0.5, 0.5, 0.2)))
    torch.testing.assert_close(changed, (stored - mean) / std)
    assert images_of(load_data(spec, input_shape=(1, 3, 4)).test).shape == (4, 1, 3, 4)


def test_a_user_writes_home_as_a_tilde(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert load_data("npz:~/d.npz").split["test"] == load_data("imagefolder:~/folder").split["test"] == 4


def test_whole_data_of_a_factory_have_chosen_their_calibration_images(place: Path) -> None:
    data = load_data(f"{place}/mine.py:whole", calibration_images=1)
    assert data.split == {"train": 4, "validation": 3, "calibration": 2, "test": 1}
    assert data.calibration_source == "two of four"


@pytest.mark.parametrize("option", [{"std": (0.5, 0.5)}, {"mean": (0.5, 0.5)}, {"input_shape": (2, 4, 4)}])
def test_factories_prepare_their_own_images(place: Path, option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(InputError, match=f"^{name}: a data factory prepares its own images; leave it out$"):
        load_data(f"{place}/mine.py:pair", **option)


def test_digits_are_scaled_by_their_own_white() -> None:
    data = load_data("digits", mean=(0.25,), std=(0.5,))
    image, label = data.train[7]
    images, labels = next(iter(DataLoader(data.train, batch_size=8)))
    assert image.dtype == torch.float32 and image.shape == (1, 8, 8)
    assert type(label) is int and labels[7] == label and torch.equal(images[7], image)
    assert images.min() == -0.5 and images.max() == 1.5
    assert load_data().split == data.split, "digits where nothing is named"


def test_torchvision_is_asked_for_name_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^data: CIFAR10 cannot be read from {re.escape(str(tmp_path))} "):
        load_data(f"torchvision:CIFAR10:{tmp_path}")


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


@pytest.mark.parametrize("count", [0, -5])
def test_no_calibration_images(count: int) -> None:
    with pytest.raises(InputError, match=f"^calibration_images: {count} is not at least 1$"):
        load_data("digits", calibration_images=count)


@pytest.mark.parametrize("spec", ["digit", "", "cifar10.npz"])
def test_other_names_are_refused_with_the_forms_that_are_known(spec: str) -> None:
    with pytest.raises(InputError, match=f"^data: '{spec}' is not one of {re.escape(FORMS)}$"):
        load_data(spec)


@pytest.mark.parametrize("spec", ["npz:", "imagefolder", "torchvision:"])
def test_a_form_without_a_place_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match=f"^data: '{spec}' names no place; write {re.escape(FORMS)}$"):
        load_data(spec)


def test_noisy_digits_are_the_digits_and_the_same_noise_every_time() -> None:
    plain, noisy, again = (load_data(spec) for spec in ("digits", "noisy-digits", "noisy-digits"))
    assert noisy.split == plain.split and "noise of 0.3" in noisy.name and noisy.mean == (0.0,)
    apart = []
    for k in range(100):
        (clean, label), (image, same), (repeated, _) = (data.test[k] for data in (plain, noisy, again))
        assert label == same and torch.equal(image, repeated)
        assert 0 <= float(image.min()) <= float(image.max()) <= 1
        middle = (clean > 0.4) & (clean < 0.6)  # where little is cut off
        apart.append((image - clean)[middle])
    assert 0.2 < float(torch.cat(apart).std()) < 0.35
