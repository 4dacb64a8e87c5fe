"""What stands on the contact sheets: which images, in which colours, with which words."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from causal_prune.comparison.arms import Recipe, dense_arm
from causal_prune.comparison.contact_sheets import sheets_of
from causal_prune.comparison.flips import harm_of
from causal_prune.comparison.outcome import ArmResult, Outcome, Stages
from causal_prune.explanation import grad_cam
from causal_prune.measure.quality import Measured


def with_predictions(arm: ArmResult, name: str, predictions: np.ndarray) -> ArmResult:
    labels = arm.stages.end.labels
    return replace(arm, name=name, stages=Stages(Measured(predictions, predictions == labels, labels)))


@pytest.fixture
def outcome(recipe: Recipe) -> Outcome:
    base = dense_arm(recipe)
    labels = base.stages.end.labels
    dense, causal = labels.copy(), labels.copy()
    causal[[3, 5]] = (labels[[3, 5]] + 1) % 3
    dense[8] = (labels[8] + 1) % 3
    return Outcome(
        with_predictions(base, "dense", dense),
        with_predictions(base, "causal", causal),
        (with_predictions(base, "random", causal),),
    )


def titles(figure) -> list[str]:
    return [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes if axes.images]


def test_flipped_images_stand_beside_both_maps_with_what_is_said(recipe: Recipe, outcome: Outcome) -> None:
    sheets = sheets_of(recipe, outcome, harm_of(outcome, recipe.data.classes))
    assert [sheet.told.name for sheet in sheets] == ["flipped", "exemplars"]
    names, end = recipe.data.classes, outcome.dense.stages.end
    flipped, exemplars = sheets
    heads = titles(flipped.figure)
    assert len(heads) == 9 and heads[1:3] == ["dense", "causal"]
    label = names[end.labels[3]]
    assert (
        heads[0]
        == f"lost: {label}\ndense: {label}\ncausal: {names[outcome.causal.stages.end.predictions[3]]}"
    )
    assert heads[6].startswith(f"gained: {names[end.labels[8]]}\ndense: {names[end.predictions[8]]}\n")
    images = torch.stack([recipe.data.test[k][0] for k in (3, 5, 8)])
    expected = grad_cam(recipe.dense, images, torch.from_numpy(end.labels[[3, 5, 8]]))
    cells = [axes for axes in flipped.figure.axes if axes.images]
    for row, maps in enumerate(expected):
        np.testing.assert_allclose(cells[3 * row + 1].images[0].get_array(), maps, atol=1e-6)
    for told in (
        "2 of 2 test images that were lost",
        "1 of 1 that were gained",
        "Grad-CAM of the right class",
    ):
        assert told in flipped.told.caption
    assert len(titles(exemplars.figure)) == 3 and "2 of 2: " in titles(exemplars.figure)[0]
    assert exemplars.told.caption.startswith("3 of 3 test images on which most pruned networks")


def test_images_have_their_own_colours(recipe: Recipe, outcome: Outcome) -> None:
    image = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(0))
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    inputs = (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    test = [(inputs, int(label)) for label in outcome.dense.stages.end.labels]
    data = replace(recipe.data, test=test, mean=mean, std=std)
    sheets = sheets_of(replace(recipe, data=data), outcome, harm_of(outcome, data.classes))
    shown = np.asarray(sheets[1].figure.axes[0].images[0].get_array())
    np.testing.assert_allclose(shown, image.permute(1, 2, 0), atol=1e-6)


def test_a_network_without_maps_has_a_sheet_of_images_and_says_why(recipe: Recipe, outcome: Outcome) -> None:
    bare = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval()
    other = outcome.each(lambda arm: replace(arm, model=bare))
    sheets = sheets_of(replace(recipe, dense=bare), other, harm_of(other, recipe.data.classes))
    assert len(titles(sheets[0].figure)) == 3
    assert "Without maps: grad_cam: the network has no convolution" in sheets[0].told.caption


def test_where_nothing_changed_there_is_no_sheet(recipe: Recipe, outcome: Outcome) -> None:
    same = Outcome(outcome.dense, replace(outcome.dense, name="causal"))
    assert sheets_of(recipe, same, harm_of(same, recipe.data.classes)) == ()
    assert sheets_of(recipe, same, None) == ()


def test_of_many_images_some_are_shown_and_long_names_are_cut(recipe: Recipe, outcome: Outcome) -> None:
    wrong = (outcome.dense.stages.end.labels + 1) % 3
    many = Outcome(outcome.dense, with_predictions(outcome.dense, "causal", wrong))
    names = ("a" * 40, "b" * 40, "c" * 40)
    data = replace(recipe.data, classes=names)
    sheets = sheets_of(replace(recipe, data=data), many, harm_of(many, names))
    heads = titles(sheets[0].figure)
    assert sum(head.startswith("lost") for head in heads) == 8
    assert all(len(line) < 30 for head in heads for line in head.splitlines())
    assert "8 of 39 test images that were lost and 0 of 0 that were gained" in sheets[0].told.caption
    assert len(titles(sheets[1].figure)) == 16
