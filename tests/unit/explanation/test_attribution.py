"""Attribution maps against their definitions, against other packages where these are right, and on planted evidence."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation import attribution
from tests.unit.drawn_weights import drawn

METHODS: dict[str, Callable[..., Tensor]] = {
    "saliency": attribution.saliency,
    "smooth_grad": attribution.smooth_grad,
    "integrated_gradients": attribution.integrated_gradients,
    "cam": attribution.cam,
    "grad_cam": attribution.grad_cam,
    "grad_cam_plus_plus": attribution.grad_cam_plus_plus,
    "smooth_grad_cam_plus_plus": attribution.smooth_grad_cam_plus_plus,
    "information_bottleneck": attribution.information_bottleneck,
    "activation_maximisation": attribution.activation_maximisation,
}
QUICK: dict[str, dict[str, Any]] = {
    "smooth_grad": {"samples": 3}, "smooth_grad_cam_plus_plus": {"samples": 3}, "integrated_gradients": {"steps": 8},
    "activation_maximisation": {"steps": 3},
}  # fmt: skip
OF_LAYERS = ("grad_cam", "grad_cam_plus_plus", "smooth_grad_cam_plus_plus", "information_bottleneck")


class Averaging(nn.Module):
    """Convolutions, one with a rectifier that overwrites its maps, the mean over space, one linear layer."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


def network(seed: int = 0) -> Averaging:
    torch.manual_seed(seed)
    return drawn(Averaging()).eval()


