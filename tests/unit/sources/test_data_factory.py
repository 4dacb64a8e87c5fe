"""Data sets of the user's own: what a factory may return, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from causal_prune.data.classification import STANDARD_TASK
from causal_prune.data.data import Data
from causal_prune.errors import InputError
from causal_prune.sources.data_factory import read_factory
from causal_prune.sources.splits import Splits
from tests.unit.sources.reading import images_of, labels_of

MODULE = """
import torch
from torch.utils.data import TensorDataset, IterableDataset
from causal_prune import Data
from causal_prune.data import regression_task

def part(count, offset=0):
    images = torch.arange(count * 8.0).view(count, 2, 2, 2)
    return TensorDataset(images, torch.arange(count) % 3 + offset)

def pair(): return part(30), part(6)
def three(): return part(30), part(9), part(6)
def named(): return {"train": part(30), "test": part(6), "classes": ["a", "b", "c"]}
def whole(): return Data(part(4), part(3), part(2), part(1), ("a", "b", "c"), "mine", "two of four")
def numbers(): return {"train": part(30), "test": part(6), "task": regression_task("px")}
def unnamed(): return {"train": part(30), "test": part(6), "task": "regression"}
def half(): return part(30), [(torch.zeros(1, 2, 2), 0.5)]
def below(): return part(30, -1), part(6)
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

class Named(torch.utils.data.Dataset):
    def __init__(self, count, image="image", label="label", hot=0, **more):
        self.count, self.image, self.label, self.hot, self.more = count, image, label, hot, more
    def __len__(self): return self.count
    def __getitem__(self, index):
        label = index % 3
        if self.hot:
            label = torch.eye(self.hot)[label]
        return {**self.more, self.image: torch.full((2, 2, 2), float(index)), self.label: label}

def tables(): return Named(30), Named(6, "pixel_values", "target", id=7)
def hot(): return {"train": Named(30, hot=4), "validation": Named(3, hot=4), "test": Named(6, hot=4)}
def whole_tables(): return Data(Named(4), Named(3), Named(2), Named(1), ("a", "b", "c"), "mine", "two of four")
def strange(): return part(30), Named(6, "photo")
def both(): return part(30), Named(6, images=torch.zeros(2, 2, 2))
def two_sizes(): return part(30), [(torch.zeros(2, 2, 2), 0), (torch.zeros(2, 3, 2), 1)]
def lists(): return part(30), [[torch.zeros(2, 2, 2), 0]] * 3
def soft(): return part(30), [(torch.zeros(2, 2, 2), torch.tensor([0.3, 0.7]))]
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


def split(module: Path, name: str) -> Splits:
    found = read_factory(f"{module}:{name}")
    assert isinstance(found, Splits)
    return found


def sizes(splits: Splits) -> list[int]:
    return [len(part.labels) for part in (splits.train, splits.validation, splits.test)]


def test_of_two_data_sets_the_first_is_split(module: Path) -> None:
    found = split(module, "pair")
    assert sizes(found) == [27, 3, 6] and found.classes == ("0", "1", "2")
    assert found.name == f"{module}:pair (validation: a stratified 10% of the training images)"
    assert found.test.labels.tolist() == labels_of(found.test.images) == [0, 1, 2, 0, 1, 2]
    assert torch.equal(images_of(found.test.images), torch.arange(48.0).view(6, 2, 2, 2))


def test_three_data_sets_stay_as_they_are(module: Path) -> None:
    found = split(module, "three")
    assert sizes(found) == [30, 9, 6] and found.name == f"{module}:three"
    assert isinstance(found.train.images, TensorDataset)


def test_classes_and_a_task_may_be_named(module: Path) -> None:
    assert split(module, "named").classes == ("a", "b", "c")
    assert split(module, "named").task is STANDARD_TASK
    found = split(module, "numbers")
    assert found.task.name == "regression" and found.classes == () and sizes(found) == [20, 10, 6]


