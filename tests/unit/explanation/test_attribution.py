"""Attribution maps against their definitions, against other packages where these are right, and on planted evidence."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation import attribution, class_activation
from tests.unit.explanation.classifiers import network, pictures

METHODS: dict[str, Callable[..., Tensor]] = {
    "saliency": attribution.saliency,
    "smooth_grad": attribution.smooth_grad,
    "integrated_gradients": attribution.integrated_gradients,
    "cam": class_activation.cam,
    "grad_cam": class_activation.grad_cam,
    "grad_cam_plus_plus": class_activation.grad_cam_plus_plus,
    "smooth_grad_cam_plus_plus": class_activation.smooth_grad_cam_plus_plus,
    "information_bottleneck": attribution.information_bottleneck,
    "activation_maximisation": attribution.activation_maximisation,
}
QUICK: dict[str, dict[str, Any]] = {
    "smooth_grad": {"samples": 3}, "smooth_grad_cam_plus_plus": {"samples": 3}, "integrated_gradients": {"steps": 8},
    "activation_maximisation": {"steps": 3},
}  # fmt: skip
OF_LAYERS = ("grad_cam", "grad_cam_plus_plus", "smooth_grad_cam_plus_plus", "information_bottleneck")


def run(name: str, net: nn.Module, images: Tensor, targets: Any = None, **options: Any) -> Tensor:
    return METHODS[name](net, images, targets, **QUICK.get(name, {}), **options)


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
