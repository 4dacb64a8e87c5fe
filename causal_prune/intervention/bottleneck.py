"""The information bottleneck at a layer (IBA): noise is let in wherever the network can do without the signal."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.hooks import outputs_of
from causal_prune.network.running import attempt, call, device_of, inputs_for, modes_kept
from causal_prune.network.spread import Spread
from causal_prune.progress import track

MIN_STD = 0.01
ACTIVE_SHARE = 0.01
CONSTANT = 1e-5
"""A deviation below this share of the mean is rounding: such an element carries nothing."""


class StreamingMeanStd:
    """Mean and standard deviation of every element of a tensor over a stream of batches (Welford 1962).

    Attributes:
        nonzero: Images in which an element was not 0.
    """

    nonzero: Tensor | None

    def __init__(self) -> None:
        self._spread = Spread()
        self.nonzero = None

    @property
    def count(self) -> int:
        """Images seen."""
        return self._spread.count

    @property
    def mean(self) -> Tensor | None:
        """Mean per element; None before the first batch."""
        return self._spread.mean if self.count else None

    def update(self, batch: Tensor) -> None:
        """Take further images in.

        Args:
            batch: Shape (images, ...).
        """
        rows = batch.detach().double()
        if not len(rows):
            return
        mean, nonzero = rows.mean(dim=0), (rows != 0).sum(dim=0)
        self._spread = self._spread.with_more(len(rows), mean, (rows - mean).square().sum(dim=0))
        self.nonzero = nonzero if self.nonzero is None else self.nonzero + nonzero

    @property
    def std(self) -> Tensor:
        """Standard deviation per element, with n - 1; 0 for a single image."""
        if not self.count:
            raise InputError("the estimator has seen no images: call estimate first")
        return (self._spread.squares / max(1, self.count - 1)).sqrt()

    def active(self, share: float = ACTIVE_SHARE) -> Tensor:
        """Elements that are not 0 in more than a share of the images.

        Args:
            share: 0..1.

        Returns:
            One truth value per element.

        Raises:
            InputError: If no images were seen.
        """
        if self.nonzero is None:
            raise InputError("the estimator has seen no images: call estimate first")
        return self.nonzero > share * self.count


class _Interrupted(Exception):  # noqa: N818 - no error: the way out of a forward pass
    pass


class InformationBottleneck:
    """Attribution by restricting what flows through a layer (Schulz et al. 2020, "Restricting the Flow").

    The output r of the layer is replaced by z = l r + (1 - l) e, with e ~ N(m, s) of the layer's own mean and
    deviation, and l = blur(sigmoid(a)) fitted such that the loss stays low while little information passes: the
    loss of the network + beta * mean capacity. The capacity of an element, in nats, is the Kullback-Leibler
    divergence of z from N(m, s),
        -1/2 (1 + ln (1 - l)^2 - (l (r - m) / s)^2 - (1 - l)^2)    (eq. 6 there).
    Where we differ: an element that never varies carries nothing, so its capacity is 0.

    Args:
        model: The network; it is run in eval mode and restored.
        layer: Name of a module whose output is a tensor of shape (images, channels, ...).
        beta: Weight of the capacity, > 0; 10 as in the original for saliency, about 1 to compare channels.
        sigma: Of the Gaussian blur over space, in pixels; 0 for none.
        steps: Of Adam.
        lr: Its rate.
        copies: Noisy copies of each image per step.
        seed: Of the noise.

    Attributes:
        estimator: What `estimate` has found.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
        >>> iba, images = InformationBottleneck(net, "0"), torch.rand(20, 1, 5, 5)
        >>> iba.estimate([images])
        >>> iba.analyze(images[:1], lambda logits: -logits[:, 0]).shape
        torch.Size([1, 5, 5])
    """

    estimator: StreamingMeanStd

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        *,
        beta: float = 10.0,
        sigma: float = 1.0,
        steps: int = 10,
        lr: float = 1.0,
        copies: int = 10,
        seed: int = 0,
    ) -> None:
        if layer not in dict(model.named_modules()):
            raise InputError(f"layer: there is no module {layer!r} in the model")
        self.estimator = StreamingMeanStd()
        self._model, self._layers = model, {layer: model.get_submodule(layer)}
        self._beta, self._sigma, self._steps = beta, sigma, steps
        self._lr, self._copies, self._seed = lr, copies, seed
        self._alpha: Tensor | None = None
        self._capacity: Tensor | None = None

    def estimate(self, images: Iterable[Any]) -> None:
        """Learn mean, deviation and activity of the layer's output; nothing behind the layer is run.

        Args:
            images: Batches, as elsewhere. Further calls add to what is known.

        Raises:
            InputError: If there are no images.
        """

        def see(_: str, __: nn.Module, output: Tensor) -> None:
            self.estimator.update(output)

        with torch.no_grad(), modes_kept(self._model), outputs_of(self._layers, see):
            self._model.eval()
            for number, batch in enumerate(track(images, "estimate"), start=1):
                with self.interrupt_execution():
                    inputs = inputs_for(self._model, batch)
                    attempt("estimate: the network", self._model, inputs, f"batch {number} of images")
        if not self.estimator.count:
            raise InputError("images: there are no images")

    @contextmanager
    def interrupt_execution(self) -> Iterator[None]:
        """End a forward pass inside the block as soon as the layer has run.

        Yields:
            Nothing; the block ends there without an error, and what the network would return is lost.
        """

        def stop(*_: Any) -> None:
            raise _Interrupted

        with suppress(_Interrupted), outputs_of(self._layers, stop):
            yield

    @contextmanager
    def restrict_flow(self) -> Iterator[None]:
        """Let only as much through the layer as `analyze` found to be needed, inside the block.

        Yields:
            Nothing. Noise is drawn from torch's generator.

        Raises:
            InputError: Before `analyze`.
        """
        if self._alpha is None:
            raise InputError("restrict_flow: nothing was fitted yet; call analyze first")
        alpha = self._alpha

        def replace(_: str, __: nn.Module, output: Tensor) -> Tensor:
            if len(output) % len(alpha):
                raise InputError(
                    f"restrict_flow: {len(output)} images, but the bottleneck was fitted to {len(alpha)}"
                )
            return self._restricted(output, alpha, len(output) // len(alpha))[0]

        with outputs_of(self._layers, replace):
            yield

    def active_neurons(self, share: float = ACTIVE_SHARE) -> Tensor:
        """Elements of the layer that are not 0 in more than a share of the images; the others are held at 0.

        Args:
            share: 0..1.

        Returns:
            Truth values of the shape of one output, (channels, ...).

        Raises:
            InputError: Before `estimate`.
        """
        return self.estimator.active(share)

    def analyze(
        self,
        inputs: Tensor,
        loss: Callable[[Any], Tensor],
        *,
        mode: Literal["saliency", "capacity"] = "saliency",
    ) -> Tensor:
        """Fit the bottleneck to images, each on its own, and say where information passes.

        Args:
            inputs: Shape (images, channels, H, W).
            loss: From the network's output for `copies` x images (the images repeated as a whole) to one loss per
                row, such as the cross entropy with the label.
            mode: "capacity" as `capacity` returns it, "saliency" for its sum over the channels in bits, at the size
                of the images.

        Returns:
            Capacity (images, channels, ...) in nats, or saliency (images, H, W) in bits per element of the layer.

        Raises:
            InputError: Before `estimate`, if the mode is unknown, or the loss is not one number per row.

        Cost: `steps` forward and backward passes over `copies` x images.
        """
        if mode not in ("saliency", "capacity"):
            raise InputError(f"mode: {mode!r} is not 'saliency' or 'capacity'")
        self._fit(inputs, loss)
        capacity = self.capacity()
        return capacity if mode == "capacity" else to_saliency_map(capacity, tuple(inputs.shape[-2:]))

    def capacity(self) -> Tensor:
        """What passed in the last step of the last `analyze`.

        Returns:
            In nats, shape (images, channels, ...), not negative.

        Raises:
            InputError: Before `analyze`.
        """
        if self._capacity is None:
            raise InputError("capacity: nothing was fitted yet; call analyze first")
        return self._capacity

    def _fit(self, inputs: Tensor, loss: Callable[[Any], Tensor]) -> None:
        known = self.estimator.mean
        if known is None:
            raise InputError("analyze: mean and deviation are unknown; call estimate first")
        device, images = device_of(self._model), len(inputs)
        kind = inputs.dtype if inputs.is_floating_point() else torch.get_default_dtype()
        alpha = torch.full((images, *known.shape), 5.0, dtype=kind, device=device, requires_grad=True)
        optimizer = torch.optim.Adam([alpha], lr=self._lr)
        repeated = inputs.to(device).repeat(self._copies, *[1] * (inputs.dim() - 1))
        generator = torch.Generator(device).manual_seed(self._seed)
        found: list[Tensor] = []

        def replace(name: str, __: nn.Module, output: Tensor) -> Tensor:
            if len(output) != len(repeated):
                raise InputError(
                    f"analyze: {name} returns {len(output)} rows for {len(repeated)} images; "
                    "a bottleneck needs one for each"
                )
            restricted, capacity = self._restricted(output, alpha, self._copies, generator)
            found.append(capacity)
            return restricted

        with ExitStack() as stack:
            stack.enter_context(modes_kept(self._model))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(outputs_of(self._layers, replace))
            self._model.eval()
            for _ in range(self._steps):
                found.clear()
                losses = loss(call(self._model, repeated))
                if losses.shape != (len(repeated),):
                    raise InputError(
                        f"loss: returned {tuple(losses.shape)}; it must return {(len(repeated),)}"
                    )
                # images are fitted independently: their losses are summed, copies are averaged
                information = found[0].flatten(1).mean(dim=1).sum()
                whole = losses.sum() / self._copies + self._beta * information
                # only the bottleneck is trained: no gradient reaches the network's own
                (alpha.grad,) = torch.autograd.grad(whole, alpha)
                optimizer.step()
        self._alpha, self._capacity = alpha.detach(), found[0].detach()

    def _restricted(
        self, output: Tensor, alpha: Tensor, copies: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        assert self.estimator.mean is not None
        mean, spread = self.estimator.mean.to(output), self.estimator.std.to(output)
        varies = (spread > CONSTANT * mean.abs()).to(output.dtype)
        std = spread.clamp_min(MIN_STD)
        share = _blurred(torch.sigmoid(alpha), self._sigma).to(output.dtype)
        share = share.repeat(copies, *[1] * (alpha.dim() - 1))
        noise = torch.randn(output.shape, generator=generator, dtype=output.dtype, device=output.device)
        noise = noise * std + mean
        active = self.estimator.active().to(output)
        restricted = (share * output + (1 - share) * noise) * active
        rest = (1 - share).square().clamp_min(1e-12)
        signal = share * (output - mean) / std
        capacity = -0.5 * (1 + rest.log() - signal.square() - rest) * varies
        return restricted, capacity.reshape(copies, *alpha.shape).mean(dim=0)


def to_saliency_map(capacity: Tensor, size: tuple[int, ...] | None = None) -> Tensor:
    """The sum of a capacity over the channels, in bits.

    Args:
        capacity: In nats, shape (channels, H, W) or (images, channels, H, W).
        size: Height and width to resize to (bilinear); None keeps the layer's.

    Returns:
        Shape (H, W) or (images, H, W).

    Example:
        >>> to_saliency_map(torch.full((2, 3, 3), 0.5)).mean().round(decimals=3)
        tensor(1.4430)
    """
    bits = capacity.sum(dim=-3) / math.log(2)
    if size is None:
        return bits
    maps = bits[None, None] if bits.dim() == 2 else bits[:, None]
    resized = F.interpolate(maps, size=list(size), mode="bilinear")
    return resized[0, 0] if bits.dim() == 2 else resized[:, 0]


def _blurred(share: Tensor, sigma: float) -> Tensor:
    """Gaussian blur over the last two of four dimensions, reflected at the border."""
    if sigma <= 0 or share.dim() != 4:
        return share
    for dim in (2, 3):
        radius = min(round(2 * sigma), share.shape[dim] - 1)
        steps = torch.arange(-radius, radius + 1, dtype=share.dtype, device=share.device)
        weights = torch.exp(-steps.square() / (2 * sigma**2))
        weights = weights / weights.sum()
        padding = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
        padded = F.pad(share, padding, mode="reflect")
        windows = padded.unfold(dim, 2 * radius + 1, 1)
        share = (windows * weights).sum(dim=-1)
    return share
