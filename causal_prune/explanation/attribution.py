"""Attribution maps: what in an image a classifier's score depends on.

All take a classifier and images of shape (images, channels, height, width), as the network reads them, and return one
map for each image, of shape (images, height, width), on the device of the images. Classes are given by `targets`: one
for each image, one for all, or None for what the network predicts. The network, its gradients, hooks and mode, the
images and torch's generator are as before afterwards.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from causal_prune.errors import InputError
from causal_prune.explanation.feature_maps import (
    Explained,
    Targets,
    explained,
    layer_of,
    maps_and_gradients,
    scores_of,
)
from causal_prune.intervention import InformationBottleneck
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.hooks import calls_seen
from causal_prune.progress import track

TINY = 1e-6
"""Added where Grad-CAM++ divides, as its authors' code does."""


@undisturbed
def saliency(model: nn.Module, images: Tensor, targets: Targets = None) -> Tensor:
    """How steeply the loss changes with each pixel.

        max over colours of | d CE(f(x), t) / d x |,    from 0 to 1 in each image
    (Simonyan et al. 2014, section 3, who take the score's derivative; CE is the cross entropy of its softmax).

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: Classes.

    Returns:
        Shape (N, H, W), from 0 to 1; all 0 for an image whose loss depends on no pixel, or on all alike.

    Raises:
        InputError: If images, classes or the network do not fit.

    Cost: a forward and a backward pass.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
        >>> saliency(net, torch.rand(3, 1, 5, 5)).shape
        torch.Size([3, 5, 5])
    """
    about = explained("saliency", model, images, targets)
    found = [_slopes(about, part, wanted) for part, wanted in about.parts()]
    return _from_0_to_1(torch.cat(found).abs().amax(dim=1)).to(about.where)


@undisturbed
def smooth_grad(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> Tensor:
    """Saliency of the mean derivative over noisy copies of an image (Smilkov et al. 2017, "SmoothGrad").

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: Classes.
        samples: Copies of each image, at least 1.
        noise: Standard deviation of the Gaussian noise, as a share of the image's largest less its least value.
        seed: Of the noise.

    Returns:
        Shape (N, H, W), from 0 to 1 as `saliency`.

    Raises:
        InputError: As `saliency`, and if `samples` or `noise` is out of range.

    Cost: `samples` forward and backward passes.
    """
    about = explained("smooth_grad", model, images, targets)
    total = torch.zeros_like(about.images)
    for noisy in _noisy("smooth_grad", about, samples, noise, seed):
        parts = zip(noisy.parts(), total.split([len(part) for part, _ in noisy.parts()]), strict=True)
        for (part, wanted), sums in parts:
            sums += _slopes(noisy, part, wanted)
    return _from_0_to_1((total / samples).abs().amax(dim=1)).to(about.where)


@undisturbed
def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    baseline: float | Tensor = 0.0,
    steps: int = 50,
) -> Tensor:
    """What each pixel adds to a class's score on the way from a baseline (Sundararajan et al. 2017, eq. 1).

        (x - b) * integral over a from 0 to 1 of  d f_t(b + a (x - b)) / d x,    added over the colours
    so that a map's sum is f_t(x) - f_t(b), up to the error of the quadrature (Gauss and Legendre; captum).

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: Classes.
        baseline: One number, or an image of shape (C, H, W) or (1, C, H, W).
        steps: Points of the quadrature, at least 1.

    Returns:
        Shape (N, H, W), in units of the score; negative where a pixel speaks against the class.

    Raises:
        InputError: As `saliency`, and if the baseline or `steps` do not fit.

    Cost: `steps` forward and backward passes.
    """
    from captum.attr import IntegratedGradients

    about = explained("integrated_gradients", model, images, targets)
    _at_least_one("integrated_gradients", steps=steps)
    start = torch.as_tensor(baseline, dtype=about.images.dtype, device=about.images.device)
    if start.dim() not in (0, 3, 4) or (start.dim() and start.shape[-3:] != about.images.shape[1:]):
        shape, image = tuple(start.shape), tuple(about.images.shape[1:])
        raise InputError(
            f"integrated_gradients: baseline has shape {shape}; give a number or an image of {image}"
        )
    method = IntegratedGradients(lambda x: scores_of("integrated_gradients", about.model, x))
    found = []
    for part, wanted in track(about.parts(), "integrated gradients", count=lambda each: len(each[0])):
        begin = start.expand(part.shape).contiguous()
        added = method.attribute(part, begin, target=wanted, n_steps=steps, internal_batch_size=len(part) * 2)
        found.append(added.detach().sum(dim=1))
    return torch.cat(found).to(about.where)