def pictures(count: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


def run(name: str, net: nn.Module, images: Tensor, targets: Any = None, **options: Any) -> Tensor:
    return METHODS[name](net, images, targets, **QUICK.get(name, {}), **options)


def last_maps(net: Averaging, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.body(x)


def test_saliency_is_the_steepest_colour_of_the_derivative_of_the_loss() -> None:
    net, x = network(), pictures().requires_grad_()
    targets = torch.tensor([0, 1, 2, 3, 0])
    (slope,) = torch.autograd.grad(F.cross_entropy(net(x), targets, reduction="sum"), [x])
    wanted = slope.abs().amax(dim=1)
    low, high = wanted.amin(dim=(1, 2), keepdim=True), wanted.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(attribution.saliency(net, x.detach(), targets), (wanted - low) / (high - low))


def test_smooth_grad_averages_over_noise_of_a_share_of_each_images_range() -> None:
    net, images = network(), pictures(3) * torch.tensor([1.0, 5.0, 0.1])[:, None, None, None]
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    found = attribution.smooth_grad(net, images, 1, samples=40, noise=0.2, seed=3)
    noisy = torch.stack([each for each in seen if not torch.equal(each, images)])
    spread = 0.2 * (images.flatten(1).amax(1) - images.flatten(1).amin(1))
    measured = (noisy - images).flatten(2).std(dim=(0, 2))
    torch.testing.assert_close(measured, spread, rtol=0.02, atol=0)
    total = torch.zeros_like(images)
    for each in noisy:
        x = each.clone().requires_grad_()
        loss = F.cross_entropy(network()(x), torch.ones(3, dtype=torch.long), reduction="sum")
        total += torch.autograd.grad(loss, [x])[0]
    wanted = total.abs().amax(dim=1)
    low, high = wanted.amin(dim=(1, 2), keepdim=True), wanted.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(found, (wanted - low) / (high - low), rtol=1e-4, atol=1e-5)
    without = attribution.smooth_grad(net, images, 1, samples=1, noise=0.0)
    torch.testing.assert_close(without, attribution.saliency(net, images, 1))


@pytest.mark.parametrize("baseline", [0.0, 0.5, torch.full((3, 12, 10), -0.3), torch.zeros(1, 3, 12, 10)])
def test_integrated_gradients_add_up_to_the_rise_of_the_score(baseline: float | Tensor) -> None:
    net, images = network(), pictures()
    found = attribution.integrated_gradients(net, images, 2, baseline=baseline, steps=200)
    with torch.no_grad():
        rise = net(images)[:, 2] - net(torch.as_tensor(baseline).expand(images.shape))[:, 2]
    torch.testing.assert_close(found.sum(dim=(1, 2)), rise, rtol=1e-2, atol=5e-3)


def test_cam_is_the_classifier_over_the_maps_and_its_mean_the_score() -> None:
    net, images = network(), pictures()
    found = attribution.cam(net, images, [0, 1, 2, 3, 1], resize=False)
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
    both = attribution.grad_cam(net, images, resize=False), attribution.cam(net, images, resize=False)
    torch.testing.assert_close(both[0], (both[1] / size).clamp_min(0), rtol=0, atol=1e-7)


def test_grad_cam_is_captums_where_nothing_overwrites_the_maps() -> None:
    net, images = network(), pictures()
    plain = copy.deepcopy(net)
    for module in plain.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    wanted = LayerGradCam(plain, plain.body[5]).attribute(images, target=1, relu_attributions=True)
    torch.testing.assert_close(attribution.grad_cam(net, images, 1, resize=False), wanted[:, 0].detach())
    raw = LayerGradCam(plain, plain.body[4]).attribute(images, target=1, relu_attributions=True)
    found = attribution.grad_cam(net, images, 1, layer="body.4", resize=False)
    torch.testing.assert_close(found, raw[:, 0].detach())


def test_grad_cam_is_torchcams() -> None:
    from torchcam.methods import GradCAM

    net, images = network(), pictures(1)
    with GradCAM(net, target_layer=net.body) as extractor:
        scores = net(images)
        (wanted,) = extractor(1, scores, normalized=False)
    torch.testing.assert_close(attribution.grad_cam(net, images, 1, resize=False), wanted.detach())


def test_grad_cam_plus_plus_has_the_weights_of_grad_cam_its_package() -> None:
    from pytorch_grad_cam import GradCAMPlusPlus

    net, images = network().double(), pictures().double()
    maps = last_maps(net, images).requires_grad_()
    (slopes,) = torch.autograd.grad(net.head(maps.mean(dim=(2, 3)))[:, 3].sum(), [maps])
    theirs = GradCAMPlusPlus(net, [net.body])
    weights = theirs.get_cam_weights(images, [net.body], None, maps.detach().numpy(), slopes.numpy())
    wanted = np.maximum((weights[:, :, None, None] * maps.detach().numpy()).sum(axis=1), 0)
    found = attribution.grad_cam_plus_plus(net, images, 3, resize=False).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=5e-8)


def test_smooth_grad_cam_plus_plus_averages_powers_of_derivatives_and_keeps_clean_maps() -> None:
    net, images = network(), pictures()
    plain = attribution.grad_cam_plus_plus(net, images, 2, resize=False)
    without = attribution.smooth_grad_cam_plus_plus(net, images, 2, samples=3, noise=0.0, resize=False)
    torch.testing.assert_close(without, plain)
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    found = attribution.smooth_grad_cam_plus_plus(net, images, 2, samples=6, noise=0.3, resize=False)
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


def test_the_bottleneck_is_deterministic_and_positive() -> None:
    net, images = network(), pictures(12)
    first = attribution.information_bottleneck(net, images[:3], 1, calibration=[images])
    torch.manual_seed(9)
    again = attribution.information_bottleneck(net, images[:3], 1, calibration=[images])
    assert torch.equal(first, again)
    assert float(first.min()) > -1e-4 < float(first.max())
    other = attribution.information_bottleneck(net, images[:3], 1, calibration=[images], seed=1)
    assert not torch.equal(first, other)


def test_maximised_images_have_a_larger_score_and_stay_bounded() -> None:
    net, images = network(), 0.1 * pictures(2)
    found = attribution.activation_maximisation(net, images, 1, steps=80)
    with torch.no_grad():
        assert (net(found)[:, 1] > net(images)[:, 1] + 0.5).all()
    tight = attribution.activation_maximisation(net, images, 1, steps=300, decay=1.0)
    free = attribution.activation_maximisation(net, images, 1, steps=300, decay=0.0)
    assert tight.abs().max() < free.abs().max()
    smooth = attribution.activation_maximisation(net, images, 1, steps=300, variation=0.1)
    assert smooth.diff(dim=3).abs().mean() < free.diff(dim=3).abs().mean()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("training", [False, True])
def test_nothing_of_the_callers_changes(name: str, training: bool) -> None:
    net, images = network().train(training), pictures()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    net.body[1].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    needed = [parameter.requires_grad for parameter in net.parameters()]
    kept, state = images.clone(), torch.random.get_rng_state()
    hooks = [len(module._forward_hooks) + len(module._backward_hooks) for module in net.modules()]
    found = run(name, net, images)
    assert found.shape == (images.shape if name == "activation_maximisation" else (5, 12, 10))
    assert found.isfinite().all() and not found.requires_grad
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert [parameter.requires_grad for parameter in net.parameters()] == needed
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight)) and net.head.bias.grad is None
    assert torch.equal(images, kept) and images.grad is None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert [len(module._forward_hooks) + len(module._backward_hooks) for module in net.modules()] == hooks


@pytest.mark.parametrize("name", METHODS)
def test_classes_may_be_one_for_all_one_each_or_those_predicted(name: str) -> None:
    net, images = network(), pictures()
    with torch.no_grad():
        predicted = net(images).argmax(dim=1)
    for same in (predicted, predicted.tolist(), predicted.to(torch.int32)):
        torch.testing.assert_close(run(name, net, images, same), run(name, net, images))
    one = run(name, net, images, 2)
    torch.testing.assert_close(one, run(name, net, images, torch.full((5,), 2)))
    assert not torch.allclose(one, run(name, net, images, 1))


