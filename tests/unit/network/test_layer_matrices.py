import pytest
import torch
from torch import Tensor, nn

from causal_prune.network.layer_matrices import channel_dim, groups_of, matrix_of, places_of, rows, weight_of
from tests.unit.own_padding import SameConv2d

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv2d": (nn.Conv2d(6, 8, (3, 2), stride=2, padding=1, dilation=(2, 1)), (5, 6, 11, 9)),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2), (5, 6, 7, 7)),
    "depthwise_multiplier": (nn.Conv2d(4, 8, 3, padding=1, groups=4), (3, 4, 5, 6)),
    "same_reflected": (nn.Conv1d(4, 4, 3, padding="same", padding_mode="reflect"), (3, 4, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), (3, 2, 4, 5, 6)),
    "transposed": (
        nn.ConvTranspose2d(6, 8, 3, stride=2, padding=1, output_padding=1, groups=2),
        (5, 6, 5, 6),
    ),
    "transposed_dilated": (nn.ConvTranspose1d(3, 5, 4, stride=3, dilation=2), (2, 3, 7)),
    "no_batch": (nn.Conv2d(6, 8, 3, padding=1), (6, 7, 9)),
    "pads_itself": (SameConv2d(6, 8, (3, 2), stride=2, dilation=(1, 2)), (5, 6, 8, 9)),
    "linear": (nn.Linear(5, 3), (4, 5)),
    "tokens": (nn.Linear(5, 3), (2, 7, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("sampled", [False, True])
def test_rows_times_the_weight_are_the_outputs(name: str, sampled: bool) -> None:
    layer, shape = LAYERS[name]
    source = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        out: Tensor = layer(source)
        places = torch.tensor([0, 2, places_of(layer, out) - 1]) if sampled else None
        found = list(rows(layer, source, [out, 2 * out], places))
        x = torch.cat([patches for patches, _ in found], dim=1)
        y, twice = (torch.cat([outs[k] for _, outs in found], dim=1) for k in (0, 1))
        assert torch.equal(twice, 2 * y)
        matrix = matrix_of(layer, layer.weight)
        bias = layer.bias.reshape(groups_of(layer), 1, -1)
        torch.testing.assert_close(x @ matrix.mT + bias, y, rtol=1e-4, atol=1e-5)
        assert torch.equal(weight_of(layer, matrix), layer.weight)
    filters = out.shape[channel_dim(layer, out)]
    whole = out.numel() // filters
    per_image = places_of(layer, out)
    assert x.shape[1] == (whole // per_image * 3 if sampled and per_image > 1 else whole)
    assert y.shape[0] * y.shape[2] == filters


def test_long_inputs_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causal_prune.network.layer_matrices.PATCH_BYTES", 10_000)
    layer, source = nn.Conv2d(3, 4, 3), torch.randn(9, 3, 8, 8)
    with torch.no_grad():
        chunks = list(rows(layer, source, [layer(source)], None))
    assert len(chunks) > 3
    assert sum(x.shape[1] for x, _ in chunks) == 9 * 36
