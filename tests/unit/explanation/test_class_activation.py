"""Class activation maps against their definitions, and against other packages where these are right."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation import class_activation
from tests.unit.drawn_weights import drawn
from tests.unit.explanation.classifiers import last_maps, network, pictures


def test_cam_is_the_classifier_over_the_maps_and_its_mean_the_score() -> None:
    net, images = network(), pictures()
    found = class_activation.cam(net, images, [0, 1, 2, 3, 1], resize=False)
    maps, weight = last_maps(net, images), net.head.weight.detach()
    wanted = torch.stack([(weight[t][:, None, None] * maps[k]).sum(0) for k, t in enumerate([0, 1, 2, 3, 1])])
    torch.testing.assert_close(found, wanted)
    with torch.no_grad():
        scores = net(images)[torch.arange(5), torch.tensor([0, 1, 2, 3, 1])]
    bias = net.head.bias.detach()[[0, 1, 2, 3, 1]]
    torch.testing.assert_close(found.mean(dim=(1, 2)) + bias, scores)


def test_grad_cam_is_cam_by_the_size_of_the_maps_where_both_apply() -> None:
    net, images = network().double(), pictures().double()
    size = 6 * 5
    both = (
        class_activation.grad_cam(net, images, resize=False),
        class_activation.cam(net, images, resize=False),
    )
    torch.testing.assert_close(both[0], (both[1] / size).clamp_min(0), rtol=0, atol=1e-7)


def test_grad_cam_is_captums_where_nothing_overwrites_the_maps() -> None:
    net, images = network(), pictures()
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    wanted = LayerGradCam(plain, plain.body[5]).attribute(images, target=1, relu_attributions=True)
    torch.testing.assert_close(class_activation.grad_cam(net, images, 1, resize=False), wanted[:, 0].detach())
    raw = LayerGradCam(plain, plain.body[4]).attribute(images, target=1, relu_attributions=True)
    found = class_activation.grad_cam(net, images, 1, layer="body.4", resize=False)
    torch.testing.assert_close(found, raw[:, 0].detach())


def test_grad_cam_is_torchcams() -> None:
    from torchcam.methods import GradCAM

    net, images = network(), pictures(1)
    with GradCAM(net, target_layer=net.body) as extractor:
        scores = net(images)
        (wanted,) = extractor(1, scores, normalized=False)
    torch.testing.assert_close(class_activation.grad_cam(net, images, 1, resize=False), wanted.detach())


def test_grad_cam_plus_plus_has_the_weights_of_grad_cam_its_package() -> None:
    from pytorch_grad_cam import GradCAMPlusPlus

    net, images = network().double(), pictures().double()
    maps = last_maps(net, images).requires_grad_()
    (slopes,) = torch.autograd.grad(net.head(maps.mean(dim=(2, 3)))[:, 3].sum(), [maps])
    theirs = GradCAMPlusPlus(net, [net.body])
    weights = theirs.get_cam_weights(images, [net.body], None, maps.detach().numpy(), slopes.numpy())
    wanted = np.maximum((weights[:, :, None, None] * maps.detach().numpy()).sum(axis=1), 0)
    found = class_activation.grad_cam_plus_plus(net, images, 3, resize=False).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=5e-8)


def test_smooth_grad_cam_plus_plus_averages_powers_of_derivatives_and_keeps_clean_maps() -> None:
    net, images = network(), pictures()
    plain = class_activation.grad_cam_plus_plus(net, images, 2, resize=False)
    without = class_activation.smooth_grad_cam_plus_plus(net, images, 2, samples=3, noise=0.0, resize=False)
    torch.testing.assert_close(without, plain)
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    found = class_activation.smooth_grad_cam_plus_plus(net, images, 2, samples=6, noise=0.3, resize=False)
    noisy = [each for each in seen if each.shape == images.shape and not torch.equal(each, images)]
    assert len(noisy) == 6
    powers = []
    for each in noisy:
        maps = last_maps(network(), each).requires_grad_()
        powers.append(torch.autograd.grad(network().head(maps.mean(dim=(2, 3)))[:, 2].sum(), [maps])[0])
    g, g2, g3 = (torch.stack([each**k for each in powers]).mean(0) for k in (1, 2, 3))
    clean = last_maps(network(), images)
    below = 2 * g2 + clean.sum(dim=(2, 3), keepdim=True) * g3 + 1e-6
    weights = (g.clamp_min(0) * torch.where(below != 0, g2 / below, 0.0)).sum(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(found, (weights * clean).sum(1).clamp_min(0), rtol=1e-4, atol=1e-6)


def test_cam_finds_maps_that_no_module_returns() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).flatten(1))

    net, images = drawn(Functional()).eval(), pictures()
    with torch.no_grad():
        wanted = (net.head.weight[2][None, :, None, None] * F.relu(net.conv(images))).sum(dim=1)
    torch.testing.assert_close(class_activation.cam(net, images, 2, resize=False), wanted)


def test_a_network_of_another_form_has_no_cam() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 80, 3))
    with pytest.raises(
        InputError, match="cam: the network does not end with the mean of maps .*; use grad_cam"
    ):
        class_activation.cam(net, pictures())
