"""A network that does not know its images is doubted at once; one that knows them, or a little of them, is not."""

import warnings
from dataclasses import replace

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from causal_prune.comparison import Recipe
from causal_prune.compensation.options import Repair
from causal_prune.data.data import Data
from causal_prune.data.regression import regression_task
from causal_prune.data.task import Task
from causal_prune.errors import CausalPruneWarning
from causal_prune.fine_tuning.options import Tuning
from causal_prune.onnx_files.options import OnnxForm
from causal_prune.pipeline.sanity import doubts
from tests.unit.counted_images import Counted

CHECK = (
    "check the normalisation (mean, std), the order of the classes, and whether the weights are those of "
    "this network"
)


class Told(nn.Module):
    """Answers with the number that is written in the first pixel of an image."""

    def __init__(self, classes: int | None) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        said = images[:, 0, 0, 0]
        return said if self.classes is None else nn.functional.one_hot(said.long(), self.classes).float()


def recipe(labels: Tensor, answers: Tensor, task: Task | None = None) -> Recipe:
    """Of a network that gives these answers to validation images of these labels."""
    images = torch.zeros(len(labels), 1, 2, 2)
    images[:, 0, 0, 0] = answers
    validation = TensorDataset(images, labels)
    other = Counted(4, 0)
    classes = () if task else tuple("abcdefghij")
    data = Data(other, validation, other, other, classes, "made", "4 images")  # type: ignore[arg-type]
    data = data if task is None else replace(data, task=task)
    dense = Told(len(classes) or None).eval()
    return Recipe(
        dense=dense,
        data=data,
        example=images[:2],
        form=OnnxForm(),
        views=1,
        repair=Repair(),
        tuning=Tuning(),
        mode="remove",
        seed=0,
        device="cpu",
    )


def hitting(right: int, images: int, classes: int = 10) -> tuple[Tensor, Tensor]:
    """Balanced labels, and answers of which so many, evenly spread, are right."""
    labels = torch.arange(images) % classes
    wrong = torch.ones(images, dtype=torch.long)
    wrong[torch.arange(right) * images // max(right, 1)] = 0
    return labels, (labels + wrong) % classes


def told(which: Recipe) -> str | None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = doubts(which)
    assert [str(each.message) for each in caught] == list(found), "what is noted was said"
    assert all(issubclass(each.category, CausalPruneWarning) for each in caught)
    return found[0] if found else None


def test_a_network_at_chance_is_told_with_the_likely_causes() -> None:
    assert told(recipe(*hitting(110, 1000))) == (
        "the dense network is right on 11.0 % of 1,000 validation images, and always naming their largest class would "
        f"be on 10.0 %: {CHECK}"
    )


@pytest.mark.parametrize(
    ("right", "images", "doubted"),
    [
        (0, 1000, True),
        (1000, 1000, False),
        (199, 1000, True),  # surely above chance, but below twice chance
        (201, 1000, False),
        (600, 1000, False),
        (9, 20, False),
        (4, 20, True),  # twice chance of so few images is chance
    ],
)
def test_near_chance_is_below_twice_chance_or_not_surely_above_it(
    right: int, images: int, doubted: bool
) -> None:
    assert (told(recipe(*hitting(right, images))) is not None) is doubted
    p = stats.binomtest(right, images, 0.1, alternative="greater").pvalue
    assert doubted == (p > 0.05 or right < 0.2 * images)


def test_always_naming_the_largest_class_is_no_knowledge() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    text = told(recipe(labels, torch.zeros(100)))
    assert text is not None and "is right on 90.0 % of 100" in text and "class would be on 90.0 %: " in text
    assert told(recipe(labels, labels)) is None
    better = torch.where(torch.arange(100) % 10 == 9, 1 - labels, labels)
    assert told(recipe(labels, better)) is not None, "81 right of 100 are fewer"


def test_two_classes_are_judged_against_a_half() -> None:
    labels = torch.arange(1000) % 2
    assert told(recipe(labels, torch.where(torch.arange(1000) < 600, labels, 1 - labels))) is None
    assert told(recipe(labels, torch.where(torch.arange(1000) < 510, labels, 1 - labels))) is not None
    assert told(recipe(labels, 1 - labels)) is not None, "the classes are in the wrong order"


def test_at_most_a_thousand_images_are_read_and_they_are_spread() -> None:
    labels, answers = hitting(0, 2500)
    answers[1::5] = labels[1::5]  # never read: of 2,500 images 0, 2, 5, 7, 10, ... are
    answers[::25] = labels[::25]
    text = told(recipe(labels, answers))
    assert text is not None and "is right on 10.0 % of 1,000 validation images" in text


@pytest.mark.parametrize("images", [0, 1, 3, 19, 20])
def test_a_handful_of_images_tells_nothing(images: int) -> None:
    labels, answers = hitting(0, images)
    assert (told(recipe(labels, answers)) is not None) is (images == 20)


def test_numbers_are_judged_against_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(200, generator=generator)
    task = regression_task(unit="degrees")
    noise = torch.randn(200, generator=generator)
    assert told(recipe(labels, labels + 0.3 * noise, task)) is None
    text = told(recipe(labels, noise, task))
    error, guess = (labels - noise).abs().mean(), (labels - labels.mean()).abs().mean()
    assert text == (
        f"the dense network has a mean absolute error of {error:.3f} degrees on 200 validation images, and always "
        f"naming their mean label would have {guess:.3f} degrees: check the normalisation (mean, std), the unit of the "
        "labels, and whether the weights are those of this network"
    )
    constant = torch.full_like(labels, float(labels.mean()))
    assert told(recipe(labels, constant, task)) is not None, "the guess itself"


def test_a_task_of_ones_own_is_left_alone() -> None:
    labels, answers = hitting(0, 100)
    other = replace(recipe(labels, answers).data.task, has_classes=False)
    assert (
        told(replace(recipe(labels, answers), data=replace(recipe(labels, answers).data, task=other))) is None
    )
