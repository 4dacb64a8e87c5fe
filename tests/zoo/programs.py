"""Patterns of the program around the layers: branches, sharing, outputs, detours that a tracer may not see."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.frame import AROUND, BEFORE, Frame, Lambda, Pattern, block, fn, framed, image, whole
from tests.zoo.layers import conv


class Twice(nn.Module):
    """One module, called twice in sequence."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.conv, self.norm, self.between = conv(), nn.BatchNorm2d(8), between

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.between(self.norm(self.conv(x)))))


class TwoPlaces(nn.Module):
    """One module, called on two unlike branches."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shared = block(8, 6), block(8, 6), conv(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.shared(self.a(x)), self.shared(self.b(x))), 1)


class TwoNames(nn.Module):
    """One module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv()
        self.b = self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class TiedWeights(nn.Module):
    """Two modules, one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).relu())


class TiedTransposed(nn.Module):
    """An autoencoder whose decoder reads the encoder's weight the other way round."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = conv(8, 10), nn.ConvTranspose2d(10, 8, 3, padding=1)
        self.decode.weight = self.encode.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x).relu())


class WeightRead(nn.Module):
    """A convolution whose weight is also used as a number, or by a function."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how = conv(), how

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu()
        if self.how == "number":
            return y * self.conv.weight.abs().mean() * 10
        return functional.conv2d(y, self.conv.weight, padding=1)


class Branch(nn.Module):
    """Which convolution runs depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.mean() > 0.4 else self.b(x.flip(1))


class EarlyBranch(nn.Module):
    """Which convolution runs depends on the image, before any layer; only one of them is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = block(3, 8), conv(), conv()
        self.after, self.head = block(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = self.a(y) if x.flatten()[0] > 0 else self.b(y)
        return self.head(self.after(y).mean((2, 3)))


class WidthBranch(nn.Module):
    """A path that is taken at one width only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.shape[1] == 8 else x


class Auxiliary(nn.Module):
    """A head that runs only in training, as in GoogLeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 8), block(8, 8)
        self.auxiliary = nn.Sequential(nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.auxiliary_head, self.head = nn.Linear(6, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        side = self.auxiliary_head(self.auxiliary(y).mean((2, 3))) if self.training else None
        return {"out": self.head(self.b(y).mean((2, 3))), "auxiliary": side}


class ManyOutputs(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 8), block(8, 10), conv(10, 6)
        self.head, self.box, self.form = nn.Linear(6, 4), nn.Conv2d(10, 4, 1), form

    def forward(self, x: Tensor) -> Any:
        a = self.a(x)
        b = self.b(a)
        logits = self.head(self.c(b).mean((2, 3)))
        if self.form == "dict":
            return {"logits": logits, "boxes": self.box(b), "none": None, "scale": 2.5}
        if self.form == "features":
            return [b, logits]
        return (logits, (self.box(b), None, [3, "text"]), {"deep": {"mean": b.mean((1, 2, 3))}})


class ConvOutput(nn.Module):
    """A convolution whose channels are an output of the network, and read on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = block(3, 8), conv(), conv(8, 4)

    def forward(self, x: Tensor) -> Any:
        b = self.b(self.a(x))
        return b, self.c(b.relu())


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 8), block(2, 6)
        self.c, self.head = block(14, 8), nn.Linear(8, 4)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        return self.head(self.c(torch.cat((self.a(image), self.b(depth)), 1)).mean((2, 3)))


class ConditionedOnNumber(nn.Module):
    """An image and a class number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.embedding, self.scale = block(3, 8), nn.Embedding(5, 6), nn.Linear(6, 8)
        self.b, self.head = block(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head(self.b(self.a(x) * self.scale(self.embedding(y))[:, :, None, None]).mean((2, 3)))


class Digits(nn.Module):
    """Modules in a list and a dictionary, with digits for names."""

    def __init__(self) -> None:
        super().__init__()
        self.list = nn.ModuleList([conv(), conv()])
        self.dict = nn.ModuleDict({"0": conv(), "1x": conv()})
        self.unused = conv()

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.list, *self.dict.values()):
            x = layer(x).relu()
        return x


class StochasticDepth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and float(torch.rand(())) < 0.5:
            return x
        return x + self.conv(x)


class Detour(nn.Module):
    """The features leave torch's sight and come back."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.conv, self.how = conv(), how

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "numpy":
            y = torch.from_numpy(x.detach().numpy()[:, ::-1].copy())
        elif self.how == "list":
            y = torch.tensor(x.detach().tolist())
        elif self.how == "data":
            y = x.data * 2
        elif self.how == "item":
            y = x * x[:, 2].mean().item()
        elif self.how == "out":
            y = torch.empty_like(x)
            torch.add(x, 1, out=y)
        elif self.how == "fill":
            y = torch.empty(x.shape)
            y[:] = x
        elif self.how == "strided":
            y = x.contiguous().as_strided(x.shape, x.stride())
        else:
            y = x.detach()
        return self.conv(y)


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return 2 * grads[0]


