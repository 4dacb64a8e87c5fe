"""What every task does alike: NaN is no answer, and the standard task is that of reports that name none."""

from dataclasses import FrozenInstanceError, replace

import pytest
import torch

from causal_prune.data import STANDARD_TASK, Task, regression_task
from causal_prune.errors import InputError
from causal_prune.report import ACCURACY

TASKS = [STANDARD_TASK, regression_task()]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_nan_is_no_answer(task: Task) -> None:
    output = torch.zeros(3, 2 if task.has_classes else 1)
    assert torch.equal(task.answers(output, "Net", "batch 1"), task.outputs(output, "Net", "batch 1"))
    output[1, 0] = float("nan")
    with pytest.raises(InputError, match="^model 'Net' returned NaN for batch 1: check its weights"):
        task.answers(output, "Net", "batch 1")


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_losses_are_reduced_as_asked(task: Task) -> None:
    outputs = torch.tensor([[0.5, -1.0], [2.0, 1.0]]) if task.has_classes else torch.tensor([0.5, 2.0])
    labels = torch.tensor([1, 0]) if task.has_classes else torch.tensor([4.0, 2.5])
    each = task.losses(outputs, labels, "none")
    assert each.shape == (2,) and bool((each > 0).all())
    assert task.losses(outputs, labels, "mean").item() == pytest.approx(each.mean().item())
    assert task.losses(outputs, labels, "sum").item() == pytest.approx(each.sum().item())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_network_lies_at_no_distance_from_itself_and_gradients_pull_it_to_its_teacher(task: Task) -> None:
    teacher = torch.tensor([[1.0, -1.0], [0.5, 2.0]]) if task.has_classes else torch.tensor([1.0, -3.0])
    assert task.distance(teacher, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)
    outputs = torch.zeros_like(teacher, requires_grad=True)
    before = task.distance(outputs, teacher, 2.0)
    (step,) = torch.autograd.grad(before, outputs)
    assert 0 <= task.distance(outputs - 0.1 * step, teacher, 2.0) < before


def test_the_standard_task_measures_accuracy() -> None:
    assert STANDARD_TASK.yardstick == ACCURACY and STANDARD_TASK.has_classes


def test_a_task_is_a_value() -> None:
    other = replace(STANDARD_TASK, name="other")
    assert other.name == "other" and STANDARD_TASK.name == "classification"
    with pytest.raises(FrozenInstanceError, match="name"):
        STANDARD_TASK.name = "changed"  # type: ignore[misc]