@pytest.mark.parametrize("name", METHODS)
def test_batches_make_no_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "information_bottleneck":
        pytest.skip("its noise is drawn for all images at once")
    net, images = network(), pictures()
    whole = run(name, net, images, 1)
    monkeypatch.setattr("causal_prune.explanation.feature_maps.AT_ONCE", 2)
    torch.testing.assert_close(run(name, net, images, 1), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("images", "targets", "said"),
    [
        (
            torch.zeros(3, 12, 10),
            None,
            r"images are torch.float32 of shape \(3, 12, 10\); numbers with a fraction",
        ),
        (torch.zeros(2, 3, 12, 10, dtype=torch.uint8), None, "images are torch.uint8"),
        (torch.zeros(0, 3, 12, 10), None, "there are no images"),
        (torch.full((1, 3, 12, 10), torch.nan), None, "an image has values that are NaN or infinite"),
        (torch.zeros(2, 1, 12, 10), None, "the network"),
        (torch.zeros(2, 3, 12, 10), 4, r"target 4 is outside 0\.\.3"),
        (torch.zeros(2, 3, 12, 10), [0, -1], r"target -1 is outside 0\.\.3"),
        (
            torch.zeros(2, 3, 12, 10),
            [0, 1, 2],
            r"targets are torch.int64 of shape \(3,\); give one whole number",
        ),
        (torch.zeros(2, 3, 12, 10), [0.5, 1.0], "targets are torch.float32"),
        ([[1.0]], None, "images are list; numbers"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(name: str, images: Any, targets: Any, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        run(name, network(), images, targets)
    assert "\n" not in str(error.value) and str(error.value).startswith(name)


@pytest.mark.parametrize("name", OF_LAYERS)
def test_layers_that_are_not_there_or_return_no_maps_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: there is no layer 'nowhere' in the network"):
        run(name, network(), pictures(), layer="nowhere")
    with pytest.raises(InputError, match=f"{name}: layer 'head' returns no maps"):
        run(name, network(), pictures(), layer="head")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(360, 4))
    with pytest.raises(InputError, match=f"{name}: the network has no convolution"):
        run(name, flat, pictures())


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
    torch.testing.assert_close(attribution.cam(net, images, 2, resize=False), wanted)


def test_a_network_of_another_form_has_no_cam() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 80, 3))
    with pytest.raises(
        InputError, match="cam: the network does not end with the mean of maps .*; use grad_cam"
    ):
        attribution.cam(net, pictures())


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("smooth_grad", {"samples": 0}, "samples is 0; at least 1"),
        ("smooth_grad", {"noise": -0.1}, "noise is -0.1; it must not be negative"),
        ("smooth_grad_cam_plus_plus", {"samples": 0}, "samples is 0"),
        ("integrated_gradients", {"steps": 0}, "steps is 0"),
        ("integrated_gradients", {"baseline": torch.zeros(3, 5, 5)}, "baseline has shape"),
        ("information_bottleneck", {"beta": 0.0}, "beta is 0.0; it must be above 0"),
        ("activation_maximisation", {"steps": 0}, "steps is 0"),
        ("activation_maximisation", {"lr": 0.0}, "lr must be above 0"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"{name}: {said}"):
        METHODS[name](network(), pictures(), **options)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "activation_maximisation"])
def test_a_certain_network_and_images_of_one_colour_leave_finite_maps(name: str) -> None:
    net = network()
    with torch.no_grad():
        net.head.bias[2] += 1e4  # a probability of exactly 1
    for images in (pictures(2), torch.zeros(2, 3, 12, 10), torch.ones(2, 3, 12, 10)):
        assert run(name, net, images).isfinite().all()
    assert not attribution.saliency(net, pictures(2)).any(), "the loss depends on nothing"


class Patched(nn.Module):
    """Looks for one colour alone: the class is decided by a red patch, wherever it is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.through, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Linear(2, 2)
        with torch.no_grad():
            self.seen.weight.zero_()
            self.seen.bias.copy_(torch.tensor([-0.5, 0.1]))
            self.seen.weight[0, 0] = 1 / 9
            self.seen.weight[0, 1:] = -1 / 18
            self.head.weight.copy_(torch.tensor([[0.0, 1.0], [40.0, 0.0]]))
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.through(self.seen(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "activation_maximisation"])
def test_every_map_finds_the_patch_that_decides(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    images = 0.3 * torch.rand(6, 3, 16, 16, generator=generator)
    corners = [(1, 1), (9, 2), (4, 8), (10, 10), (2, 10), (7, 5)]
    for image, (top, left) in zip(images, corners, strict=True):
        image[:, top : top + 5, left : left + 5] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = run(name, Patched(), images, 1)
    for each, (top, left) in zip(maps, corners, strict=True):
        row, column = divmod(int(each.argmax()), 16)
        blurred = name == "information_bottleneck"
        assert top - blurred <= row < top + 5 + blurred
        assert left - blurred <= column < left + 5 + blurred
        assert each[top : top + 5, left : left + 5].mean() > 3 * each.mean()
