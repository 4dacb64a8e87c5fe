"""Patterns of one kind of layer: normalisations, grouped and transposed convolutions, re-parametrised weights."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from tests.zoo.frame import BEFORE, Frame, Pattern, block, fn, framed, image, randomised, whole

INNER = (*BEFORE, "pattern.0")


def seq(*modules: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*(make() for make in modules))


def conv(channels_in: int = 8, channels_out: int = 8, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, **options)


class LayerScale(nn.Module):
    """A parameter or buffer of one number per channel."""

    def __init__(self, *shape: int, buffer: bool = False, add: bool = False) -> None:
        super().__init__()
        values = torch.linspace(0.5, 2.0, 8).reshape(shape)
        if buffer:
            self.register_buffer("scale", values)
        else:
            self.scale = nn.Parameter(values)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale if self.add else x * self.scale


class PlainAttribute(nn.Module):
    """One number per channel in an attribute that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.linspace(0.5, 2.0, 8).reshape(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class ConvNeXt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = conv(groups=8)
        self.norm = nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.gamma = nn.Parameter(torch.linspace(0.5, 1.5, 8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(functional.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


class AfterCat(nn.Module):
    """Two branches of unlike width, then a layer over both."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.a, self.b = block(8, 4), block(8, 8)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.cat((self.a(x), self.b(x)), 1))


def old_norm(kind: str) -> nn.Module:
    """The hook form of weight norm and spectral norm, which torch calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "weight":
            return nn.Sequential(torch.nn.utils.weight_norm(conv()), nn.ReLU())
        return nn.Sequential(torch.nn.utils.spectral_norm(conv()), nn.ReLU())


class WeightStandardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Conv2dSame(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(functional.pad(x, (1, 1, 1, 1)), self.weight, self.bias)


class ScaledConv(nn.Conv2d):
    """A subclass that calls its parent's forward and does something more."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2 + 1


class RawConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(10, 8, 3, 3) * 0.2)
        self.offset = nn.Parameter(torch.randn(10))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, self.offset, padding=1)


class RawLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(10, 8) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.permute(0, 2, 3, 1), self.matrix).permute(0, 3, 1, 2)


class RawDepthwise(nn.Module):
    """A fixed blur as a buffer: one kernel per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.full((8, 1, 3, 3), 1 / 9))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, padding=1, groups=x.shape[1])


class Expanded(nn.Module):
    """A fixed blur of one kernel, expanded to the channels that there are."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", torch.full((1, 1, 3, 3), 1 / 9))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel.expand(x.shape[1], -1, -1, -1), padding=1, groups=x.shape[1])


def frozen_parameters() -> nn.Module:
    model = Frame(conv())
    model.stem.requires_grad_(False)
    model.before[0].weight.requires_grad_(False)
    return model


def in_half(dtype: torch.dtype) -> Callable[[], nn.Module]:
    return lambda: Frame(nn.Sequential(conv(), nn.BatchNorm2d(8))).to(dtype)


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(6, 12), nn.BatchNorm1d(12)
        self.b, self.c = nn.Linear(12, 10), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.norm(self.a(x)).relu()).tanh())


class VGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(block(3, 8), nn.MaxPool2d(2), block(8, 10), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Sequential(nn.Linear(40, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


def chain() -> nn.Module:
    layers = [nn.Conv2d(a, b, 3, bias=False) for a, b in ((3, 8), (8, 10), (10, 4))]
    return nn.Sequential(layers[0], nn.ReLU(True), layers[1], nn.LeakyReLU(0.1), layers[2], nn.Flatten())


LAYERS: tuple[Pattern, ...] = (
    framed("plain", nn.Identity, must=BEFORE),
    whole("plain_without_bias_or_norm", chain, must=("0", "2")),
    whole("vgg", VGG, must=("features.0.0", "features.2.0", "classifier.0")),
    whole("mlp_batchnorm1d", MLP, example=image(6), must=("a", "b")),
    framed("activations", seq(nn.GELU, nn.Hardswish, nn.SiLU, nn.Softplus, nn.ELU), must=BEFORE),
    framed("prelu_shared", nn.PReLU, must=BEFORE),
    framed("prelu_per_channel", lambda: nn.PReLU(8), must=BEFORE),
    framed("rrelu_and_dropouts", seq(nn.Dropout, nn.Dropout2d, nn.AlphaDropout, nn.RReLU), must=BEFORE),
    framed("batchnorm_not_affine", lambda: nn.BatchNorm2d(8, affine=False), must=BEFORE),
    framed("batchnorm_without_statistics", lambda: nn.BatchNorm2d(8, track_running_stats=False), must=BEFORE),
    framed("batchnorm_twice", lambda: nn.Sequential(nn.BatchNorm2d(8), nn.BatchNorm2d(8)), must=BEFORE),
    framed("groupnorm_two", seq(conv, lambda: nn.GroupNorm(2, 8)), must=INNER),
    framed("groupnorm_four", seq(conv, lambda: nn.GroupNorm(4, 8)), must=INNER),
    framed("groupnorm_one", seq(conv, lambda: nn.GroupNorm(1, 8))),
    framed("groupnorm_each", seq(conv, lambda: nn.GroupNorm(8, 8)), must=INNER),
    framed("instancenorm", lambda: nn.InstanceNorm2d(8), must=BEFORE),
    framed("instancenorm_affine", lambda: nn.InstanceNorm2d(8, affine=True), must=BEFORE),
    framed(
        "instancenorm_tracking",
        lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        must=BEFORE,
    ),
    framed("layernorm_chw", lambda: nn.LayerNorm([8, 8, 8])),
    framed("layernorm_hw", lambda: nn.LayerNorm([8, 8])),
    framed("layernorm_one_group", fn(lambda x: functional.group_norm(x, 1))),
    framed("local_response_norm", lambda: nn.LocalResponseNorm(3)),
    framed("normalize_channels", fn(lambda x: functional.normalize(x, dim=1))),
    framed("convnext", ConvNeXt, must=("stem.0", "after.0", "pattern.wide")),
    framed("layer_scale_c11", lambda: LayerScale(8, 1, 1), must=BEFORE),
    framed("layer_scale_1c11", lambda: LayerScale(1, 8, 1, 1), must=BEFORE),
    framed("layer_bias_parameter", lambda: LayerScale(1, 8, 1, 1, add=True), must=BEFORE),
    framed("buffer_c11", lambda: LayerScale(8, 1, 1, buffer=True), must=BEFORE),
    framed("buffer_added", lambda: LayerScale(1, 8, 1, 1, buffer=True, add=True), must=BEFORE),
    framed("buffer_over_width", lambda: LayerScale(1, 1, 1, 8, buffer=True), must=BEFORE),
    framed("plain_tensor_attribute", PlainAttribute),
    framed("depthwise", seq(lambda: conv(groups=8), lambda: nn.BatchNorm2d(8)), must=BEFORE),
    framed("depthwise_separable", seq(lambda: conv(groups=8), lambda: nn.Conv2d(8, 8, 1)), must=BEFORE),
    framed("depthwise_multiplier", lambda: conv(8, 16, groups=8), out=16, must=BEFORE),
    framed(
        "depthwise_after_cat",
        lambda: AfterCat(conv(12, 12, groups=12)),
        out=12,
        must=(*BEFORE, "pattern.a.0"),
    ),
    framed("depthwise_multiplier_after_cat", lambda: AfterCat(conv(12, 24, groups=12)), out=24, must=BEFORE),
    framed("grouped_two", lambda: conv(groups=2), must=BEFORE),
    framed("grouped_four", lambda: conv(groups=4), must=BEFORE),
    framed("grouped_chain", seq(lambda: conv(groups=2), lambda: conv(groups=4)), must=BEFORE),
    framed("grouped_widening", lambda: conv(8, 12, groups=2), out=12, must=BEFORE),
    framed("grouped_after_cat", lambda: AfterCat(conv(12, 8, groups=2)), must=(*BEFORE, "pattern.b.0")),
    framed("grouped_three_after_cat", lambda: AfterCat(conv(12, 12, groups=3)), out=12, must=BEFORE),
    framed("grouped_after_shuffle", seq(lambda: nn.ChannelShuffle(2), lambda: conv(groups=2)), must=BEFORE),
    framed("grouped_residual", seq(lambda: conv(groups=2), lambda: nn.BatchNorm2d(8), conv), must=INNER),
    framed("transposed", lambda: nn.ConvTranspose2d(8, 10, 2, stride=2), out=10, must=(*BEFORE, "pattern")),
    framed(
        "transposed_grouped", lambda: nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2), out=12, must=BEFORE
    ),
    framed("transposed_depthwise", lambda: nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8), must=BEFORE),
    framed("conv1d", lambda: nn.Conv1d(8, 8, 3, padding=1), dim=1, must=(*BEFORE, "pattern")),
    framed(
        "conv3d", lambda: nn.Conv3d(8, 8, 3, padding=1), dim=3, shape=(3, 4, 6, 6), must=(*BEFORE, "pattern")
    ),
    framed("dilated_strided", lambda: nn.Conv2d(8, 8, 3, dilation=2, stride=2, padding=2), must=BEFORE),
    framed("padding_reflect", lambda: conv(padding_mode="reflect"), must=(*BEFORE, "pattern")),
    framed("padding_circular", lambda: conv(padding_mode="circular"), must=(*BEFORE, "pattern")),
    framed("padding_same", lambda: nn.Conv2d(8, 8, 4, padding="same"), must=(*BEFORE, "pattern")),
    framed(
        "reflection_pad", seq(lambda: nn.ReflectionPad2d(1), lambda: nn.ConstantPad2d(1, 0.7)), must=BEFORE
    ),
    framed("pools", seq(lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(3, 1, 1)), must=BEFORE),
    framed(
        "adaptive_pools", seq(lambda: nn.AdaptiveMaxPool2d(4), lambda: nn.AdaptiveAvgPool2d(3)), must=BEFORE
    ),
    framed("lp_pool", lambda: nn.LPPool2d(2, 2), must=BEFORE),
    framed("upsample", seq(nn.Identity, lambda: nn.Upsample(scale_factor=2)), must=BEFORE),
    framed(
        "interpolate",
        fn(lambda x: functional.interpolate(x, size=(5, 7), mode="bilinear", align_corners=False)),
        must=BEFORE,
    ),
    framed("weight_norm", lambda: nn.Sequential(parametrizations.weight_norm(conv()), nn.ReLU()), must=INNER),
    framed("weight_norm_old", lambda: old_norm("weight"), must=INNER),
    framed("weight_norm_over_all", lambda: parametrizations.weight_norm(conv(), dim=None)),
    framed(
        "spectral_norm", lambda: nn.Sequential(parametrizations.spectral_norm(conv()), nn.ReLU()), must=BEFORE
    ),
    framed("spectral_norm_old", lambda: old_norm("spectral"), must=BEFORE),
    framed("weight_standardisation", lambda: WeightStandardised(8, 8, 3, padding=1)),
    framed("conv2d_same", lambda: Conv2dSame(8, 8, 3)),
    framed("conv_subclass_calls_parent", lambda: ScaledConv(8, 8, 3)),
    framed("raw_conv_weight", RawConv, out=10),
    framed("raw_linear_weight", RawLinear, out=10),
    framed("raw_depthwise_buffer", RawDepthwise),
    framed("raw_depthwise_expanded", Expanded),
    whole("frozen_parameters", frozen_parameters, must=BEFORE),
    Pattern("half", lambda: randomised(Frame(conv())).half(), image().half(), BEFORE),
    Pattern("bfloat16", lambda: randomised(Frame(conv())).bfloat16(), image().bfloat16(), BEFORE),
    Pattern("double", lambda: randomised(Frame(conv())).double(), image().double(), BEFORE),
    Pattern(
        "channels_last",
        lambda: randomised(Frame(conv())).to(memory_format=torch.channels_last),
        image().contiguous(memory_format=torch.channels_last),
        BEFORE,
    ),
)