class Cached(nn.Module):
    """Keeps its features in an attribute, which then is no leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.features: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.conv(x)
        return self.features.relu()


def ran_before() -> nn.Module:
    model = Frame(Cached())
    model(image())
    return model


def with_hook(kind: str) -> nn.Module:
    """A hook of the user's changes what a layer emits or reads."""
    model = Frame(conv())
    factors = torch.linspace(0.5, 2, 8).reshape(8, 1, 1)
    if kind == "fixed":
        model.before.register_forward_hook(lambda m, args, out: out * factors)
    else:
        model.pattern.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    return model


def fixed_width_added(x: Tensor) -> Tensor:
    return x + torch.linspace(0, 1, 8).reshape(1, 8, 1, 1)


def zeros_of_fixed_width(x: Tensor) -> Tensor:
    return x + torch.zeros(x.shape[0], 8, 8, 8)


def size_arithmetic(x: Tensor) -> Tensor:
    return x.view(x.size(0), x.size(1), -1).sum(2).view(x.size(0), x.size(1), 1, 1).expand_as(x)


def divided_by_width(x: Tensor) -> Tensor:
    return x / x.size(1) ** 0.5


def checkerboard(x: Tensor) -> Tensor:
    return torch.where((torch.arange(8) % 2 == 0).reshape(1, 8, 1, 1), x, -x)


class Gate(nn.Module):
    """One filter that scales all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x).sigmoid()


PROGRAMS: tuple[Pattern, ...] = (
    framed("called_twice", Twice),
    framed("called_twice_plain", lambda: Twice(lambda x: x)),
    framed("called_in_two_places", TwoPlaces, out=10, must=(*BEFORE, "pattern.shared")),
    framed("one_module_two_names", TwoNames, must=BEFORE),
    framed("tied_weights", TiedWeights, must=BEFORE),
    framed("tied_transposed", TiedTransposed),
    framed("weight_read_as_number", lambda: WeightRead("number")),
    framed("weight_used_again", lambda: WeightRead("function")),
    framed("branch_on_data", Branch),
    whole("branch_on_image", EarlyBranch),
    framed("branch_on_width", WidthBranch),
    whole("auxiliary_in_training", Auxiliary, must=("a.0", "b.0", "auxiliary.0")),
    whole("outputs_dict", lambda: ManyOutputs("dict"), must=("a.0", "b.0", "c")),
    whole("outputs_nested", lambda: ManyOutputs("nested"), must=("a.0", "c")),
    whole("outputs_features", lambda: ManyOutputs("features"), must=("a.0", "c")),
    whole("output_of_a_conv", ConvOutput, must=("a.0",)),
    whole("two_inputs", TwoInputs, example=(image(), image(2, 8, 8)), must=("a.0", "b.0", "c.0")),
    whole(
        "inputs_by_name",
        TwoInputs,
        example={"depth": image(2, 8, 8), "image": image()},
        must=("a.0", "b.0", "c.0"),
    ),
    whole("image_and_class", ConditionedOnNumber, example=(image(), torch.tensor([3])), must=("a.0", "b.0")),
    framed("digit_names_and_unused", Digits, must=(*BEFORE, "pattern.dict.0", "pattern.list.1")),
    framed("identity_module", fn(lambda x: x), must=BEFORE),
    framed("stochastic_depth", StochasticDepth, must=BEFORE),
    framed("detour_numpy", lambda: Detour("numpy")),
    framed("detour_list", lambda: Detour("list")),
    framed("detour_data", lambda: Detour("data")),
    framed("detour_item", lambda: Detour("item")),
    framed("detour_detach", lambda: Detour("detach"), must=BEFORE),
    framed("out_argument", lambda: Detour("out")),
    framed("fill_new_tensor", lambda: Detour("fill"), any_batch=True),
    framed("as_strided", lambda: Detour("strided")),
    framed("autograd_function", fn(Doubled.apply), must=BEFORE),
    whole("caches_features", ran_before, must=AROUND),
    whole("hook_of_fixed_width", lambda: with_hook("fixed"), must=AROUND),
    whole("hook_before", lambda: with_hook("free"), must=BEFORE),
    framed("fixed_width_added", fn(fixed_width_added)),
    framed("zeros_of_fixed_width", fn(zeros_of_fixed_width)),
    framed("size_arithmetic", fn(size_arithmetic), must=BEFORE),
    framed("divided_by_width", fn(divided_by_width)),
    framed("where_mask", fn(checkerboard)),
    framed("where_zero", fn(lambda x: torch.where(x > 0.5, x, torch.zeros_like(x))), must=BEFORE),
    framed("masked_fill", fn(lambda x: x.masked_fill(x < 0.2, 0.1)), must=BEFORE),
    framed("global_threshold", fn(lambda x: x * (x > x.mean()).float())),
    framed("global_norm", fn(lambda x: x / (1 + x.norm()))),
    framed("clamp_and_power", fn(lambda x: x.clamp(-1, 1).abs().pow(1.5) + 0.1), must=BEFORE),
    framed("in_place_chain", fn(lambda x: x.mul_(2).add_(1).sub_(x.mean((2, 3), keepdim=True))), must=BEFORE),
    framed("one_channel_broadcast", Gate, must=BEFORE),
    framed(
        "lambda_module_in_sequence", lambda: nn.Sequential(conv(), Lambda(torch.tanh), conv()), must=BEFORE
    ),
)