@undisturbed
def cam(model: nn.Module, images: Tensor, targets: Targets = None, *, resize: bool = True) -> Tensor:
    """Class activation maps: the maps that are averaged before the classifier, weighted as it does.

        sum_k w_tk f_k    (Zhou et al. 2016, eq. 2)
    for a network that ends with the mean over space of maps f and one linear layer w.

    Args:
        model: A classifier of this form.
        images: Shape (N, C, H, W).
        targets: Classes.
        resize: Whether maps are resized to the images (bilinear), or stay as large as f.

    Returns:
        Shape (N, H, W), in units of the score: the mean over space of a map that is not resized, plus the bias, is the
        score.

    Raises:
        InputError: As `saliency`, and if the network has another form.

    Cost: a forward pass.
    """
    about = explained("cam", model, images, targets)
    linear = {name: each for name, each in about.model.named_modules() if isinstance(each, nn.Linear)}
    found = []
    for part, wanted in about.parts():
        maps, weight = _averaged(about, part, linear)
        found.append(torch.einsum("nkhw,nk->nhw", maps, weight[wanted]))
    return _resized(torch.cat(found), about, resize=resize)


@undisturbed
def grad_cam(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: str | None = None,
    resize: bool = True,
) -> Tensor:
    """Maps of a layer, weighted by the mean derivative of the score with respect to each.

        relu( sum_k f_k * mean over space of d score / d f_k )    (Selvaraju et al. 2017, eq. 1 and 2)

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: Classes.
        layer: Name of a module that returns maps; None for what follows the last convolution (see `layer_of`).
        resize: Whether maps are resized to the images (bilinear), or stay as large as those of the layer.

    Returns:
        Shape (N, H, W), not negative; all 0 where no map speaks for the class.

    Raises:
        InputError: As `saliency`, and if there is no such layer, or it returns no maps.

    Cost: a forward pass, and a backward pass down to the layer.
    """
    about = explained("grad_cam", model, images, targets)
    found = [
        (maps * slopes.mean(dim=(2, 3), keepdim=True)).sum(dim=1).clamp_min(0)
        for maps, slopes in maps_and_gradients(about, layer_of("grad_cam", about, layer))
    ]
    return _resized(torch.cat(found), about, resize=resize)


@undisturbed
def grad_cam_plus_plus(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: str | None = None,
    resize: bool = True,
) -> Tensor:
    """Grad-CAM whose weights count each place by how much it holds of what the class needs.

    With g = d score / d f and sums over space,
        relu( sum_k w_k f_k ),    w_k = sum relu(g_k) * g_k^2 / (2 g_k^2 + (sum f_k) g_k^3 + 1e-6)
    (Chattopadhay et al. 2018, eq. 10 and 19: of an exponential of the score, higher derivatives are powers of g).

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: Classes.
        layer: As for `grad_cam`.
        resize: As for `grad_cam`.

    Returns:
        Shape (N, H, W), not negative.

    Raises:
        InputError: As `grad_cam`.

    Cost: as `grad_cam`.
    """
    about = explained("grad_cam_plus_plus", model, images, targets)
    found = [
        _plus_plus(maps, slopes, slopes.square(), slopes**3)
        for maps, slopes in maps_and_gradients(about, layer_of("grad_cam_plus_plus", about, layer))
    ]
    return _resized(torch.cat(found), about, resize=resize)


