"""Patterns of other people's networks: what public bug reports and the networks of practitioners held."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.frame import BEFORE, Frame, Pattern, block

VECTOR = ("stem", "mid", "after")
X = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(5))


@dataclass
class Answer:
    """As detectors and language models return."""

    scores: Tensor
    features: Any = None


class Returning(nn.Module):
    """A network whose outputs are packed."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = Frame(block(8, 8)), kind

    def forward(self, x: Tensor) -> Any:
        scores = self.net(x)
        match self.kind:
            case "dataclass":
                return Answer(scores, {"norm": scores.norm(dim=1)})
            case "object":
                return SimpleNamespace(fields={"scores": [scores]}, size=(3, 4))
            case "integers":
                return (scores * 1000).round().long()
            case _:
                return torch.topk(scores, 2).indices, scores.argmax(1)


OUTPUTS = tuple(
    Pattern(
        f"outputs in {kind}",
        lambda kind=kind: Returning(kind),
        X,
        ("net.stem.0", "net.before.0", "net.after.0"),
    )
    for kind in ("dataclass", "object", "integers", "places")
)


class OwnLinear(nn.Linear):
    """As timm has one: the forward of nn.Linear, written again."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class ActiveLinear(nn.Linear):
    """A linear layer that ends in its activation."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias).relu()


class GainedLinear(nn.Linear):
    """A weight that is normalised per filter and scaled."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.gain = nn.Parameter(torch.rand(sizes[1], 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, functional.normalize(self.weight, dim=1) * self.gain, self.bias)


class Standardised(nn.Conv2d):
    """Weight standardisation with a gain, as in normaliser-free networks."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.flatten(1)
        scale = (flat.var(1, keepdim=True) + 1e-5).rsqrt()
        weight = ((flat - flat.mean(1, keepdim=True)) * scale).view_as(self.weight) * self.gain
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ByBatchNorm(nn.Conv2d):
    """The same, the way timm writes it."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = functional.batch_norm(rows, None, None, training=True, momentum=0.0, eps=1e-6)
        return functional.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


class InProduct(nn.Conv2d):
    """The product is overridden, not the forward."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight * 2 - weight.mean((1, 2, 3), keepdim=True), bias)


class Vector(nn.Module):
    """Channels as rows of (N, C) between two linear layers, with a part of one's own in between."""

    def __init__(self, make: Callable[[], nn.Module], width: int = 10) -> None:
        super().__init__()
        self.stem, self.mid, self.own = nn.Conv2d(3, 8, 3), nn.Linear(8, 10), make()
        self.after, self.head = nn.Linear(width, 7), nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.stem(x).relu().mean((2, 3))).relu()
        return self.head(self.after(self.own(x)).relu())


class Product(nn.Module):
    """A matrix of one's own, in every way to multiply with it."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.matrix, self.shift = nn.Parameter(torch.randn(10, 9) / 3), nn.Parameter(torch.randn(9))

    def forward(self, x: Tensor) -> Tensor:
        match self.how:
            case "matmul":
                return x @ self.matrix
            case "addmm":
                return torch.addmm(self.shift, x, self.matrix)
            case "bmm":
                return torch.bmm(x[:, None], self.matrix.expand(len(x), -1, -1))[:, 0]
            case "einsum":
                return torch.einsum("nc,cf->nf", x, self.matrix) + self.shift
            case "linear":
                return functional.linear(x, self.matrix.T, self.shift)
            case _:
                return (self.matrix.T @ x.T).T


class Called(nn.Module):
    """Layers called as functions on parameters and buffers of one's own."""

    def __init__(self, how: str, width: int = 8) -> None:
        super().__init__()
        self.how = how
        self.gain, self.shift = nn.Parameter(torch.rand(width) + 0.5), nn.Parameter(torch.randn(width))
        self.register_buffer("centre", torch.randn(width) * 0.1)
        self.register_buffer("spread", torch.rand(width) + 0.5)
        self.kernel = nn.Parameter(torch.randn(width, width, 3, 3) / 8)
        self.own = nn.Parameter(torch.randn(width, 1, 3, 3) / 3)

    def forward(self, x: Tensor) -> Tensor:
        match self.how:
            case "batch_norm":
                return functional.batch_norm(x, self.centre, self.spread, self.gain, self.shift, eps=1e-3)
            case "instance_norm":
                return functional.instance_norm(x, weight=self.gain, bias=self.shift)
            case "group_norm":
                return functional.group_norm(x, 2, self.gain, self.shift)
            case "layer_norm":
                moved = x.permute(0, 2, 3, 1)
                moved = functional.layer_norm(moved, moved.shape[-1:], self.gain, self.shift)
                return moved.permute(0, 3, 1, 2)
            case "depthwise":
                return functional.conv2d(x, self.own, self.shift, padding=1, groups=x.shape[1])
            case _:
                return functional.conv2d(x, self.kernel, self.shift, padding=1)


OWN_LAYERS = (
    *(
        Pattern(
            f"own linear {kind.__name__}",
            lambda kind=kind: Vector(lambda: kind(10, 9), 9),
            X,
            (*VECTOR, "own"),
        )
        for kind in (OwnLinear, ActiveLinear, GainedLinear)
    ),
    *(
        Pattern(f"own product {how}", lambda how=how: Vector(lambda: Product(how), 9), X, VECTOR)
        for how in ("matmul", "addmm", "bmm", "einsum", "linear", "from the left")
    ),
    *(
        Pattern(
            f"own convolution {kind.__name__}",
            lambda kind=kind: Frame(kind(8, 10, 3, padding=1), out=10),
            X,
            (*BEFORE, "pattern"),
        )
        for kind in (Standardised, ByBatchNorm, InProduct)
    ),
    *(
        Pattern(f"called {how}", lambda how=how: Frame(Called(how)), X, BEFORE)
        for how in ("batch_norm", "instance_norm", "group_norm", "layer_norm", "depthwise", "convolution")
    ),
)

OTHERS: tuple[Pattern, ...] = (*OUTPUTS, *OWN_LAYERS)
