"""Drift of arms against its definition, with the floors that it is read against."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from causal_prune.comparison.arms import Recipe, dense_arm
from causal_prune.comparison.kept_reasons import check_explained, drifts_of, explained_images
from causal_prune.comparison.outcome import ArmResult, Outcome
from causal_prune.errors import InputError
from causal_prune.explanation import grad_cam
from causal_prune.explanation.map_drift import compared, drift, randomised
from tests.unit.counted_images import Counted


def changed(network: nn.Module, share: float, seed: int) -> nn.Module:
    import copy

    other = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(share * parameter.abs().mean() * torch.randn(parameter.shape, generator=generator))
    return other


@pytest.fixture
def outcome(recipe: Recipe) -> Outcome:
    dense = dense_arm(recipe)

    def arm(name: str, share: float, seed: int | None = None) -> ArmResult:
        return replace(dense, name=name, seed=seed, model=changed(recipe.dense, share, seed or 0))

    return Outcome(dense, arm("causal", 0.05), (arm("random", 0.4, 1), arm("random", 0.3, 2)))


def test_every_arm_is_compared_with_dense_on_the_same_test_images(recipe: Recipe, outcome: Outcome) -> None:
    images = explained_images(recipe.data.test)
    assert len(images) == 40
    (told,) = drifts_of(recipe, outcome, ["grad_cam"])
    assert [(each.name, each.seed) for each in told.networks] == [
        ("causal", None), ("random", 1), ("random", 2),
    ]  # fmt: skip
    for each, arm in zip(told.networks, (outcome.causal, *outcome.others), strict=True):
        expected = drift(recipe.dense, arm.model, images, method="grad_cam").summary()
        assert each.spearman == pytest.approx(expected["spearman"]) and each.iou == pytest.approx(
            expected["iou"]
        )
        assert each.pointing == pytest.approx(expected["pointing"])
        assert (each.constant, each.disagreeing) == (expected["constant"], expected["disagreeing"])
        found = drift(recipe.dense, arm.model, images, method="grad_cam")
        assert told.images == 40 and each.compared == int((found.alike & ~found.constant).sum())


def test_the_floors_are_a_network_that_learned_nothing_and_maps_drawn_again(
    recipe: Recipe, outcome: Outcome
) -> None:
    images = explained_images(recipe.data.test)
    told = drifts_of(recipe, outcome, ["grad_cam", "smooth_grad"])
    bare = randomised(recipe.dense, recipe.seed, images=images)
    whole = drift(recipe.dense, bare, images, method="grad_cam")
    usable = ~whole.constant
    assert told[0].unlearned.spearman == pytest.approx(whole.spearman[usable].mean()), "of all images"
    assert told[0].unlearned.disagreeing == int((~whole.alike).sum()) > 0
    assert told[0].unlearned.compared == int(usable.sum())
    assert told[0].repeated.spearman > told[0].unlearned.spearman
    assert 0 < told[1].repeated.spearman < 1, "another seed of its noise"
    assert [each.method for each in told] == ["grad_cam", "smooth_grad"]


def test_causal_less_random_is_over_images_that_all_three_classify_alike(
    recipe: Recipe, outcome: Outcome
) -> None:
    images = explained_images(recipe.data.test)
    (told,) = drifts_of(recipe, outcome, ["grad_cam"])
    predictions = [
        arm.model(images).argmax(1).numpy() for arm in (outcome.dense, outcome.causal, *outcome.others)
    ]
    maps = [
        grad_cam(arm.model, images, torch.from_numpy(predictions[0])).flatten(1).double().numpy()
        for arm in (outcome.dense, outcome.causal, *outcome.others)
    ]
    differences = []
    for k in (2, 3):
        both = (predictions[1] == predictions[0]) & (predictions[k] == predictions[0])
        causal, random = (compared("", maps[0], maps[j], both) for j in (1, k))
        both &= ~causal.constant & ~random.constant
        differences.append(np.mean(causal.spearman[both] - random.spearman[both]))
    found = told.causal_minus_random
    assert found is not None and found.mean == pytest.approx(np.mean(differences))
    assert found.wins_of == (sum(value > 0 for value in differences), 2)
    assert found.ci95 is not None and found.ci95[0] < found.mean < found.ci95[1]
    (alone,) = drifts_of(recipe, Outcome(outcome.dense, outcome.causal), ["grad_cam"])
    assert alone.causal_minus_random is None


def test_nothing_is_read_unless_it_was_asked_for_and_no_label_is(recipe: Recipe, outcome: Outcome) -> None:
    assert drifts_of(recipe, outcome, []) == ()
    images = torch.stack([recipe.data.test[k][0] for k in range(40)])
    unlabelled = TensorDataset(images, torch.full((40,), -7))
    other = replace(recipe, data=replace(recipe.data, test=unlabelled))
    assert drifts_of(other, outcome, ["saliency"]) == drifts_of(recipe, outcome, ["saliency"])


def test_images_are_spread_evenly(recipe: Recipe) -> None:
    some = explained_images(Counted(50, 1), 10)
    whole = torch.stack([Counted(50, 1)[k][0] for k in range(0, 50, 5)])
    assert torch.equal(some, whole)


def test_a_network_that_cannot_be_explained_is_told_at_once(recipe: Recipe) -> None:
    check_explained(recipe, ["grad_cam", "cam"])
    bare = replace(recipe, dense=nn.Sequential(nn.Flatten(), nn.Linear(72, 3)))
    check_explained(bare, ["saliency"])
    with pytest.raises(InputError, match="grad_cam: the network has no convolution"):
        check_explained(bare, ["saliency", "grad_cam"])


def test_models_of_the_arms_stay_as_they_were(recipe: Recipe, outcome: Outcome) -> None:
    before = {key: value.clone() for key, value in outcome.causal.model.state_dict().items()}
    drifts_of(recipe, outcome, ["grad_cam"])
    after = outcome.causal.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module._forward_hooks for module in outcome.causal.model.modules())
