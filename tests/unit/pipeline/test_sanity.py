"""Networks that are no better than chance are told at once, and those that are better are left alone."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from causal_prune.comparison.arms import Recipe
from causal_prune.data.data import Data
from causal_prune.data.regression import regression_task
from causal_prune.errors import CausalPruneWarning
from causal_prune.pipeline.flow import compress
from causal_prune.pipeline.sanity import MOST_IMAGES, check_dense


class Said(nn.Module):
    """Answers with the class that an image holds in its first number."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(x[:, 0, 0, 0].long(), 10).float()


def recipe(right: float, images: int = 500, classes: int = 10, skew: float = 0.0) -> Recipe:
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (images,), generator=draw)
    labels[torch.rand(images, generator=draw) < skew] = 0
    said = torch.where(torch.arange(images) < round(right * images), labels, (labels + 1) % classes)
    order = torch.randperm(images, generator=draw)
    inputs = said[order].float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    split = TensorDataset(inputs, labels[order])
    data = Data(split, split, split, split, tuple(map(str, range(classes))), "said", "all")
    return Recipe(Said(), data, torch.zeros(2, 1, 2, 2))


@pytest.mark.parametrize("right", [0.0, 0.05, 0.1, 0.15])
def test_a_network_near_chance_is_told_with_the_likely_causes(right: float) -> None:
    told = rf"right on {right:.1%} of 500 validation images, their commonest class alone would be on 1\d.\d%: check the"
    with pytest.warns(CausalPruneWarning, match=told):
        text = check_dense(recipe(right))
    assert text is not None
    assert all(cause in text for cause in ("`mean`", "order of the classes", "weights"))


@pytest.mark.parametrize("right", [0.3, 0.5, 0.95])
def test_a_network_that_has_learned_something_is_left_alone(right: float) -> None:
    assert check_dense(recipe(right)) is None


def test_always_the_commonest_class_is_no_better_than_chance() -> None:
    with pytest.warns(CausalPruneWarning, match="the dense network is right on"):
        check_dense(recipe(0.8, skew=0.8))
    assert check_dense(recipe(0.99, skew=0.8)) is None


def test_two_classes_are_judged_by_the_test_alone() -> None:
    assert check_dense(recipe(0.7, classes=2)) is None
    with pytest.warns(CausalPruneWarning, match="the dense network is right on"):
        check_dense(recipe(0.52, classes=2))


def test_a_thousand_images_are_read_and_numbers_are_not_judged() -> None:
    many = recipe(0.05, images=3000)
    with pytest.warns(CausalPruneWarning, match=f"of {MOST_IMAGES:,} validation images"):
        check_dense(many)
    assert check_dense(replace(many, data=replace(many.data, task=regression_task("degrees")))) is None


@pytest.mark.filterwarnings("ignore:compensate:UserWarning")
def test_a_run_says_it_before_anything_else_and_in_its_report(net: nn.Module, data: Data) -> None:
    with pytest.warns(CausalPruneWarning, match="the dense network is right on"):
        report = compress(net, data, align=1, evidence="none").report
    assert any("the dense network is right on" in note for note in report.notes)
