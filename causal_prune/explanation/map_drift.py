"""How far a compressed network has moved from the reasons of the dense one: their attribution maps, image by image."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from causal_prune.errors import InputError
from causal_prune.explanation import attribution, class_activation
from causal_prune.explanation.feature_maps import AT_ONCE, Targets, explained
from causal_prune.explanation.response_maps import is_constant
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import attempt, copied, device_of, modes_kept, seeded

MAPPED: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        attribution.saliency,
        attribution.smooth_grad,
        attribution.integrated_gradients,
        class_activation.cam,
        class_activation.grad_cam,
        class_activation.grad_cam_plus_plus,
        class_activation.smooth_grad_cam_plus_plus,
        attribution.information_bottleneck,
    )
}
"""Methods that give maps; activation maximisation gives images."""
TOP = 0.2
"""The share of a map's places that counts as what it points at."""
NOISE = 0.01
"""Noise of images whose maps are drawn a second time, as a share of their range."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Mapped:
    """One network's maps of some images.

    Attributes:
        method: Of the maps.
        maps: Shape (images, height, width).
        targets: The class that is explained, by image.
        predicted: The class that the network predicts, by image.
    """

    method: str
    maps: Array
    targets: NDArray[np.int64]
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class Drift:
    """Two networks' maps of the same images and classes, compared.

    Attributes:
        method: Of the maps.
        spearman: By image the rank correlation of the two maps, -1 to 1; NaN where one of them is constant.
        iou: By image the intersection over union of the places of the largest fifth of each map, 0 to 1; NaN as above.
        pointing: By image whether the largest value of each map lies in the other's largest fifth.
        constant: By image whether one of the maps is constant, or not finite, so that nothing can be compared.
        alike: By image whether the two networks predict the same class.
    """

    method: str
    spearman: Array
    iou: Array
    pointing: NDArray[np.bool_]
    constant: NDArray[np.bool_]
    alike: NDArray[np.bool_]

    def summary(self) -> dict[str, float | int | None]:
        """Means over the images that both networks classify alike, and the same over the others, apart.

        Returns:
            `images`, `constant` and `disagreeing` count images; `spearman`, `iou` and `pointing` are means over images
            that both classify alike and whose maps are not constant, those that end with `_disagreeing` over images
            with maps that are not constant and that they classify differently; None where there are none.
        """
        compared = ~self.constant
        found: dict[str, float | int | None] = {
            "images": len(self.alike),
            "constant": int(self.constant.sum()),
            "disagreeing": int((~self.alike).sum()),
        }
        for ending, chosen in (("", compared & self.alike), ("_disagreeing", compared & ~self.alike)):
            for name in ("spearman", "iou", "pointing"):
                values = getattr(self, name)[chosen]
                found[name + ending] = float(values.mean()) if len(values) else None
        return found


@undisturbed
def drift(
    dense: nn.Module,
    compressed: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    method: str = "grad_cam",
    **options: Any,
) -> Drift:
    """Compare what two networks look at.

    Args:
        dense: The network before.
        compressed: The network after.
        images: Shape (N, C, H, W).
        targets: Classes that both explain; None for what the dense network predicts.
        method: A name in `MAPPED`.
        **options: Of that function, for both networks.

    Returns:
        The comparison, image by image.

    Raises:
        InputError: If the method is unknown, or as that function raises it.

    Cost: the method's, twice.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
        >>> float(drift(net, net, torch.rand(3, 1, 5, 5), method="saliency").summary()["spearman"])
        1.0
    """
    if isinstance(options.get("calibration"), Iterator):
        options["calibration"] = list(options["calibration"])  # both networks read it
    first = mapped(dense, images, targets, method=method, **options)
    return between(first, mapped(compressed, images, first.targets.tolist(), method=method, **options))


@undisturbed
def mapped(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    method: str,
    calibration: Iterable[Any] | None = None,
    **options: Any,
) -> Mapped:
    """One network's maps, to be compared with those of others.

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: Classes that are explained; None for what the network predicts.
        method: A name in `MAPPED`.
        calibration: Batches for a method that learns statistics of a layer; None for the images themselves.
        **options: Of that function.

    Returns:
        The maps, and what they explain.

    Raises:
        InputError: If the method is unknown, or as that function raises it.

    Cost: the method's.
    """
    if method not in MAPPED:
        raise InputError(f"drift: method {method!r} is not one of {', '.join(MAPPED)}")
    about = explained("drift", model, images, targets)
    if calibration is not None and _takes(method, "calibration"):
        options["calibration"] = calibration
    maps = MAPPED[method](about.model, images, about.targets, **options).detach().double().cpu().numpy()
    return Mapped(method, maps, about.targets.cpu().numpy(), about.predicted.cpu().numpy())


@undisturbed
def mapped_anew(
    model: nn.Module,
    images: Tensor,
    targets: Targets = None,
    *,
    method: str,
    calibration: Iterable[Any] | None = None,
) -> Mapped:
    """The same maps, drawn a second time: how far they differ from the first is no drift of a network.

    Args:
        model: A classifier.
        images: Shape (N, C, H, W).
        targets: As for `mapped`.
        method: A name in `MAPPED`. One that draws noise gets another seed; for one that draws none the images get noise
            of a hundredth of their range.
        calibration: As for `mapped`.

    Returns:
        The maps.

    Raises:
        InputError: As `mapped`.

    Cost: the method's.
    """
    if _takes(method, "seed"):
        return mapped(model, images, targets, method=method, calibration=calibration, seed=1)
    about = explained("drift", model, images, targets)
    flat = about.images.flatten(1)
    spread = (NOISE * (flat.amax(dim=1) - flat.amin(dim=1)))[:, None, None, None]
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(1)).to(about.images)
    noisy = (about.images + spread * drawn).to(images.device)
    return mapped(model, noisy, about.targets, method=method, calibration=calibration)


def between(first: Mapped, second: Mapped) -> Drift:
    """Compare two networks' maps of the same images and classes.

    Args:
        first: Of the dense network.
        second: Of the other.

    Returns:
        The comparison.

    Raises:
        InputError: If they are not of one method, or not of the same images and classes.
    """
    if (first.method, first.maps.shape) != (second.method, second.maps.shape) or not np.array_equal(
        first.targets, second.targets
    ):
        raise InputError("drift: maps of one method, of the same images and classes are needed")
    rows = len(first.maps)
    alike = first.predicted == second.predicted
    return compared(first.method, first.maps.reshape(rows, -1), second.maps.reshape(rows, -1), alike)


def compared(method: str, first: Array, second: Array, alike: NDArray[np.bool_]) -> Drift:
    """Compare maps.

    Args:
        method: Of the maps.
        first: Shape (images, places).
        second: The same.
        alike: By image whether the networks predict the same class.

    Returns:
        The comparison.
    """
    constant = np.array(
        [is_constant(a) or is_constant(b) for a, b in zip(first, second, strict=True)], dtype=bool
    )
    spearman, iou = np.full(len(first), np.nan), np.full(len(first), np.nan)
    pointing = np.zeros(len(first), dtype=bool)
    for k in np.flatnonzero(~constant):
        ranks = rankdata(first[k]), rankdata(second[k])
        spearman[k] = np.corrcoef(*ranks)[0, 1]
        tops = _top(first[k]), _top(second[k])
        iou[k] = (tops[0] & tops[1]).sum() / (tops[0] | tops[1]).sum()
        pointing[k] = tops[0][second[k].argmax()] and tops[1][first[k].argmax()]
    return Drift(method, spearman, iou, pointing, constant, alike)


def randomised(model: nn.Module, seed: int = 0, *, images: Tensor | None = None) -> nn.Module:
    """A network that has learned nothing: each parameter's values in random order.

    Its drift is what maps of an image have in common whatever the network has learned (Adebayo et al. 2018, "Sanity
    checks for saliency maps").

    Args:
        model: A network.
        seed: Of the order.
        images: From which batch norm learns the statistics of the new order, shape (N, C, H, W), so that numbers stay
            of the same size through many layers; None to keep those of the old.

    Returns:
        A copy.
    """
    other = copied(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    if images is not None:
        _normalise(other, images)
    return other


def _normalise(model: nn.Module, images: Tensor) -> None:
    """Let batch norm, and nothing else, learn its statistics from images."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    tracking = [norm for norm in norms if norm.running_mean is not None]
    momenta = [norm.momentum for norm in tracking]
    with torch.no_grad(), modes_kept(model), seeded(0, device_of(model)):
        model.eval()
        for norm in tracking:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # the mean over all batches
        for part in images.to(device_of(model)).split(AT_ONCE):
            if len(part) > 1 or len(images) == 1:
                attempt("drift: the network", model, part, "the images")
    for norm, momentum in zip(tracking, momenta, strict=True):
        norm.momentum = momentum


def _takes(method: str, option: str) -> bool:
    return method in MAPPED and option in inspect.signature(MAPPED[method]).parameters


def _top(values: Array) -> NDArray[np.bool_]:
    """Places of the largest fifth: fewer where many share the value at its edge."""
    edge = np.quantile(values, 1 - TOP)
    above = values > edge
    return above if above.any() else values >= edge
