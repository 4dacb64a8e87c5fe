"""Maps of a convolution, and images in their colours, against values by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation.response_maps import (
    colours_of,
    convolution_of,
    heatmap,
    heatmaps_of,
    importances_of,
    responses_of,
)
from tests.unit.drawn_weights import drawn


def test_a_heatmap_is_stretched_and_enlarged() -> None:
    weighted = torch.tensor([[1.0, 3.0], [5.0, 2.0]])
    image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    found = heatmap(
        weighted, (image - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None], mean, std
    )
    np.testing.assert_allclose(found.raw, [[0, 0.5], [1, 0.25]])
    assert found.heat.shape == (4, 4)
    # the corners of an enlarged picture are those of the small one, and between them it is linear
    np.testing.assert_allclose(found.heat[0], [0, 0.125, 0.375, 0.5])
    np.testing.assert_allclose(found.image, image.permute(1, 2, 0), atol=1e-6)


def test_images_without_a_known_scale_are_stretched() -> None:
    grey = torch.tensor([[[-2.0, 0.0], [1.0, 2.0]]])
    expected = np.repeat(np.array([[0, 0.5], [0.75, 1]])[..., None], 3, axis=2)
    for mean, std in ((None, None), ((0.5,), None), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))):
        np.testing.assert_allclose(heatmap(torch.ones(2, 2), grey, mean, std).image, expected)
    known = colours_of(grey / 4, (0.5,), (0.5,))
    np.testing.assert_allclose(known[..., 0], [[0.25, 0.5], [0.625, 0.75]])
    colours = torch.stack([grey[0], grey[0] * 2, grey[0] * 0])
    found = heatmap(torch.ones(2, 2), colours, None, None).image
    assert found.min() == 0 and found.max() == 1 and found.shape == (2, 2, 3)


def test_values_outside_the_scale_are_cut_off_and_a_flat_map_is_zero() -> None:
    found = heatmap(torch.full((2, 2), 7.0), torch.full((3, 2, 2), 9.0), (0.0,) * 3, (1.0,) * 3)
    assert not found.raw.any() and not found.heat.any()
    np.testing.assert_array_equal(found.image, np.ones((2, 2, 3)))


@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_shown_by_their_mean(channels: int) -> None:
    image = torch.rand(channels, 3, 5, generator=torch.Generator().manual_seed(0))
    shown = colours_of(image)
    middle = image.double().mean(dim=0)
    np.testing.assert_allclose(shown[..., 1], (middle - middle.min()) / (middle.max() - middle.min()))
    known = colours_of((image - 0.5) / 0.25, (0.5,) * channels, (0.25,) * channels)
    np.testing.assert_allclose(known[..., 2], middle, atol=1e-6)


class Late(nn.Module):
    """The convolution that is registered first runs last, and one never does."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first, self.never = nn.Conv2d(2, 3, 1), nn.Conv2d(3, 2, 3), nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return self.last(torch.relu(self.first(x)))


def test_responses_are_raw_outputs_and_the_network_is_as_before() -> None:
    net, images = drawn(Late()).train(), torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    batch, maps = responses_of(net, images, "first")
    with torch.no_grad():
        expected = net.first(before * 2)
    np.testing.assert_allclose(maps, expected.double(), atol=1e-6)
    assert torch.equal(images, before) and torch.equal(batch, before) and net.training
    assert not any(module._forward_hooks for module in net.modules())
    assert responses_of(net, images[0], "first")[1].shape == (1, 2, 4, 4)
    whole = heatmaps_of(net, images, [1.0, 2.0], "first", None, None)
    by_hand = heatmap(maps[1, 0] + 2 * maps[1, 1], images[1], None, None)
    np.testing.assert_allclose(whole[1].raw, by_hand.raw)


@pytest.mark.parametrize(
    ("images", "importances", "layer", "match"),
    [
        (
            torch.rand(2, 3, 6, 6),
            [1.0],
            "first",
            r"importances: the shape is \(1,\); one for each of 2 filters",
        ),
        (torch.rand(2, 3, 6, 6), [1.0, np.inf], "first", "importances: some are not finite"),
        (torch.rand(2, 3, 6, 6), [1.0, 2.0], "head", "layer: there is no layer 'head' in the network"),
        (torch.rand(2, 3, 6, 6), [1.0], "", "layer: '' is no Conv2d"),
        (torch.rand(2, 3, 6, 6), [1.0], "never", "layer: 'never' does not run"),
        (torch.rand(5, 6, 6), [1.0, 2.0], "first", r"images: the shape is \(5, 6, 6\); give"),
        (torch.rand(0, 3, 6, 6), [1.0, 2.0], "first", r"images: the shape is \(0, 3, 6, 6\); give"),
        ([[1.0]], [1.0, 2.0], "first", "images: list is no tensor"),
        (torch.rand(2, 1, 6, 6), [1.0, 2.0], "first", "images: the network does not accept the images"),
    ],
)
def test_what_does_not_fit_is_named(images: Tensor, importances: list[float], layer: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        heatmaps_of(drawn(Late()), images, importances, layer, None, None)


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(InputError, match="model: there is no Conv2d in it"):
        convolution_of(nn.Linear(2, 2), None)
    assert convolution_of(Late(), None)[0] == "last", "in order of registration"
    assert importances_of(torch.tensor([1.0, 2.0], requires_grad=True), 2).tolist() == [1, 2]
