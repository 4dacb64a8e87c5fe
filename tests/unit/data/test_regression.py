"""Regression: one number per image, smooth L1 to learn from, mean absolute error to be judged by."""

import numpy as np
import pytest
import torch

from causal_prune.data.regression import STRATA, regression_task
from causal_prune.errors import InputError

TASK = regression_task("degrees", digits=1)
IMAGES = torch.zeros(2, 1, 4, 4)


def test_the_report_reads_errors_in_the_unit_of_the_labels() -> None:
    stick = TASK.yardstick
    assert (stick.name, stick.better, stick.kind) == ("mean absolute error", "lower", "number")
    assert stick.text(3.14) == "3.1 degrees" and regression_task().yardstick.text(3.14) == "3.140"
    assert TASK.loss_unit == "smooth L1 in degrees" and regression_task().loss_unit == "smooth L1"


@pytest.mark.parametrize(
    "value", [1.5, np.float32(1.5), torch.tensor(1.5), torch.tensor([1.5]), torch.tensor([[1.5]]).double()]
)
def test_a_label_is_a_finite_number_of_any_kind(value: object) -> None:
    assert TASK.label(value) == 1.5


@pytest.mark.parametrize("value", ["1.5", None, float("nan"), torch.tensor(float("inf")), torch.zeros(2), 1j])
def test_other_labels_are_none(value: object) -> None:
    assert TASK.label(value) is None


def test_labels_come_as_one_float_per_image() -> None:
    for labels in (torch.tensor([1, -2]), torch.tensor([[1.0], [-2.0]]).double(), [1.0, -2.0]):
        found = TASK.labels((IMAGES, labels), "batch 1")
        assert found.dtype == torch.float32 and found.tolist() == [1.0, -2.0]


@pytest.mark.parametrize(
    "labels", [torch.zeros(2, 2), torch.tensor([0.0, float("nan")]), torch.zeros(2, 1, 1)]
)
def test_labels_that_are_no_numbers_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(
        InputError, match=r"^labels of batch 1 have shape \(2.*\): give one finite number per image$"
    ):
        TASK.labels((IMAGES, labels), "batch 1")
    with pytest.raises(InputError, match=r"^batch 1 of the loader has no labels: give \(inputs, numbers\)$"):
        TASK.labels(IMAGES, "batch 1")


def test_answers_are_one_number_per_image() -> None:
    for output in (
        torch.tensor([1.0, 2.0]),
        torch.tensor([[1.0], [2.0]]),
        (torch.tensor([[1.0], [2.0]]), IMAGES),
    ):
        assert TASK.outputs(output, "Net", "batch 1").tolist() == [1.0, 2.0]
    for output, told in ((torch.zeros(2, 3), r"\(2, 3\)"), ("text", "str"), (torch.zeros(()), r"\(\)")):
        expected = rf"^model 'Net' returned {told} for batch 1: it must return one number per image$"
        with pytest.raises(InputError, match=expected):
            TASK.outputs(output, "Net", "batch 1")


def test_there_are_as_many_labels_as_answers() -> None:
    TASK.check(torch.zeros(2), torch.zeros(2), "Net", "batch 1")
    with pytest.raises(InputError, match="^batch 1 has 3 labels, but model 'Net' returned 2 numbers$"):
        TASK.check(torch.zeros(3), torch.zeros(2), "Net", "batch 1")


def test_the_loss_is_squared_near_the_label_and_absolute_beyond() -> None:
    losses = TASK.losses(torch.tensor([0.5, 3.0, -200.0]), torch.zeros(3), "none")
    assert losses.tolist() == pytest.approx([0.5 * 0.5**2, 3 - 0.5, 200 - 0.5])


def test_the_quality_is_the_mean_of_the_absolute_errors() -> None:
    outputs, labels = torch.tensor([1.0, -3.0]), torch.tensor([2.0, 1.0])
    merits = TASK.merits(TASK.predictions(outputs), labels)
    assert merits.tolist() == [1.0, 4.0] and merits.dtype == torch.float64


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (torch.zeros(2), None),
        (torch.zeros(2, 1), None),
        (torch.zeros(2, 10), "returned (2, 10), not one number per image"),
        (torch.zeros(3), "returned (3,), not one number per image"),
        ([0.0], "returned list, not one number per image"),
    ],
)
def test_what_is_wrong_with_the_outputs_of_a_network_is_told(outputs: object, told: str | None) -> None:
    assert TASK.misfit(outputs, 2, ()) == told


def test_strata_are_ranges_of_the_labels_with_as_many_images_each() -> None:
    labels = np.random.default_rng(0).lognormal(size=50)
    strata = TASK.strata(labels)
    assert np.bincount(strata).tolist() == [5] * STRATA
    assert all(labels[strata == k].max() < labels[strata == k + 1].min() for k in range(STRATA - 1))
    assert sorted(TASK.strata(np.array([7.0, 7.0, 7.0])).tolist()) == [
        0,
        1,
        2,
    ]  # never more strata than labels
    assert TASK.width(()) == 1
