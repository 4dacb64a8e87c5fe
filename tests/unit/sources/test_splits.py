"""Splits in which every class has its share."""

from dataclasses import replace
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.utils.data import TensorDataset

from causal_prune.data.data import Images
from causal_prune.data.regression import regression_task
from causal_prune.errors import InputError
from causal_prune.sources.splits import (
    LabelledSet,
    Splits,
    draw_stratified,
    labelled_set,
    split_off,
    split_validation,
    with_calibration,
)
from tests.unit.sources.reading import images_of, labels_of


def numbered(labels: npt.NDArray[np.generic]) -> LabelledSet:
    """Images whose only pixel is their number."""
    numbers = torch.arange(len(labels), dtype=torch.float32).reshape(-1, 1, 1, 1)
    return labelled_set(cast(Images, TensorDataset(numbers, torch.from_numpy(labels))), labels)


def numbers_of(part: LabelledSet) -> list[int]:
    return images_of(part.images).flatten().long().tolist()


def test_draws_are_stratified_nested_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    for count in (10, 50, 100):
        drawn = np.bincount(labels[draw_stratified(labels, count, seed=4)], minlength=3)
        assert np.abs(drawn - np.array([0.6, 0.3, 0.1]) * count).max() <= 1
    small, large = (set(draw_stratified(labels, count, seed=4).tolist()) for count in (17, 40))
    assert len(small) == 17
    assert small < large
    assert small != set(draw_stratified(labels, 17, seed=5).tolist())
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


def test_a_data_set_has_as_many_labels_as_images() -> None:
    with pytest.raises(InputError, match="^data: 1 images but 2 labels$"):
        labelled_set(numbered(np.zeros(1)).images, np.zeros(2))


def test_a_part_holds_the_chosen_images_with_their_labels() -> None:
    part = numbered(np.array([5, 6, 7, 8])).part(np.array([3, 1]))
    assert numbers_of(part) == [3, 1]
    assert part.labels.tolist() == labels_of(part.images) == [8, 6]


def test_what_is_split_off_and_what_stays_are_the_whole() -> None:
    labels = np.repeat([0, 1], [30, 10])
    rest, part = split_off(numbered(labels), 8)
    assert sorted(numbers_of(rest) + numbers_of(part)) == list(range(40))
    assert np.bincount(part.labels).tolist() == [6, 2]
    assert numbers_of(part) == draw_stratified(labels, 8, seed=0).tolist()
    assert numbers_of(split_off(numbered(labels), 8, seed=1)[1]) != numbers_of(part)


def test_numbers_are_split_over_their_range() -> None:
    labels = np.random.default_rng(3).normal(size=200).astype(np.float32)
    _, part = split_off(numbered(labels), 20, task=regression_task())
    tenths = np.searchsorted(np.quantile(labels, np.linspace(0, 1, 11)[1:-1]), part.labels)
    assert np.bincount(tenths, minlength=10).tolist() == [2] * 10


@pytest.mark.parametrize("sizes", [(2, 2), (2, 3, 2), (2, 40), (3, 3, 3, 3), (100, 60)])
def test_validation_leaves_every_class_something_to_train_on(sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    classes = tuple(str(name) for name in range(len(sizes)))
    train, validation = split_validation(numbered(labels), classes)
    assert np.bincount(train.labels, minlength=len(sizes)).min() >= 1
    assert len(validation.labels) == max(len(sizes), round(0.1 * len(labels)))


@pytest.mark.parametrize(
    ("labels", "classes", "text"),
    [
        ([0, 0, 1], ("cat", "dog"), "class 'dog' has 1 training images"),
        ([0, 0, 1, 1], ("cat", "dog", "cow"), "class 'cow' has 0 training images"),
    ],
)
def test_a_class_without_two_images_is_refused(
    labels: list[int], classes: tuple[str, ...], text: str
) -> None:
    end = "; at least 2 are needed, one to train on and one to validate on"
    with pytest.raises(InputError, match=f"^data: {text}{end}$"):
        split_validation(numbered(np.array(labels)), classes)


def test_too_few_numbers_are_refused_as_well() -> None:
    with pytest.raises(
        InputError, match="^data: a tenth of the range of the labels has 1 training images; at least"
    ):
        split_validation(numbered(np.arange(19.0)), (), regression_task())
    train, validation = split_validation(numbered(np.arange(20.0)), (), regression_task())
    assert (len(train.labels), len(validation.labels)) == (10, 10)


@pytest.fixture
def splits() -> Splits:
    train, other = numbered(np.repeat([0, 1], [30, 10])), numbered(np.array([0, 1]))
    return Splits(train, other, other.part(np.array([1])), ("cat", "dog"), "numbers", regression_task("px"))


@pytest.mark.parametrize(
    ("count", "drawn", "source"),
    [
        (8, 8, "8 images of the training split"),
        (40, 40, "all 40 images of the training split"),
        (5000, 40, "all 40 images of the training split; 5,000 were asked for"),
    ],
)
def test_calibration_images_are_training_images(splits: Splits, count: int, drawn: int, source: str) -> None:
    data = with_calibration(splits, calibration_images=count, seed=2)
    assert data.split == {"train": 40, "validation": 2, "calibration": drawn, "test": 1}
    assert data.calibration_source == source
    expected = draw_stratified(regression_task().strata(splits.train.labels), count, seed=2)
    assert images_of(data.calibration).flatten().tolist() == expected.tolist()
    assert (data.classes, data.name, data.task) == (splits.classes, splits.name, splits.task)
    assert data.train is splits.train.images and data.test is splits.test.images


def test_calibration_follows_the_seed_alone(splits: Splits) -> None:
    classes = replace(splits, task=Splits.task)
    drawn = [
        images_of(with_calibration(classes, calibration_images=8, seed=seed).calibration)
        for seed in (0, 1, 0)
    ]
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
