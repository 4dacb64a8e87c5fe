"""Patterns in which channels scale, mix or attend to each other."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.frame import AROUND, BEFORE, Pattern, fn, framed


class SqueezeExcite(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        layer = nn.Linear if form != "conv" else lambda a, b: nn.Conv2d(a, b, 1)
        self.down, self.up = layer(8, 4), layer(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "conv":
            return x * self.up(self.down(functional.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        gate = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        return x * (gate.view(-1, 8, 1, 1) if self.form == "constant" else gate[:, :, None, None])


class ECA(nn.Module):
    """A convolution along the channels, as one-dimensional signal."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3))[:, None]).sigmoid()
        return x * gate.transpose(1, 2)[..., None]


class SpatialAttention(nn.Module):
    def __init__(self, statistics: bool) -> None:
        super().__init__()
        self.statistics = statistics
        self.conv = nn.Conv2d(2 if statistics else 8, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat((x.amax(1, keepdim=True), x.mean(1, keepdim=True)), 1) if self.statistics else x
        return x * self.conv(y).sigmoid()


class CBAM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))
        self.spatial = SpatialAttention(True)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return self.spatial(x * gate.sigmoid()[..., None, None])


class PixelAttention(nn.Module):
    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return tokens.transpose(1, 2).reshape(x.shape)


class NonLocal(nn.Module):
    """Affinity between pixels; `scaled` divides by the square root of the width."""

    def __init__(self, scaled: bool = False, fused: bool = False) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(8, 6, 1) for _ in range(3))
        self.out = nn.Conv2d(6, 8, 1)
        self.scaled, self.fused = scaled, fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).flatten(2).transpose(1, 2) for m in (self.query, self.key, self.value))
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            scores = q @ k.transpose(1, 2)
            y = (scores / q.shape[-1] ** 0.5 if self.scaled else scores / 10).softmax(-1) @ v
        return x + self.out(y.transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))


class QKV(nn.Module):
    """One linear layer for query, key and value of two heads, as vision transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).reshape(n, h * w, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).reshape(n, h * w, 8)).transpose(1, 2).reshape(n, c, h, w)


class ChannelAttention(nn.Module):
    """DANet: affinity between channels."""

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        return x + ((flat @ flat.transpose(1, 2)).softmax(-1) @ flat).reshape(x.shape)


class Einsum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(10, 8) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,oc->nohw", x, self.mix)


class Bilinear(nn.Module):
    """Outer product of two feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.a(x)[:, :, None] * self.b(x)[:, None]
        return outer.flatten(1, 2)


class BilinearLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bilinear = nn.Bilinear(8, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1)
        return self.bilinear(y, y).permute(0, 3, 1, 2)


class Recurrent(nn.Module):
    """An RNN over pixels, whose features are the channels."""

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU] | type[nn.RNN], over_channels: bool = False
    ) -> None:
        super().__init__()
        self.rnn = kind(64 if over_channels else 8, 8, batch_first=True)
        self.over_channels = over_channels

    def forward(self, x: Tensor) -> Tensor:
        steps = x.flatten(2) if self.over_channels else x.flatten(2).transpose(1, 2)
        y = self.rnn(steps)[0]
        return y.transpose(1, 2).reshape(x.shape[0], 8, -1, 8)


class ConvGRU(nn.Module):
    """A convolutional cell, called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x)
        for _ in range(3):
            both = torch.cat((x, state), 1)
            gate = self.gate(both).sigmoid()
            state = (1 - gate) * state + gate * self.candidate(both).tanh()
        return state


class FiLM(nn.Module):
    """Scale and shift of every channel from an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.linear = nn.Embedding(4, 6), nn.Linear(6, 16)

    def forward(self, x: Tensor) -> Tensor:
        index = torch.zeros(x.shape[0], dtype=torch.long)
        scale, shift = self.linear(self.embedding(index)).chunk(2, 1)
        return x * (1 + scale[..., None, None]) + shift[..., None, None]


class EmbeddedScale(nn.Module):
    """The embedding itself holds one number per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.embedding(torch.ones(x.shape[0], dtype=torch.long))[..., None, None]


class Mixer(nn.Module):
    """MLP-mixer: linear over pixels, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.back = nn.Linear(64, 12), nn.Linear(12, 64)
        self.channels, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(2)
        y = y + self.back(self.tokens(y).relu())
        y = y.transpose(1, 2)
        y = y + self.narrow(self.channels(y).relu())
        return y.transpose(1, 2).reshape(x.shape)


