"""Data sets of the user's own: what a factory may return, and what is refused."""

from pathlib import Path

import pytest
import torch
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
        ("half", "half: test: label 0 is a float, not an int$"),
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
