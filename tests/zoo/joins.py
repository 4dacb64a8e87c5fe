"""Patterns in which channels are added, concatenated, split, moved or re-shaped."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.frame import BEFORE, Flat, Lambda, Pattern, block, fn, framed, whole


class Residual(nn.Module):
    def __init__(self, blocks: int = 1, inplace: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(block(8, 10), nn.Conv2d(10, 8, 1)) for _ in range(blocks))
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.blocks:
            if self.inplace:
                y = branch(x)
                y += x
                x = y.relu_()
            else:
                x = (x + branch(x)).relu()
        return x


class Downsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            block(8, 10, stride=2), nn.Conv2d(10, 12, 3, padding=1), nn.BatchNorm2d(12)
        )
        self.shortcut = nn.Sequential(nn.Conv2d(8, 12, 1, stride=2, bias=False), nn.BatchNorm2d(12))

    def forward(self, x: Tensor) -> Tensor:
        return (self.branch(x) + self.shortcut(x)).relu()


class OptionA(nn.Module):
    """Padded shortcut, in a lambda module or in the block's own forward."""

    def __init__(self, own: bool, front: int = 2, back: int = 2) -> None:
        super().__init__()
        self.branch = nn.Sequential(block(8, 10, stride=2), nn.Conv2d(10, 8 + front + back, 3, padding=1))
        self.padding = (0, 0, 0, 0, front, back)
        self.shortcut = None if own else Lambda(lambda x: functional.pad(x[:, :, ::2, ::2], self.padding))

    def forward(self, x: Tensor) -> Tensor:
        if self.shortcut is not None:
            return (self.branch(x) + self.shortcut(x)).relu()
        return (self.branch(x) + functional.pad(x[:, :, ::2, ::2], self.padding, "constant", 0)).relu()


class PaddedByCat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branch = block(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(x.shape[0], 4, *x.shape[2:], dtype=x.dtype, device=x.device)
        return self.branch(x) + torch.cat((x, zeros), 1)


class Cat(nn.Module):
    def __init__(self, branches: int = 2, nested: bool = False, keep: bool = False) -> None:
        super().__init__()
        self.branches = nn.ModuleList(block(8, 4 + 2 * k) for k in range(branches))
        self.nested, self.keep = nested, keep

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        if self.nested:
            parts = [torch.cat(parts[:2], 1), *parts[2:]]
        return torch.cat([x, *parts] if self.keep else parts, dim=-3)


class CatWithImage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 8), block(11, 8)
        self.c, self.head = block(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c(self.b(torch.cat((self.a(x), x), 1))).mean((2, 3)))


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(8 + 4 * k), nn.ReLU(), nn.Conv2d(8 + 4 * k, 4, 3, padding=1))
            for k in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, 1)


def shuffle(x: Tensor, groups: int = 2) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def shuffle_constant(x: Tensor) -> Tensor:
    return x.reshape(-1, 2, 4, 8, 8).permute(0, 2, 1, 3, 4).reshape(-1, 8, 8, 8)


