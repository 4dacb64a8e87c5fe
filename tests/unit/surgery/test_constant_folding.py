"""A layer without its constant inputs computes what it computed with them."""

import copy

import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.surgery.constant_folding import fold_constants
from causal_prune.surgery.cuts import ConstantFold
from tests.unit.drawn_weights import drawn

INTO_BIAS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(6, 4, 3), (2, 6, 5, 7)),
    "without bias": (nn.Conv2d(6, 4, (1, 2), stride=2, bias=False), (2, 6, 5, 7)),
    "reflected borders": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 5, 7)),
    "groups": (nn.Conv2d(6, 4, 3, groups=2), (2, 6, 5, 7)),
    "linear": (nn.Linear(6, 4), (3, 6)),
    "tokens": (nn.Linear(6, 4, bias=False), (3, 5, 6)),
    "one dimension": (nn.Conv1d(6, 3, 3, dilation=2), (2, 6, 9)),
}
INTO_INPUT: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "padded": (nn.Conv2d(6, 4, 3, padding=1), (2, 6, 5, 7)),
    "same": (nn.Conv2d(6, 4, (1, 3), padding="same", bias=False), (2, 6, 5, 7)),
    "strided": (nn.Conv2d(6, 4, 3, padding=2, stride=2), (2, 6, 5, 7)),
    "padded groups": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (2, 6, 5, 7)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1), (2, 6, 5, 7)),
    "transposed groups": (nn.ConvTranspose2d(6, 4, 3, groups=2), (2, 6, 5, 7)),
}
CONSTANTS = {1: 0.7, 2: -1.3, 5: 2.0}


def constant(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """An input with three constant channels."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    for channel, value in CONSTANTS.items():
        x.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)[channel] = value
    return x


def without(module: nn.Module, x: Tensor, *gone: int) -> Tensor:
    x = x.clone()
    for channel in gone:
        x.movedim(-1 if isinstance(module, nn.Linear) else 1, 0)[channel] = 99.0
    return x


@pytest.mark.parametrize("name", INTO_BIAS)
def test_the_bias_takes_what_is_the_same_everywhere(name: str) -> None:
    module, shape = copy.deepcopy(INTO_BIAS[name])
    x = constant(drawn(module), shape)
    with torch.no_grad():
        expected = module(x)
        fold_constants(module, ConstantFold((1, 2, 5), (0.7, -1.3, 2.0), (-1, -1, -1), (1.0, 1.0, 1.0)))
        torch.testing.assert_close(module(without(module, x, 1, 2, 5)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", INTO_INPUT)
def test_another_constant_takes_it_where_borders_differ(name: str) -> None:
    module, shape = copy.deepcopy(INTO_INPUT[name])
    x = constant(drawn(module), shape)
    with torch.no_grad():
        expected, bias = module(x), module.bias is not None
        # inputs 0 to 2 belong to the first of two groups
        fold_constants(module, ConstantFold((1,), (0.7,), (2,), (-1.3,)))
        torch.testing.assert_close(module(without(module, x, 1)), expected, rtol=1e-5, atol=1e-5)
    assert (module.bias is not None) == bias


def test_a_layer_with_fewer_inputs_is_refused() -> None:
    with pytest.raises(InputError, match="the plan was made for another network: a layer has 6 inputs only"):
        fold_constants(nn.Conv2d(6, 4, 3), ConstantFold((6,), (1.0,), (-1,), (1.0,)))
