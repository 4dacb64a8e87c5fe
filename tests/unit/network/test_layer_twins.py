"""What a subclass computes decides whether it is a layer of its kind, and with which weight."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from causal_prune.network.layer_twins import bake, linear_in_its_weight, makes_its_weight, weight_in_use
from tests.unit.own_padding import SameConv2d
from tests.zoo.others import ByBatchNorm, GainedLinear, InProduct, OwnLinear, Standardised


class Centred(nn.Conv2d):
    """Filters depend on each other."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(0), self.bias, padding=1)


class SamePadding(nn.Conv2d):
    """Pads as the size asks for."""

    def forward(self, x: Tensor) -> Tensor:
        low = [(-(-size // 2) - 1) * 2 + 3 - size for size in x.shape[2:]]
        return F.conv2d(F.pad(x, (low[1] // 2, low[1] - low[1] // 2, low[0] // 2, low[0] - low[0] // 2)),
                        self.weight, self.bias, stride=2)  # fmt: skip


class Active(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Failing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("not like this")


class Transposed(nn.ConvTranspose2d):
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        return F.conv_transpose2d(x, self.weight * 2, self.bias, self.stride, self.padding)


CONV = (4, 6, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(*CONV), lambda: nn.Linear(4, 6), lambda: nn.ConvTranspose2d(*CONV), lambda: OwnLinear(4, 6),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(*CONV)),
    ],
)  # fmt: skip
def test_plain_layers_use_their_own_weight(make: Callable[[], nn.Module]) -> None:
    layer = make()
    used = weight_in_use(layer)
    assert used is not None and torch.equal(used, layer.weight) and not makes_its_weight(layer)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Standardised(*CONV, padding=1, stride=2), (2, 4, 9, 8)),
        (lambda: Standardised(4, 6, 3, groups=2), (2, 4, 9, 8)),
        (lambda: ByBatchNorm(*CONV), (2, 4, 9, 8)),
        (lambda: InProduct(*CONV), (2, 4, 9, 8)),
        (lambda: GainedLinear(4, 6), (5, 4)),
        (lambda: Transposed(*CONV, stride=2), (2, 4, 5, 6)),
    ],
)
def test_a_weight_that_is_made_filter_by_filter_is_found_and_baked(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    layer, x = make(), torch.randn(shape)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    expected = layer(x)
    used = weight_in_use(layer)
    assert used is not None and makes_its_weight(layer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    bake(layer, used)
    assert type(layer).__module__.startswith("torch.nn") and {*layer.state_dict()} == {"weight", "bias"}
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Centred(*CONV),
        lambda: SamePadding(*CONV),
        lambda: Active(4, 6),
        lambda: Failing(4, 6),
        nn.ReLU,
    ],
)
def test_what_computes_something_else_is_no_twin(make: Callable[[], nn.Module]) -> None:
    assert weight_in_use(make()) is None and not makes_its_weight(make())


def with_a_gain() -> nn.Module:
    layer = nn.Linear(2, 3)
    layer.register_parameter("gain", nn.Parameter(torch.ones(1)))
    return layer


def with_another_forward() -> nn.Module:
    layer = nn.Conv2d(2, 3, 1)
    vars(layer)["forward"] = lambda x: x
    return layer


@pytest.mark.parametrize(
    ("layer", "linear"),
    [
        (nn.Conv2d(2, 3, 1), True),
        (nn.Conv1d(2, 3, 1, bias=False), True),
        (nn.ConvTranspose3d(2, 3, 1), True),
        (nn.Linear(2, 3), True),
        (SameConv2d(2, 3, 3, stride=2), True),
        (SameConv2d(4, 6, 3, groups=2, bias=False), True),
        (SamePadding(2, 3, 3, stride=2), True),
        (SamePadding(2, 3, 3), False),
        (Centred(2, 3, 3), False),
        (Active(2, 3), False),
        (Failing(2, 3), False),
        (Standardised(2, 3, 3), False),
        (with_a_gain(), False),
        (with_another_forward(), False),
        (weight_norm(nn.Linear(2, 3)), False),
    ],
)
def test_which_layers_are_linear_in_their_weight(layer: nn.Module, linear: bool) -> None:
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert linear_in_its_weight(layer) is linear
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
