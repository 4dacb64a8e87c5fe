"""The layer whose maps explain a network: found or named, its maps, and how a class's score moves with them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError, first_line
from causal_prune.network.hooks import outputs_of
from causal_prune.network.layer_kinds import Convolution
from causal_prune.network.running import attempt, copied, device_of
from causal_prune.network.tensor_trees import tensors_in
from causal_prune.progress import track

Targets: TypeAlias = Tensor | Sequence[int] | int | None
"""The class that is explained, of each image or of all; None for the one that the network predicts."""
AT_ONCE = 64
"""So many images go through a network at once."""


@dataclass(frozen=True)
class Explained:
    """A network and images, ready to be explained.

    Attributes:
        model: A copy in eval mode whose parameters need no gradient.
        images: Shape (images, channels, height, width), on the network's device; of their own.
        targets: The class that is explained, int64 of shape (images,).
        predicted: The class that the network predicts, of the same shape.
        where: The device that the images came from.
    """

    model: nn.Module
    images: Tensor
    targets: Tensor
    predicted: Tensor
    where: torch.device

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and targets, some at once."""
        yield from zip(self.images.split(AT_ONCE), self.targets.split(AT_ONCE), strict=True)


def explained(verb: str, model: nn.Module, images: Tensor, targets: Targets) -> Explained:
    """Check a network, its images and the classes that are asked for.

    Args:
        verb: The function, for errors.
        model: A classifier; it is not changed.
        images: Shape (images, channels, height, width).
        targets: Classes.

    Returns:
        A copy of everything.

    Raises:
        InputError: If the images are none, the network does not take them or returns no class scores, or a class is out
            of range.
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or not images.is_floating_point():
        shape = (
            f"{images.dtype} of shape {tuple(images.shape)}"
            if isinstance(images, Tensor)
            else type(images).__name__
        )
        raise InputError(
            f"{verb}: images are {shape}; numbers with a fraction of shape (N, C, H, W) are needed"
        )
    if not len(images):
        raise InputError(f"{verb}: there are no images")
    if not bool(images.isfinite().all()):
        raise InputError(f"{verb}: an image has values that are NaN or infinite")
    network = copied(model).eval().requires_grad_(False)
    own = images.detach().to(device_of(network), copy=True)
    with torch.no_grad():
        scores = torch.cat([scores_of(verb, network, part) for part in own.split(AT_ONCE)])
    predicted = scores.argmax(dim=1)
    if targets is None:
        return Explained(network, own, predicted, predicted, images.device)
    wanted = torch.as_tensor(targets).detach().to(own.device)
    wanted = wanted.expand(len(own)) if wanted.dim() == 0 else wanted
    if wanted.shape != (len(own),) or wanted.is_floating_point() or wanted.dtype == torch.bool:
        raise InputError(
            f"{verb}: targets are {wanted.dtype} of shape {tuple(wanted.shape)}; give one whole number for each of "
            f"{len(own)} images, one for all, or none"
        )
    outside = wanted[(wanted < 0) | (wanted >= scores.shape[1])]
    if len(outside):
        raise InputError(f"{verb}: target {int(outside[0])} is outside 0..{scores.shape[1] - 1}")
    return Explained(network, own, wanted.long().clone(), predicted, images.device)


def scores_of(verb: str, model: nn.Module, images: Tensor) -> Tensor:
    """Class scores of images.

    Args:
        verb: The function, for errors.
        model: In eval mode.
        images: Some.

    Returns:
        The first output, shape (images, classes).

    Raises:
        InputError: If the network refuses the images, or its first output has another shape.
    """
    found = tensors_in(attempt(f"{verb}: the network", model, images, "the images"))
    scores = found[0] if found else torch.empty(0)
    if scores.dim() != 2 or len(scores) != len(images) or scores.shape[1] < 2:
        raise InputError(
            f"{verb}: the network returns {tuple(scores.shape)} for {len(images)} images; one score per class of at "
            "least two is needed"
        )
    return scores


def layer_of(verb: str, about: Explained, layer: str | None) -> str:
    """The layer whose maps are looked at.

    Unless one is named, it is the last module that returns maps as large as those of the last convolution that runs:
    its batch norm, its rectifier, or the block that ends with it.

    Args:
        verb: The function, for errors.
        about: The network and its images.
        layer: Name of a module, or None.

    Returns:
        Its name.

    Raises:
        InputError: If there is no such module, it returns no maps, or the network has no convolution that does.
    """
    modules = {name: module for name, module in about.model.named_modules() if name}
    if layer is not None and layer not in modules:
        raise InputError(f"{verb}: there is no layer {layer!r} in the network")
    ran: list[tuple[str, torch.Size | None]] = []

    def see(name: str, _: nn.Module, out: Any) -> None:
        maps = isinstance(out, Tensor) and out.dim() == 4 and len(out) == 1 and out.is_floating_point()
        ran.append((name, out.shape if maps else None))

    with torch.no_grad(), outputs_of(modules, see):
        scores_of(verb, about.model, about.images[:1])
    if layer is not None:
        shapes = [shape for name, shape in ran if name == layer]
        if not shapes or shapes[-1] is None:
            raise InputError(
                f"{verb}: layer {layer!r} returns no maps of shape (N, C, H, W), as a convolution does"
            )
        return layer
    last = next(
        (k for k in reversed(range(len(ran))) if ran[k][1] and isinstance(modules[ran[k][0]], Convolution)),
        None,
    )
    if last is None:
        raise InputError(f"{verb}: the network has no convolution that returns maps of shape (N, C, H, W)")
    return next(name for name, shape in reversed(ran[last:]) if shape == ran[last][1])


@contextmanager
def derived(verb: str) -> Iterator[None]:
    """Say so where a score has no derivative, as behind a step or a detached tensor.

    Args:
        verb: The function, for errors.

    Yields:
        Nothing.

    Raises:
        InputError: If torch finds no derivative inside the block.
    """
    try:
        yield
    except InputError:
        raise
    except RuntimeError as error:
        raise InputError(f"{verb}: the scores have no derivative here ({first_line(error)})") from error


def maps_and_gradients(about: Explained, layer: str) -> Iterator[tuple[Tensor, Tensor]]:
    """The maps of a layer, and how the score of the class that is explained moves with them.

    Args:
        about: The network and its images.
        layer: From `layer_of`.

    Yields:
        For some images at once maps and derivatives, both of shape (images, channels, height, width).

    Cost: a forward pass, and a backward pass down to the layer. What follows gets a copy of the maps, so that one that
        overwrites what it reads leaves them as they were.
    """
    module = {layer: about.model.get_submodule(layer)}
    for images, targets in about.parts():
        held: list[Tensor] = []

        def keep(_: str, __: nn.Module, out: Tensor, held: list[Tensor] = held) -> Tensor:
            held.append(out.detach().requires_grad_())
            return held[-1].clone()

        with torch.enable_grad(), outputs_of(module, keep):
            scores = scores_of("explain", about.model, images)
            chosen = scores.gather(1, targets[:, None]).sum()
            with derived("explain"):
                (gradient,) = torch.autograd.grad(chosen, [held[-1]])
        yield held[-1].detach(), gradient


def noisy_copies(verb: str, about: Explained, samples: int, noise: float, seed: int) -> Iterator[Explained]:
    """The same network with noisy images, so often as there are samples.

    Args:
        verb: The function, for errors.
        about: The network and its images.
        samples: How often.
        noise: Standard deviation of the Gaussian noise, as a share of each image's largest less its least value.
        seed: Of the noise.

    Yields:
        The network with other images.

    Raises:
        InputError: If `samples` is below 1, or `noise` below 0.
    """
    at_least_one(verb, samples=samples)
    if not noise >= 0:
        raise InputError(f"{verb}: noise is {noise}; it must not be negative")
    flat = about.images.flatten(1)
    spread = noise * (flat.amax(dim=1) - flat.amin(dim=1))[:, None, None, None]
    generator = torch.Generator().manual_seed(seed)
    for _ in track(range(samples), verb.replace("_", " "), unit="sample"):
        drawn = torch.randn(about.images.shape, generator=generator).to(about.images)
        yield replace(about, images=about.images + spread * drawn)


def at_least_one(verb: str, **counts: int) -> None:
    """Check numbers of things that are done.

    Args:
        verb: The function, for errors.
        **counts: By name.

    Raises:
        InputError: If one of them is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{verb}: {name} is {count}; at least 1 is needed")
