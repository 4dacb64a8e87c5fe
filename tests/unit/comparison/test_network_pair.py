"""Two networks side by side: the pictures hold the maps, the drift is that of `drift`."""

import numpy as np
import pytest
import torch

from causal_prune.comparison.arms import Recipe
from causal_prune.comparison.kept_reasons import explained_images
from causal_prune.comparison.network_pair import SHOWN, Shown, side_by_side
from causal_prune.errors import InputError
from causal_prune.explanation import drift, grad_cam
from tests.unit.comparison.test_kept_reasons import changed


def test_rows_hold_image_both_maps_and_their_difference(recipe: Recipe) -> None:
    images, other = explained_images(recipe.data.test, 5), changed(recipe.dense, 0.3, 1)
    shown = Shown(images, [f"image {k}" for k in range(5)], ("cat", "dog"))
    (found,) = side_by_side(recipe.dense, other, shown, ["grad_cam"])
    targets = recipe.dense(images).argmax(1)
    first, second = (grad_cam(net, images, targets).detach() for net in (recipe.dense, other))
    cells = [axes for axes in found.figure.axes if axes.images]
    assert found.shown == 5
    for k in range(5):
        _, dense, small, gap = (cells[4 * k + j] for j in range(4))
        np.testing.assert_allclose(dense.images[0].get_array(), first[k], atol=1e-6)
        np.testing.assert_allclose(small.images[0].get_array(), second[k], atol=1e-6)
        np.testing.assert_allclose(gap.images[0].get_array(), second[k] - first[k], atol=1e-6)
        assert dense.images[0].get_clim() == small.images[0].get_clim(), "one scale for both"
        label = int(targets[k])
        name = ("cat", "dog", "2")[label]
        assert cells[4 * k].get_title(loc="left").startswith(f"image {k}\ndense: {name}\ncompressed: ")
    expected = drift(recipe.dense, other, images, method="grad_cam")
    assert found.drift.networks[0].name == "compressed"
    assert found.drift.networks[0].spearman == pytest.approx(expected.summary()["spearman"])
    assert found.drift.causal_minus_random is None
    told = cells[3].get_title()
    assert told == "difference" if np.isnan(expected.spearman[0]) else told.startswith("difference (corr. ")


def test_of_many_images_all_are_compared_and_some_are_drawn(recipe: Recipe) -> None:
    images = explained_images(recipe.data.test, 30)
    shown = Shown(images, [f"a name that is much too long for a caption, {k}" for k in range(30)])
    found = list(side_by_side(recipe.dense, recipe.dense, shown, ["grad_cam", "saliency"]))
    assert [each.drift.method for each in found] == ["grad_cam", "saliency"]
    assert all(each.shown == SHOWN and each.drift.images == 30 for each in found)
    captions = [axes.get_title(loc="left") for axes in found[0].figure.axes if axes.get_title(loc="left")]
    assert len(captions) == SHOWN and all(len(line) <= 34 for text in captions for line in text.splitlines())


def test_a_method_that_learns_statistics_learns_them_from_calibration_images(recipe: Recipe) -> None:
    images = explained_images(recipe.data.test, 3)
    shown = Shown(images, list("abc"))
    batches = [torch.randn(60, 2, 6, 6, generator=torch.Generator().manual_seed(1))]
    own, learned = (
        next(side_by_side(recipe.dense, recipe.dense, shown, ["information_bottleneck"], calibration=given))
        for given in (None, batches)
    )
    cells = [
        [axes.images[0].get_array() for axes in each.figure.axes if axes.images] for each in (own, learned)
    ]
    assert not np.allclose(cells[0][1], cells[1][1])


def test_an_unknown_method_is_refused(recipe: Recipe) -> None:
    shown = Shown(explained_images(recipe.data.test, 2), list("ab"))
    with pytest.raises(InputError, match="drift: method 'gradcam' is not one of saliency"):
        list(side_by_side(recipe.dense, recipe.dense, shown, ["gradcam"]))
