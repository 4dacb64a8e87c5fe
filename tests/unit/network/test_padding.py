"""Margins of convolutions: a kernel that slides over the padded input gives what the layer gives."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.network.padding import margins, padded, padded_shape, spread_shape, stride_of
from tests.unit.drawn_weights import drawn
from tests.unit.own_padding import SameConv2d

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "none": (nn.Conv2d(2, 3, (3, 2), stride=(2, 1)), (8, 7)),
    "zeros": (nn.Conv2d(2, 3, 3, padding=(2, 1), dilation=(1, 2)), (6, 7)),
    "same": (nn.Conv1d(2, 3, 3, padding="same", dilation=2), (9,)),
    "reflect": (nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="reflect", stride=2), (6, 7)),
    "circular": (nn.Conv1d(2, 3, 4, padding=2, padding_mode="circular"), (7,)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=(0, 1, 2)), (3, 4, 5)),
    "by itself": (SameConv2d(2, 3, (3, 2), stride=2), (8, 7)),
    "a point": (nn.Conv2d(2, 3, 1, stride=3), (8, 7)),
    "transposed": (nn.ConvTranspose2d(2, 3, (3, 4)), (4, 5)),
    "transposed, spread": (nn.ConvTranspose2d(2, 3, 3, stride=(2, 3), padding=(1, 0), dilation=(2, 1)), (4, 5)),
    "transposed, more behind": (nn.ConvTranspose1d(2, 3, 3, stride=3, padding=1, output_padding=2), (5,)),
    "transposed, cut off": (nn.ConvTranspose1d(2, 3, 2, padding=2), (6,)),
}  # fmt: skip


def slid(module: Any, over: Tensor) -> Tensor:
    """The layer's kernel over an input that has its margins already: a convolution without padding, tap by tap."""
    weight = (
        module.weight.flip(*range(2, module.weight.dim())).transpose(0, 1)
        if module.transposed
        else module.weight
    )
    result: Tensor = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[weight.dim() - 2](
        over, weight, module.bias, stride=stride_of(module), dilation=module.dilation
    )
    return result


@pytest.mark.parametrize("name", LAYERS)
def test_the_kernel_over_the_padded_input_gives_the_output(name: str) -> None:
    layer, shape = LAYERS[name]
    images = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(1))
    before = images.clone()
    with torch.no_grad():
        expected = drawn(layer)(images)
        extent = expected.shape[2:]
        over = padded(layer, images, extent)
        assert list(over.shape[2:]) == padded_shape(layer, extent, shape)
        torch.testing.assert_close(slid(layer, over), expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("module", "extent", "shape", "expected"),
    [
        (nn.Conv2d(1, 1, 3, padding=(2, 1)), (8, 6), (6, 6), [1, 1, 2, 2]),
        (nn.Conv2d(1, 1, 3), (4, 4), (6, 6), [0, 0, 0, 0]),
        (nn.Conv2d(1, 1, 3), (6, 5), (6, 6), [0, 1, 1, 1]),
        (nn.Conv2d(1, 1, 3, stride=2), (3, 3), (6, 7), [0, 0, 0, 1]),
        (nn.Conv1d(1, 1, 3), (2,), (6,), [-1, -1]),
        (nn.ConvTranspose1d(1, 1, 3, stride=2, output_padding=1), (8,), (3,), [2, 3]),
        (nn.ConvTranspose1d(1, 1, 2, padding=2), (3,), (6,), [-1, -1]),
    ],
)
def test_margins_are_the_layers_own_or_what_leads_to_the_extent(
    module: nn.Module, extent: Sequence[int], shape: Sequence[int], expected: list[int]
) -> None:
    assert margins(module, extent, shape) == expected


def test_a_transposed_layer_spreads_its_input_and_moves_by_one() -> None:
    transposed, plain = nn.ConvTranspose2d(1, 1, 3, stride=(2, 3)), nn.Conv2d(1, 1, 3, stride=(2, 3))
    assert spread_shape(transposed, (4, 1)) == [7, 1] and spread_shape(plain, (4, 1)) == [4, 1]
    assert stride_of(transposed) == (1, 1) and stride_of(plain) == (2, 3)
    row = torch.tensor([[[1.0, 2.0, 3.0]]])
    found = padded(nn.ConvTranspose1d(1, 1, 2, stride=2), row, (6,))
    assert found.tolist() == [[[0, 1, 0, 2, 0, 3, 0]]]


def test_margins_of_a_layer_that_pads_by_itself_are_zeros_whatever_its_mode() -> None:
    layer = SameConv2d(1, 1, 3, padding_mode="reflect")
    found = padded(layer, torch.ones(1, 1, 2, 2), (2, 2))
    assert found[0, 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
