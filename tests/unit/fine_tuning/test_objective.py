"""The loss of fine-tuning, against arithmetic written out in the test."""

import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal_prune.data.classification import CLASSIFICATION
from causal_prune.data.regression import regression_task
from causal_prune.errors import InputError
from causal_prune.fine_tuning.objective import Objective, auxiliary_outputs

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 1.5, -0.5]])
LABELS = torch.tensor([0, 2])
INPUTS = torch.tensor([[1.0, -1.0], [0.5, 2.0]])


class Teacher(nn.Module):
    """Logits that follow from the inputs and one weight."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1.0, 1.5, 2 * width).reshape(2, width))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def softmax(row: list[float]) -> list[float]:
    whole = sum(math.exp(value) for value in row)
    return [math.exp(value) / whole for value in row]


def cross_entropy(logits: Tensor) -> float:
    losses = [-math.log(softmax(row)[label]) for row, label in zip(logits.tolist(), LABELS, strict=True)]
    return sum(losses) / len(losses)


def divergence(logits: Tensor, teacher: Tensor, temperature: float) -> float:
    """T^2 times the mean over images of KL(teacher || network)."""
    total = 0.0
    for own, wanted in zip((logits / temperature).tolist(), (teacher / temperature).tolist(), strict=True):
        total += sum(t * math.log(t / z) for t, z in zip(softmax(wanted), softmax(own), strict=True))
    return temperature**2 * total / len(logits)


def loss(
    outputs: Any, teacher: nn.Module | None = None, *, share: float = 0.5, auxiliary: tuple[int, ...] = ()
) -> Tensor:
    return Objective(CLASSIFICATION, teacher, 3.0, share, auxiliary)(outputs, INPUTS, LABELS, "batch 1")


def test_without_a_teacher_it_is_the_loss_of_the_task_whatever_the_share() -> None:
    assert loss(LOGITS).item() == pytest.approx(cross_entropy(LOGITS))
    assert torch.equal(loss(LOGITS, share=1.0), loss(LOGITS))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_teacher_has_its_share(share: float) -> None:
    teacher = Teacher()
    with torch.no_grad():
        wanted = teacher(INPUTS)
    expected = (1 - share) * cross_entropy(LOGITS) + share * divergence(LOGITS, wanted, 3.0)
    assert loss(LOGITS, teacher, share=share).item() == pytest.approx(expected)


def test_a_network_like_its_teacher_loses_nothing_against_it() -> None:
    teacher = Teacher()
    assert loss(teacher(INPUTS), teacher, share=1.0).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("taught", [True, False])
def test_every_auxiliary_output_counts_three_tenths(taught: bool) -> None:
    teacher = Teacher() if taught else None
    second, third = LOGITS.flip(0), -LOGITS
    expected = loss(LOGITS, teacher) + 0.3 * loss(second, teacher) + 0.3 * loss(third, teacher)
    outputs = {"logits": LOGITS, "aux": (second, None), "more": [third]}
    torch.testing.assert_close(loss(outputs, teacher, auxiliary=(1, 2)), expected)
    assert torch.equal(loss(outputs, teacher), loss(LOGITS, teacher))


def test_the_teachers_own_further_outputs_are_passed_over() -> None:
    class TwoHeads(Teacher):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as GoogLeNet does
            return x @ self.weight, x @ -self.weight

    assert torch.equal(loss(LOGITS, TwoHeads()), loss(LOGITS, Teacher()))


def test_gradients_reach_the_outputs_and_not_the_teacher() -> None:
    outputs, teacher = LOGITS.clone().requires_grad_(), Teacher()
    loss(outputs, teacher).backward()
    assert outputs.grad is not None and bool((outputs.grad != 0).all())
    assert teacher.weight.grad is None


def test_another_task_has_its_own_loss_and_distance() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 1), 2.0)

    outputs, labels = torch.tensor([[0.5], [3.0]]), torch.tensor([0.0, 5.0])
    objective = Objective(regression_task(), Constant(), 4.0, 0.25)
    hard = (0.5 * 0.5**2 + (2.0 - 0.5)) / 2  # smooth L1: half of the square below 1, less a half beyond
    soft = ((1.5 - 0.5) + 0.5 * 1.0**2) / 2
    assert objective(outputs, INPUTS, labels, "").item() == pytest.approx(0.75 * hard + 0.25 * soft)


@pytest.mark.parametrize(
    ("outputs", "labels", "teacher", "text"),
    [
        (
            LOGITS,
            LABELS,
            Teacher(7),
            "fine_tune: the teacher's outputs are (2, 7), the network's (2, 3): give the network that it was cut from",
        ),
        (
            LOGITS,
            LABELS,
            nn.Flatten(0),
            "model 'teacher' returned (4,) for batch 1: a classifier must return logits (images, at least 2 classes)",
        ),
        (
            "nothing",
            LABELS,
            None,
            "model 'tuned' returned str for batch 1: a classifier must return logits (images, at least 2 classes)",
        ),
        (LOGITS, torch.tensor([0]), None, "batch 1 has 1 labels, but model 'tuned' returned 2 rows"),
        (
            LOGITS,
            torch.tensor([0, 3]),
            None,
            "label 3 in batch 1 is outside 0 to 2, the 3 classes of model 'tuned'",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    outputs: Any, labels: Tensor, teacher: nn.Module | None, text: str
) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        Objective(CLASSIFICATION, teacher, 4.0, 0.5)(outputs, INPUTS, labels, "batch 1")


class Outputs(nn.Module):
    """Returns what it was told to return, in training and in eval mode."""

    def __init__(self, training: Any, as_used: Any) -> None:
        super().__init__()
        self.returned = {True: training, False: as_used}

    def forward(self, x: Tensor) -> Any:
        return self.returned[self.training]


SCORES, EMBEDDING = torch.zeros(2, 3), torch.zeros(2, 5)


@pytest.mark.parametrize(
    ("training", "as_used", "asked", "expected"),
    [
        (SCORES, SCORES, (), ()),
        ((SCORES, SCORES), SCORES, (), (1,)),
        ((SCORES, None, SCORES), SCORES, (), (1,)),
        ((SCORES, EMBEDDING), (SCORES, EMBEDDING), (), ()),
        ((SCORES, SCORES), (SCORES, SCORES), (), ()),
        ((SCORES, SCORES), (SCORES, SCORES), (1,), (1,)),
        ((SCORES, EMBEDDING, SCORES), (SCORES, EMBEDDING), (), (2,)),
        ({"out": SCORES, "aux": SCORES}, {"out": SCORES}, (), (1,)),
        ({"out": SCORES, "aux": SCORES, "z": EMBEDDING}, {"out": SCORES, "z": EMBEDDING}, (), (1,)),
    ],
)
def test_further_outputs_are_scores_where_only_training_has_them_or_the_caller_says_so(
    training: Any, as_used: Any, asked: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    net = Outputs(training, as_used).eval()
    assert auxiliary_outputs(net, INPUTS, asked) == expected
    assert not net.training


@pytest.mark.parametrize(
    ("training", "as_used", "asked", "text"),
    [
        (
            (SCORES, EMBEDDING),
            (SCORES, EMBEDDING),
            (1,),
            r"auxiliary=1 names output_1, of shape \(2, 5\): the sco",
        ),
        ((SCORES, EMBEDDING), (SCORES, EMBEDDING), (2,), "auxiliary=2 is no further output: there are 1$"),
        (
            (SCORES, SCORES),
            {"a": SCORES, "b": SCORES},
            (),
            "returns output_0, output_1 in training and a, b in eval",
        ),
    ],
)
def test_further_outputs_that_cannot_be_scores_are_refused_by_name(
    training: Any, as_used: Any, asked: tuple[int, ...], text: str
) -> None:
    with pytest.raises(InputError, match=f"^fine_tune: .*{text}"):
        auxiliary_outputs(Outputs(training, as_used), INPUTS, asked)