def test_whole_data_are_returned_as_they_are(module: Path) -> None:
    found = read_factory(f"{module}:whole")
    assert isinstance(found, Data)
    assert found.split == {"train": 4, "validation": 3, "calibration": 2, "test": 1}
    assert (found.name, found.calibration_source) == ("mine", "two of four")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("below", r"below: train label -1 is outside 0\.\.2$"),
        ("unnamed", "unnamed: 'task' is a str, not a Task of causal_prune.data$"),
        ("half", "half: test: label 0 is a float, not an int or one-hot"),
        ("outside", r"outside: test label 3 is outside 0\.\.2$"),
        ("number", r"number returned a int, not a Data, \{'train', 'test'"),
        ("no_test", "no_test returned no 'test'; it must return a Data, "),
        ("typo", "typo returned an unknown 'valid'; it must return a Data, "),
        ("empty", "empty: test is empty$"),
        ("hollow", "hollow: calibration is empty$"),
        ("double", r"image 0 is torch\.float64 of shape \(1, 2, 2\), not float32 of shape \(C, H, W\)$"),
        ("array", r"image 0 is list, not float32 of shape \(C, H, W\)$"),
        ("word", "label 0 is a str, not an int or one-hot"),
        ("alone", "item 0 is no pair of an image and a label$"),
        ("keyed", "item 0 of 1 raised KeyError: 0$"),
        ("stream", "test has no length; a map-style data set is needed$"),
        ("absent", "has no 'absent'"),
    ],
)
def test_other_data_sets_are_refused(module: Path, name: str, text: str) -> None:
    with pytest.raises(InputError, match=f"^data: .*{text}"):
        read_factory(f"{module}:{name}")


def test_labels_that_are_no_numbers_are_no_regression(module: Path) -> None:
    module.write_text(
        module.read_text().replace("torch.arange(count) % 3 + offset", "torch.full((count,), torch.nan)")
    )
    with pytest.raises(
        InputError, match="^data: .*numbers: train: label 0 is a Tensor, not a finite number$"
    ):
        read_factory(f"{module}:numbers")


def test_items_that_are_mappings_are_pairs(module: Path) -> None:
    found = split(module, "tables")
    assert sizes(found) == [27, 3, 6] and found.test.labels.tolist() == labels_of(found.test.images)
    assert float(found.test.images[4][0].mean()) == 4


def test_one_hot_labels_tell_the_number_of_classes(module: Path) -> None:
    found = split(module, "hot")
    assert found.classes == ("0", "1", "2", "3") and found.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_data_of_mappings_become_data_of_pairs(module: Path) -> None:
    found = read_factory(f"{module}:whole_tables")
    assert isinstance(found, Data) and found.split == {
        "train": 4,
        "validation": 3,
        "calibration": 2,
        "test": 1,
    }
    assert labels_of(found.train) == [0, 1, 2, 0]


def test_items_may_be_lists(module: Path) -> None:
    assert sizes(split(module, "lists")) == [27, 3, 3]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "strange",
            "strange: test: an item has photo, label; give (image, label), or name one 'image' and one 'label'",
        ),
        (
            "both",
            "both: test: an item has images, image, label; give (image, label), or name one 'image' and",
        ),
        (
            "two_sizes",
            "two_sizes: image 1 of test is 2,3,2 (channels,height,width) but image 0 of train is 2,2,2; have the ",
        ),
        ("soft", "soft: test: label 0 is a Tensor, not an int or one-hot (zeros and a single one)"),
    ],
)
def test_items_that_cannot_be_understood_are_named(module: Path, name: str, text: str) -> None:
    with pytest.raises(InputError, match=rf"^data: .*{re.escape(text)}"):
        read_factory(f"{module}:{name}")


def test_two_sizes_in_a_folder_of_torchvision_are_named_by_their_files(tmp_path: Path) -> None:
    for split_name, size in (("train", (4, 4)), ("test", (5, 4))):
        for name in ("a", "b"):
            (tmp_path / split_name / name).mkdir(parents=True)
            for index in range(3):
                Image.new("RGB", size).save(tmp_path / split_name / name / f"{index}.png")
    (tmp_path / "set.py").write_text(
        "from torchvision.datasets import ImageFolder\nfrom torchvision.transforms import ToTensor\n"
        f"def data(): return [ImageFolder(f'{tmp_path}/{{split}}', ToTensor()) for split in ('train', 'test')]\n"
        "def pair(): return tuple(data())\n"
    )
    text = f"{tmp_path}/test/a/0.png is 3,4,5 (channels,height,width) but {tmp_path}/train/a/0.png is 3,4,4; have"
    with pytest.raises(InputError, match=re.escape(text)):
        read_factory(f"{tmp_path}/set.py:pair")