@undisturbed
def smooth_grad_cam_plus_plus(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    layer: str | None = None,
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    resize: bool = True,
) -> Tensor:
    """Grad-CAM++ with derivatives averaged over noisy copies, and the maps of the clean image (Omeiza et al. 2019).

    g, g^2 and g^3 are averaged each on its own.

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: Classes.
        layer: As for `grad_cam`.
        samples: As for `smooth_grad`.
        noise: As for `smooth_grad`.
        seed: Of the noise.
        resize: As for `grad_cam`.

    Returns:
        Shape (N, H, W), not negative.

    Raises:
        InputError: As `grad_cam` and `smooth_grad`.

    Cost: `samples` + 1 times that of `grad_cam`.
    """
    verb = "smooth_grad_cam_plus_plus"
    about = explained(verb, model, images, targets)
    name = layer_of(verb, about, layer)
    clean = torch.cat([maps for maps, _ in maps_and_gradients(about, name)])
    powers = [torch.zeros_like(clean) for _ in range(3)]
    for noisy in _noisy(verb, about, samples, noise, seed):
        slopes = torch.cat([each for _, each in maps_and_gradients(noisy, name)])
        for exponent, total in enumerate(powers, start=1):
            total += slopes**exponent / samples
    return _resized(_plus_plus(clean, *powers), about, resize=resize)