class ShuffleUnit(nn.Module):
    """ShuffleNet v2: half the channels pass, the others are computed, then both are interleaved."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(block(4, 4), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.BatchNorm2d(4))
        self.a, self.b = block(4, 6), block(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            left, right = x.chunk(2, dim=1)
            x = shuffle(torch.cat((left, self.branch(right)), 1))
        return self.b(x)


class Halves(nn.Module):
    """Two parts of the channels, each with a convolution of its own."""

    def __init__(self, cut: Any, first: int = 4, second: int = 4) -> None:
        super().__init__()
        self.cut = cut
        self.a, self.b = block(first, 5), block(second, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.cut(x)
        return torch.cat((self.a(left), self.b(right)), 1)


class Part(nn.Module):
    def __init__(self, cut: Any, width: int) -> None:
        super().__init__()
        self.cut, self.conv = cut, block(width, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.cut(x))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = block(8, 10), block(10, 12)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.join = block(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.join(torch.cat((self.up(self.middle(functional.max_pool2d(skip, 2))), skip), 1))


class Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(8, 4, 1)
        self.b = nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))
        self.c = nn.Sequential(nn.Conv2d(8, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 5, padding=2))
        self.d = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in (self.a, self.b, self.c, self.d)], 1).relu()


class SplitAttention(nn.Module):
    """ResNeSt: two branches, softmax over the branches per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.squeeze, self.excite = nn.Linear(8, 6), nn.Linear(6, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        parts = y.view(y.shape[0], 2, 8, *y.shape[2:])
        weights = self.excite(self.squeeze(parts.sum(1).mean((2, 3))).relu()).view(-1, 2, 8).softmax(1)
        return (parts * weights[..., None, None]).sum(1)


class StackOver(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.branches = nn.ModuleList(block(8, 8) for _ in range(3))
        self.how = how

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([branch(x) for branch in self.branches])
        return stacked.sum(0) if self.how == "sum" else stacked.max(0).values


def flat(name: str, pattern: Any) -> Pattern:
    """A pattern that flattens 8 x 8 x 8 features, before linear layers."""
    make = pattern if isinstance(pattern, type) else fn(pattern)
    return whole(name, lambda: Flat(make(), 8, 512), must=BEFORE)


class InPlaceChannels(nn.Module):
    def __init__(self, index: Any) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone()
        x[self.index] = 0
        return x


def half_of(x: Tensor) -> Tensor:
    return x[:, : x.size(1) // 2]


def by_size(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.size(1) // 2
    return x[:, :half], x[:, half:]


PERMUTATION = [3, 1, 7, 0, 2, 6, 5, 4]

JOINS: tuple[Pattern, ...] = (
    framed("residual", Residual, must=(*BEFORE, "pattern.blocks.0.0.0")),
    framed("residual_several", lambda: Residual(3), must=BEFORE),
    framed("residual_in_place", lambda: Residual(2, inplace=True), must=BEFORE),
    framed("residual_downsample", Downsample, out=12, must=(*BEFORE, "pattern.shortcut.0")),
    framed("option_a_module", lambda: OptionA(False), out=12, must=BEFORE),
    framed("option_a_forward", lambda: OptionA(True), out=12, must=BEFORE),
    framed("option_a_at_the_end", lambda: OptionA(True, 0, 4), out=12, must=BEFORE),
    framed("option_a_by_cat_of_zeros", PaddedByCat, out=12),
    framed("cat_two", Cat, out=10, must=(*BEFORE, "pattern.branches.0.0", "pattern.branches.1.0")),
    framed("cat_three", lambda: Cat(3), out=18, must=BEFORE),
    framed("cat_nested", lambda: Cat(3, nested=True), out=18, must=BEFORE),
    framed("cat_with_its_input", lambda: Cat(2, keep=True), out=18, must=BEFORE),
    framed("cat_twice_the_same", fn(lambda x: torch.cat((x, x), 1)), out=16, must=BEFORE),
    framed("cat_negative", fn(lambda x: torch.cat((x.relu(), (-x).relu()), 1)), out=16, must=BEFORE),
    framed("cat_over_space", fn(lambda x: torch.cat((x, x), 3)), must=BEFORE),
    whole("cat_with_image", CatWithImage, must=("a.0", "b.0", "c.0")),
    framed("dense_block", Dense, out=20, must=(*BEFORE, "pattern.layers.0.2")),
    framed("shuffle_view", fn(shuffle), must=BEFORE),
    framed("shuffle_four_groups", fn(lambda x: shuffle(x, 4)), must=BEFORE),
    framed("shuffle_constants", fn(shuffle_constant), must=BEFORE),
    framed("shuffle_module", lambda: nn.ChannelShuffle(2), must=BEFORE),
    framed("shuffle_function", fn(lambda x: functional.channel_shuffle(x, 4)), must=BEFORE),
    framed("shuffle_unit", ShuffleUnit, must=BEFORE),
    framed("chunk", lambda: Halves(lambda x: x.chunk(2, 1)), must=BEFORE),
    framed("tensor_split", lambda: Halves(lambda x: torch.tensor_split(x, 2, 1))),
    framed("split_constant", lambda: Halves(lambda x: x.split(4, dim=1)), must=BEFORE),
    framed("split_sizes", lambda: Halves(lambda x: torch.split(x, [2, 6], 1), 2, 6), must=BEFORE),
    framed("split_one_off", lambda: Halves(lambda x: x.split([1, 7], 1), 1, 7), must=BEFORE),
    framed("slice_constants", lambda: Halves(lambda x: (x[:, :3], x[:, 3:]), 3, 5), must=BEFORE),
    framed("slice_overlap", lambda: Halves(lambda x: (x[:, :6], x[:, 2:]), 6, 6)),
    framed("slice_first", lambda: Part(lambda x: x[:, :4], 4), must=BEFORE),
    framed("slice_every_second", lambda: Part(lambda x: x[:, ::2], 4)),
    framed("slice_even_and_odd", lambda: Halves(lambda x: (x[:, ::2], x[:, 1::2]))),
    framed("slice_negative", lambda: Part(lambda x: x[:, -3:], 3), must=BEFORE),
    framed("slice_without_last", lambda: Part(lambda x: x[:, :-2], 6)),
    framed("slice_by_size", lambda: Halves(by_size)),
    framed("slice_half_by_size", lambda: Part(half_of, 4)),
    framed("narrow", lambda: Part(lambda x: x.narrow(1, 2, 5), 5)),
    framed("select_one_channel", lambda: Part(lambda x: x[:, 3:4] * x.sigmoid(), 8)),
    framed("select_channel_scalar_index", lambda: Part(lambda x: torch.stack((x[:, 0], x[:, 5]), 1), 2)),
    framed("unbind_channels", lambda: Part(lambda x: torch.stack(x.unbind(1)[::-1], 1), 8)),
    framed("glu_function", fn(lambda x: functional.glu(x, 1)), out=4, must=BEFORE),
    framed("glu_module", lambda: nn.GLU(dim=1), out=4, must=BEFORE),
    framed("glu_constants", fn(lambda x: x[:, :4] * x[:, 4:].sigmoid()), out=4, must=BEFORE),
    framed("glu_chunk", fn(lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid()), out=4, must=BEFORE),
    framed("unet_skip", UNet, must=(*BEFORE, "pattern.down.0", "pattern.up")),
    framed("inception", Inception, out=16, must=(*BEFORE, "pattern.a", "pattern.d.1")),
    framed("split_attention", SplitAttention),
    framed("stack_sum", lambda: StackOver("sum"), must=BEFORE),
    framed("stack_max", lambda: StackOver("max"), must=BEFORE),
    framed("maxout_leading", fn(lambda x: x.view(x.shape[0], 4, 2, *x.shape[2:]).amax(2)), out=4),
    framed("maxout_trailing", fn(lambda x: x.view(x.shape[0], 2, 4, *x.shape[2:]).max(1).values), out=4),
    framed("flip_channels", fn(lambda x: x.flip(1))),
    framed("add_flipped", fn(lambda x: x + x.flip(1))),
    framed("flip_space", fn(lambda x: x.flip(3)), must=BEFORE),
    framed("roll_channels", fn(lambda x: x.roll(3, 1))),
    framed("roll_space", fn(lambda x: x.roll((1, 2), (2, 3))), must=BEFORE),
    framed("index_select", fn(lambda x: x.index_select(1, torch.tensor(PERMUTATION)))),
    framed("index_list", fn(lambda x: x[:, PERMUTATION])),
    framed("index_part", lambda: Part(lambda x: x[:, [0, 3, 5]], 3)),
    framed("gather_channels", fn(lambda x: x.gather(1, x.argsort(1)))),
    framed("repeat_channels", fn(lambda x: x.repeat(1, 2, 1, 1)), out=16),
    framed("tile_channels", fn(lambda x: torch.tile(x, (1, 2, 1, 1))), out=16),
    framed("repeat_interleave", fn(lambda x: x.repeat_interleave(2, dim=1)), out=16),
    framed("expand_space", fn(lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8) + x), must=BEFORE),
    framed("expand_channels", lambda: Part(lambda x: x[:, :1].expand(-1, 8, -1, -1), 8)),
    framed("write_slice", lambda: InPlaceChannels((slice(None), slice(0, 4)))),
    framed("write_space", lambda: InPlaceChannels((slice(None), slice(None), 0)), must=BEFORE),
    framed("pixel_shuffle", lambda: nn.PixelShuffle(2), out=2),
    framed("pixel_unshuffle", lambda: nn.PixelUnshuffle(2), out=32),
    framed(
        "unfold_fold", fn(lambda x: functional.fold(functional.unfold(x, 3, padding=1), (8, 8), 3, padding=1))
    ),
    flat("view_constant", lambda x: x.view(-1, 8 * 8 * 8)),
    flat("reshape_size", lambda x: x.reshape(x.size(0), -1)),
    flat("flatten", nn.Flatten),
    flat("flatten_channels_last", lambda x: x.permute(0, 2, 3, 1).flatten(1)),
    framed("view_square", fn(lambda x: x.view(x.shape[0], 8, 64).view(-1, 8, 8, 8)), must=BEFORE),
    framed("channels_into_batch", fn(lambda x: (x.view(-1, 1, 8, 8) * 2).view(-1, 8, 8, 8))),
    framed("swap_channels_and_height", fn(lambda x: x.transpose(1, 2))),
    framed("matmul_over_space", fn(lambda x: x @ x.transpose(2, 3))),
    framed("cumsum_channels", fn(lambda x: x.cumsum(1))),
    framed("cumsum_space", fn(lambda x: x.cumsum(2)), must=BEFORE),
)
