"""Class activation maps: what a layer's maps hold that speaks for a class, by its weights or by derivatives.

Arguments, and what is left as it was, are as for the other maps (see `attribution`).
"""

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
    noisy_copies,
    scores_of,
)
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.hooks import calls_seen

TINY = 1e-6
"""Added where Grad-CAM++ divides, as its authors' code does."""


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
    for noisy in noisy_copies(verb, about, samples, noise, seed):
        slopes = torch.cat([each for _, each in maps_and_gradients(noisy, name)])
        for exponent, total in enumerate(powers, start=1):
            total += slopes**exponent / samples
    return _resized(_plus_plus(clean, *powers), about, resize=resize)


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


def _resized(maps: Tensor, about: Explained, *, resize: bool) -> Tensor:
    if resize:
        size = about.images.shape[2:]
        maps = functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    return maps.to(about.where)