@undisturbed
def information_bottleneck(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    calibration: Iterable[Any] | None = None,
    layer: str | None = None,
    beta: float = 10.0,
    seed: int = 0,
) -> Tensor:
    """Where information must pass a layer for the class to be told (Schulz et al. 2020; see `InformationBottleneck`).

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: Classes.
        calibration: Batches from which the layer's mean and deviation are learned, a hundred images or more; None for
            the images themselves.
        layer: As for `grad_cam`.
        beta: Weight of the information, > 0.
        seed: Of the noise.

    Returns:
        Shape (N, H, W), in bits per element of the layer, at the size of the images; not negative but for rounding.

    Raises:
        InputError: As `grad_cam`, and if `beta` is not positive.

    Cost: a forward pass over `calibration`, and 100 forward and backward passes over the images.
    """
    verb = "information_bottleneck"
    about = explained(verb, model, images, targets)
    if not beta > 0:
        raise InputError(f"{verb}: beta is {beta}; it must be above 0")
    bottleneck = InformationBottleneck(about.model, layer_of(verb, about, layer), beta=beta, seed=seed)
    bottleneck.estimate([about.images] if calibration is None else calibration)
    found = []
    for part, wanted in track(
        list(zip(about.images.split(8), about.targets.split(8), strict=True)), "bottleneck"
    ):

        def loss(outputs: Any, wanted: Tensor = wanted, rows: int = len(part)) -> Tensor:
            scores = outputs if isinstance(outputs, Tensor) else outputs[0]
            return functional.cross_entropy(scores, wanted.repeat(len(scores) // rows), reduction="none")

        found.append(bottleneck.analyze(part, loss))
    return torch.cat(found).to(about.where)


@undisturbed
def activation_maximisation(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    steps: int = 100,
    lr: float = 0.05,
    variation: float = 1e-3,
    decay: float = 1e-4,
) -> Tensor:
    """Images for which a class's score is large, from given ones uphill (Erhan et al. 2009).

    Maximises, with the priors of Mahendran and Vedaldi 2016 (section 3.3),
        score - variation * sum |differences of neighbouring pixels| - decay * || x ||^2.

    Args:
        model: A classifier.
        images: Where to start, such as noise; shape (N, C, H, W).
        targets: Classes.
        steps: Of Adam, at least 1.
        lr: Its rate, > 0.
        variation: Weight of the total variation, not negative.
        decay: Weight of the square, not negative.

    Returns:
        Images of the shape of those given.

    Raises:
        InputError: As `saliency`, and if a number is out of range.

    Cost: `steps` forward and backward passes.
    """
    verb = "activation_maximisation"
    about = explained(verb, model, images, targets)
    _at_least_one(verb, steps=steps)
    if not lr > 0 or variation < 0 or decay < 0:
        raise InputError(
            f"{verb}: lr must be above 0, variation and decay not below; given {lr}, {variation}, {decay}"
        )
    x = about.images.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=lr)
    for _ in track(range(steps), "activation maximisation", unit="step"):
        with torch.enable_grad():
            scores = scores_of(verb, about.model, x).gather(1, about.targets[:, None]).sum()
            jumps = x.diff(dim=2).abs().sum() + x.diff(dim=3).abs().sum()
            loss = variation * jumps + decay * x.square().sum() - scores
            (x.grad,) = torch.autograd.grad(loss, [x])
        optimizer.step()
    return x.detach().to(about.where)


def _slopes(about: Explained, images: Tensor, targets: Tensor) -> Tensor:
    """D CE / d x, of the shape of the images."""
    from captum.attr import Saliency

    def loss(x: Tensor) -> Tensor:
        return functional.cross_entropy(scores_of("saliency", about.model, x), targets, reduction="none")

    found: Tensor = Saliency(loss).attribute(images.clone().requires_grad_(), abs=False)
    return found.detach()


def _noisy(verb: str, about: Explained, samples: int, noise: float, seed: int) -> Iterable[Explained]:
    """The same network with noisy images, so often as there are samples."""
    _at_least_one(verb, samples=samples)
    if not noise >= 0:
        raise InputError(f"{verb}: noise is {noise}; it must not be negative")
    flat = about.images.flatten(1)
    spread = noise * (flat.amax(dim=1) - flat.amin(dim=1))[:, None, None, None]
    generator = torch.Generator().manual_seed(seed)
    for _ in track(range(samples), verb.replace("_", " "), unit="sample"):
        drawn = torch.randn(about.images.shape, generator=generator).to(about.images)
        yield Explained(about.model, about.images + spread * drawn, about.targets, about.where)


def _plus_plus(maps: Tensor, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    below = 2 * second + maps.sum(dim=(2, 3), keepdim=True) * third + TINY
    share = torch.where(below != 0, second / torch.where(below != 0, below, 1.0), 0.0)
    weights = (share * first.clamp_min(0)).sum(dim=(2, 3), keepdim=True)
    return (maps * weights).sum(dim=1).clamp_min(0)


class _Maps(TorchDispatchMode):
    """Keeps what operations return that may be maps of so many channels."""

    def __init__(self, channels: frozenset[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.channels = channels
        self.found: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dim() == 4 and out.shape[1] in self.channels:
            self.found.append(out.detach().clone())
        return out


def _averaged(about: Explained, images: Tensor, linear: dict[str, nn.Linear]) -> tuple[Tensor, Tensor]:
    """Maps whose mean over space a linear layer reads that returns the scores, and its weight."""
    read: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, source: Tensor, __: Any) -> None:
        read[name] = source.detach().clone()

    watch = _Maps(frozenset(each.in_features for each in linear.values()))
    with torch.no_grad(), calls_seen(linear, note), watch:
        scores = scores_of("cam", about.model, images)
    for name, features in reversed(list(read.items())):
        layer = linear[name]
        alike = features.dim() == 2 and layer.out_features == scores.shape[1]
        if not alike or not torch.allclose(layer.forward(features), scores, rtol=1e-4, atol=1e-5):
            continue
        fitting = [
            each
            for each in reversed(watch.found)
            if each.shape[:2] == features.shape
            and torch.allclose(each.mean(dim=(2, 3)), features, 1e-4, 1e-5)
        ]
        if fitting:  # the mean of maps is itself a map, of one place
            return max(fitting, key=lambda each: each[0, 0].numel()), layer.weight
    raise InputError(
        "cam: the network does not end with the mean of maps over space and one linear layer; use grad_cam"
    )


def _from_0_to_1(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    low, high = flat.amin(dim=1)[:, None, None], flat.amax(dim=1)[:, None, None]
    return torch.where(high > low, (values - low) / torch.where(high > low, high - low, 1.0), 0.0)


def _resized(maps: Tensor, about: Explained, *, resize: bool) -> Tensor:
    if resize:
        size = about.images.shape[2:]
        maps = functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return maps.to(about.where)


def _at_least_one(verb: str, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{verb}: {name} is {count}; at least 1 is needed")
