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


class Selecting(nn.Module):
    """Selective kernels: branches are stacked, weighted against each other and summed."""

    def __init__(self, channels: int = 8, paths: int = 2) -> None:
        super().__init__()
        self.paths = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1 + k, dilation=1 + k) for k in range(paths)
        )
        self.reduce, self.select = nn.Conv2d(channels, 6, 1), nn.Conv2d(6, channels * paths, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.stack([path(x) for path in self.paths], dim=1)
        weights = self.select(self.reduce(branches.sum(1).mean((2, 3), keepdim=True)).relu())
        n, c, h, w = weights.shape
        weights = weights.view(n, len(self.paths), c // len(self.paths), h, w).softmax(1)
        return (branches * weights).sum(dim=1)


class SplitAttention(nn.Module):
    """As in ResNeSt: parts of one convolution are weighted against each other."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.make = nn.Conv2d(channels, 2 * channels, 3, padding=1, groups=2)
        self.reduce, self.select = nn.Conv2d(channels, 6, 1), nn.Conv2d(6, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.make(x)
        n, c, h, w = x.shape
        x = x.reshape(n, 2, c // 2, h, w)
        weights = self.select(self.reduce(x.sum(1).mean((2, 3), keepdim=True)).relu())
        weights = weights.view(n, 1, 2, -1).transpose(1, 2).softmax(1).reshape(n, -1, 1, 1)
        return (x * weights.reshape(n, 2, c // 2, 1, 1)).sum(1)


class HandNorm(nn.Module):
    """Normalisations over channels written by hand."""

    def __init__(self, how: str, channels: int = 8) -> None:
        super().__init__()
        self.how = how
        self.gain = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)
        self.shift = nn.Parameter(torch.randn(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        match self.how:
            case "layer norm":
                centred = x - x.mean(1, keepdim=True)
                x = centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt()
            case "by variance":
                x = (x - x.mean(1, keepdim=True)) * (x.var(1, keepdim=True, unbiased=False) + 1e-6).rsqrt()
            case "root mean square":
                x = x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt()
            case "unit length":
                x = functional.normalize(x, dim=1)
            case _:  # global response normalisation
                norm = x.norm(p=2, dim=(2, 3), keepdim=True)
                x = x + x * (norm / (norm.mean(1, keepdim=True) + 1e-6))
        return x * self.gain + self.shift


class SpatialAttention(nn.Module):
    """CBAM's second half: mean and largest value over channels steer places."""

    def __init__(self, maximum: str) -> None:
        super().__init__()
        self.maximum, self.conv = maximum, nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        largest = x.amax(1, keepdim=True) if self.maximum == "amax" else torch.max(x, 1, keepdim=True)[0]
        return x * self.conv(torch.cat((x.mean(1, keepdim=True), largest), 1)).sigmoid()


class Written(nn.Module):
    """A scale per channel, viewed with the number of channels written out."""

    def __init__(self, how: str, channels: int = 8) -> None:
        super().__init__()
        self.how, self.channels = how, channels
        self.scale = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        match self.how:
            case "view":
                return x * self.scale.view(self.channels, 1, 1)
            case "reshape":
                return x * self.scale.reshape(1, 8, 1, 1)
            case "expand":
                return x * self.scale[None, :, None, None].expand(1, 8, 16, 16)
            case _:
                return x + self.scale.view(1, self.channels, 1, 1).repeat(1, 1, *x.shape[2:])


class Parts(nn.Module):
    """Half of the channels go through convolutions, and all are joined."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.one, self.two = how, block(4, 4), block(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        match self.how:
            case "chunk":
                a, b = x.chunk(2, 1)
            case "split":
                a, b = x.split(x.shape[1] // 2, 1)
            case "slices":
                half = x.shape[1] // 2
                a, b = x[:, :half], x[:, half:]
            case "view":
                a, b = x.view(x.shape[0], 2, -1, *x.shape[2:]).unbind(1)
            case _:
                a, b = x.split(4, 1)
        b = b + self.two(self.one(b))
        return torch.cat((a, b), 1)


class Scales(nn.Module):
    """Res2Net: parts of a convolution's output, each added to what came of the one before; one rectifier for all."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        self.first, self.norm = nn.Conv2d(8, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.last, self.relu = nn.Conv2d(4 * width, 8, 1), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(self.relu(self.norm(self.first(x))), self.width, 1)
        done = [parts[-1]]
        for k, conv in enumerate(self.convs):
            done.append(self.relu(conv(parts[k] if k == 0 else done[-1] + parts[k])))
        out = self.last(torch.cat(done, 1))
        out += x
        return self.relu(out)


UNMIXED = (
    Pattern(
        "selective kernels", lambda: Frame(Selecting()), X, (*BEFORE, "pattern.paths.0", "pattern.reduce")
    ),
    Pattern("three selective kernels", lambda: Frame(Selecting(paths=3)), X, (*BEFORE, "pattern.paths.2")),
    Pattern("split attention", lambda: Frame(SplitAttention()), X, (*BEFORE, "pattern.make")),
    *(
        Pattern(f"by hand {how}", lambda how=how: Frame(HandNorm(how)), X, BEFORE)
        for how in ("layer norm", "by variance", "root mean square", "unit length", "global response")
    ),
    *(
        Pattern(f"spatial attention {how}", lambda how=how: Frame(SpatialAttention(how)), X, BEFORE)
        for how in ("amax", "max")
    ),
    *(
        Pattern(f"written out {how}", lambda how=how: Frame(Written(how)), X, BEFORE)
        for how in ("view", "reshape", "expand", "repeat")
    ),
    *(
        Pattern(
            f"parts by {how}",
            lambda how=how: Frame(Parts(how)),
            X,
            (*BEFORE, "pattern.one.0", "pattern.two.0"),
        )
        for how in ("chunk", "split", "slices", "view", "number")
    ),
    Pattern(
        "scales", lambda: Frame(Scales()), X, (*BEFORE, "pattern.first", "pattern.convs.1", "pattern.last")
    ),
)

OTHERS: tuple[Pattern, ...] = (*OUTPUTS, *OWN_LAYERS, *UNMIXED)
