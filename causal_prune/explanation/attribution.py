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

from causal_prune.errors import InputError
from causal_prune.explanation.feature_maps import (
    Explained,
    Targets,
    at_least_one,
    derived,
    explained,
    layer_of,
    noisy_copies,
    scores_of,
)
from causal_prune.intervention import InformationBottleneck as InformationBottleneck
from causal_prune.intervention import StreamingMeanStd as StreamingMeanStd
from causal_prune.intervention import to_saliency_map as to_saliency_map
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.tensor_trees import tensors_in
from causal_prune.progress import track


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
    for noisy in noisy_copies("smooth_grad", about, samples, noise, seed):
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
    at_least_one("integrated_gradients", steps=steps)
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
        with derived("integrated_gradients"):
            added = method.attribute(
                part, begin, target=wanted, n_steps=steps, internal_batch_size=len(part) * 2
            )
        found.append(added.detach().sum(dim=1))
    return torch.cat(found).to(about.where)


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
            scores = tensors_in(outputs)[0]
            return functional.cross_entropy(scores, wanted.repeat(len(scores) // rows), reduction="none")

        with derived(verb):
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
    at_least_one(verb, steps=steps)
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
            with derived(verb):
                (x.grad,) = torch.autograd.grad(loss, [x])
        optimizer.step()
    return x.detach().to(about.where)


def _slopes(about: Explained, images: Tensor, targets: Tensor) -> Tensor:
    """D CE / d x, of the shape of the images."""
    from captum.attr import Saliency

    def loss(x: Tensor) -> Tensor:
        return functional.cross_entropy(scores_of("saliency", about.model, x), targets, reduction="none")

    with derived("saliency"):
        found: Tensor = Saliency(loss).attribute(images.clone().requires_grad_(), abs=False)
    return found.detach()


def _from_0_to_1(values: Tensor) -> Tensor:
    flat = values.flatten(1)
    low, high = flat.amin(dim=1)[:, None, None], flat.amax(dim=1)[:, None, None]
    return torch.where(high > low, (values - low) / torch.where(high > low, high - low, 1.0), 0.0)
