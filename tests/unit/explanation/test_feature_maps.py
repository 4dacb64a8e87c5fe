"""The layer whose maps explain a network, and how a score moves with them."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation.feature_maps import explained, layer_of, maps_and_gradients
from tests.unit.drawn_weights import drawn


def pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("vgg11_bn", "features.27"),
        ("mobilenet_v2", "features"),
        ("squeezenet1_0", "classifier.2"),
    ],
)
def test_the_layer_is_what_ends_with_the_last_convolution(name: str, layer: str) -> None:
    net = torchvision.models.get_model(name, weights=None).eval()
    about = explained("look", net, torch.randn(1, 3, 64, 64), None)
    assert layer_of("look", about, None) == layer


def test_a_layer_that_runs_twice_is_named_once_and_found() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(F.relu(self.conv(x))).mean(dim=(2, 3)))

    net = drawn(Twice()).eval()
    about = explained("look", net, pictures(), 1)
    assert layer_of("look", about, None) == "conv"
    ((maps, slopes),) = maps_and_gradients(about, "conv")
    with torch.no_grad():
        torch.testing.assert_close(maps, net.conv(F.relu(net.conv(pictures()))))
    wanted = net.head.weight.detach()[1][None, :, None, None].expand(3, 3, 32, 32) / 32**2
    torch.testing.assert_close(slopes, wanted)


def test_maps_are_those_before_what_follows_overwrites_them() -> None:
    net = drawn(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3600, 3))
    ).eval()
    about = explained("look", net, pictures(), 0)
    ((maps, slopes),) = maps_and_gradients(about, "0")
    with torch.no_grad():
        raw = net[0](pictures())
    torch.testing.assert_close(maps, raw)
    assert float(maps.min()) < 0
    assert not slopes[maps < 0].any()


def test_networks_may_return_more_than_scores_but_these_first() -> None:
    class Pair(nn.Module):
        def __init__(self, scores: int) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 3, 3), nn.Linear(3, scores)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            maps = self.conv(x)
            return {"logits": self.head(maps.mean(dim=(2, 3))), "maps": maps}

    about = explained("look", Pair(4), pictures(), [0, 3, 1])
    assert about.targets.tolist() == [0, 3, 1]
    with pytest.raises(
        InputError, match=r"look: the network returns \(3, 1\) for 3 images; one score per class"
    ):
        explained("look", Pair(1), pictures(), None)


def test_what_is_explained_is_a_copy() -> None:
    net, images = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(1800, 2)), pictures()
    about = explained("look", net, images, torch.tensor(1))
    about.images.zero_()
    about.targets.zero_()
    assert images.any()
    assert all(a is not b for a, b in zip(about.model.parameters(), net.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in about.model.parameters())
