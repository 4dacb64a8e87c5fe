"""The frame around every pattern: convolutions before and after it, so that there is something to prune."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BEFORE = ("stem.0", "before.0", "after.0")
"""The pattern itself must let its channels be cut."""
AROUND = ("stem.0", "after.0")
"""The pattern may freeze what it touches; the layers around it must still be prunable."""


@dataclass(frozen=True)
class Pattern:
    """One network of one pattern.

    Attributes:
        name: Unique.
        make: Makes the network, with the same structure every time.
        example: What to trace it with.
        must: Layers of which at least one filter must be prunable.
        any_batch: Whether the network takes batches of any size.
    """

    name: str
    make: Callable[[], nn.Module]
    example: Tensor | tuple[Any, ...] | Mapping[str, Any]
    must: tuple[str, ...] = AROUND
    any_batch: bool = True


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def block(channels_in: int, channels_out: int, *, dim: int = 2, **options: Any) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    options = {"padding": 1, **options}
    return nn.Sequential(
        CONV[dim](channels_in, channels_out, 3, **options), NORM[dim](channels_out), nn.ReLU()
    )


class Frame(nn.Module):
    """stem, before, pattern, after, mean over space, head."""

    def __init__(self, pattern: nn.Module, channels: int = 8, out: int | None = None, dim: int = 2) -> None:
        super().__init__()
        self.stem = block(3, 12, dim=dim)
        self.before = block(12, channels, dim=dim)
        self.pattern = pattern
        self.after = block(channels if out is None else out, 12, dim=dim)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after(self.pattern(self.before(self.stem(x))))
        return self.head(x.flatten(2).mean(2))


class Flat(nn.Module):
    """stem, before, pattern that ends in (N, features), two linear layers."""

    def __init__(self, pattern: nn.Module, channels: int, features: int) -> None:
        super().__init__()
        self.stem = block(3, 12)
        self.before = block(12, channels)
        self.pattern = pattern
        self.after = nn.Sequential(nn.Linear(features, 12), nn.ReLU())
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.pattern(self.before(self.stem(x)))))


def randomised(model: nn.Module, seed: int = 1) -> nn.Module:
    """Move every one-dimensional parameter and every running statistic away from its trivial first value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and "spectral" not in name and parameter.numel() > 1:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer += 0.3 * torch.randn(buffer.shape, generator=generator).to(buffer.dtype)
            if name.endswith("running_var"):
                buffer += torch.rand(buffer.shape, generator=generator).to(buffer.dtype)
    return model


def image(*shape: int, seed: int = 2) -> Tensor:
    """A batch of one random image; (3, 8, 8) where no shape is given."""
    return torch.randn(1, *(shape or (3, 8, 8)), generator=torch.Generator().manual_seed(seed))


def framed(
    name: str,
    pattern: Callable[[], nn.Module] | Callable[[Tensor], Tensor],
    *,
    channels: int = 8,
    out: int | None = None,
    must: tuple[str, ...] = AROUND,
    dim: int = 2,
    shape: tuple[int, ...] = (),
    any_batch: bool = True,
) -> Pattern:
    """A pattern in its frame.

    Args:
        name: Its name.
        pattern: A class or factory of a module; or, wrapped in `fn`, a function of the features.
        channels: Channels that it gets.
        out: Channels that it returns; `channels` where left out.
        must: See `Pattern`.
        dim: Spatial dimensions.
        shape: Shape of the image.
        any_batch: See `Pattern`.
    """
    shape = shape or (3, *(8,) * dim)
    return Pattern(
        name, lambda: randomised(Frame(pattern(), channels, out, dim)), image(*shape), must, any_batch
    )


def fn(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A factory of a module that applies a function."""
    return lambda: Lambda(function)


def whole(
    name: str,
    make: Callable[[], nn.Module],
    *,
    example: Any = None,
    must: tuple[str, ...] = (),
    any_batch: bool = True,
) -> Pattern:
    """A network that needs no frame."""
    return Pattern(name, lambda: randomised(make()), image() if example is None else example, must, any_batch)