class HyperNetwork(nn.Module):
    """The kernel comes out of a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.linear = nn.Parameter(torch.randn(5)), nn.Linear(5, 8 * 8 * 9)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.linear(self.code).view(8, 8, 3, 3), padding=1)


class DynamicConv(nn.Module):
    """A mixture of kernels, weighted by the input."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.router = nn.Parameter(torch.randn(3, 8, 8, 3, 3) * 0.2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mix = self.router(x.mean((0, 2, 3))).softmax(0)
        return functional.conv2d(x, (mix[:, None, None, None, None] * self.kernels).sum(0), padding=1)


class GridSample(nn.Module):
    """A spatial transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        grid = functional.affine_grid(torch.eye(2, 3).expand(x.shape[0], 2, 3), x.shape, align_corners=False)
        return functional.grid_sample(x, grid + 0.1 * self.shift(x).permute(0, 2, 3, 1), align_corners=False)


class ComplexView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(1, (4, 2)).movedim(2, -1).contiguous())
        return torch.view_as_real(pairs * torch.tensor(0.6 + 0.8j)).movedim(-1, 2).flatten(1, 2)


ATTENTION: tuple[Pattern, ...] = (
    framed("squeeze_excite_conv", lambda: SqueezeExcite("conv"), must=(*BEFORE, "pattern.down")),
    framed("squeeze_excite_linear", lambda: SqueezeExcite("linear"), must=(*BEFORE, "pattern.down")),
    framed("squeeze_excite_constant_view", lambda: SqueezeExcite("constant"), must=BEFORE),
    framed("eca", ECA),
    framed("spatial_attention_conv", lambda: SpatialAttention(False), must=BEFORE),
    framed("spatial_attention_statistics", lambda: SpatialAttention(True)),
    framed("cbam", CBAM),
    framed("mean_over_channels", fn(lambda x: x - x.mean(1, keepdim=True))),
    framed("max_over_channels", fn(lambda x: x + x.amax(1, keepdim=True))),
    framed("variance_over_channels", fn(lambda x: x / (1 + x.var(1, keepdim=True)))),
    framed("sum_over_channels", fn(lambda x: torch.cat((x, x.sum(1, keepdim=True) / 8), 1)), out=9),
    framed("softmax_over_channels", fn(lambda x: x.softmax(1))),
    framed("softmax_over_space", fn(lambda x: x.flatten(2).softmax(2).view(x.shape)), must=BEFORE),
    framed("sort_channels", fn(lambda x: x.sort(1).values)),
    framed("topk_channels", fn(lambda x: x.topk(4, 1).values), out=4),
    framed("multihead_attention", PixelAttention),
    framed("non_local", NonLocal),
    framed("non_local_scaled", lambda: NonLocal(scaled=True)),
    framed("non_local_fused", lambda: NonLocal(fused=True)),
    framed("qkv", QKV),
    framed("channel_attention", ChannelAttention),
    framed("einsum_parameter", Einsum, out=10),
    framed("einsum_affinity", fn(lambda x: torch.einsum("nchw,ncij->nhwij", x, x).mean((3, 4))[:, None] * x)),
    framed("outer_product", Bilinear, out=12),
    framed("bilinear_layer", BilinearLayer),
    framed("lstm", lambda: Recurrent(nn.LSTM)),
    framed("gru", lambda: Recurrent(nn.GRU)),
    framed("rnn_steps_are_channels", lambda: Recurrent(nn.RNN, over_channels=True)),
    framed("conv_gru", ConvGRU),
    framed("film", FiLM),
    framed("embedded_scale", EmbeddedScale),
    framed("mlp_mixer", Mixer, must=(*AROUND, "pattern.tokens", "pattern.channels")),
    framed("hypernetwork", HyperNetwork),
    framed("dynamic_conv", DynamicConv, any_batch=False),
    framed("grid_sample", GridSample),
    framed("complex_view", ComplexView),
    framed("fft_space", fn(lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 0.5).real)),
    framed("fft_channels", fn(lambda x: torch.fft.fft(x, dim=1).abs())),
)
