"""What layers read, against loops over every image, position, channel and tap."""

from collections.abc import Callable
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from causal_prune.network import patches
from causal_prune.network.layer_matrices import flat_weight
from causal_prune.network.patches import POSITIONS, positions_read, rows_read
from tests.unit.own_padding import SameConv2d


def generator(seed: int = 4) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def literal_patches(reader: nn.Module, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """im2col by loops: what output position (image, place) multiplies with weight element (channel, tap)."""
    kernel, stride, dilation = reader.kernel_size, reader.stride, reader.dilation
    if reader.padding == "same":
        before = [(k - 1) * d // 2 for k, d in zip(kernel, dilation, strict=True)]
    else:
        before = list(reader.padding)
    after = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]  # more than enough
    mode = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[
        reader.padding_mode
    ]
    if reader.padding_mode != "zeros":
        after = before
    padded = np.pad(x, [(0, 0), (0, 0), *zip(before, after, strict=True)], mode=mode)
    rows = []
    for image in range(len(x)):
        for place in product(*map(range, shape)):
            row = []
            for channel in range(x.shape[1]):
                for tap in product(*map(range, kernel)):
                    at = tuple(p * s + t * d for p, s, t, d in zip(place, stride, tap, dilation, strict=True))
                    row.append(padded[(image, channel, *at)])
            rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(len(rows), x.shape[1], -1)


def literal_transposed(reader: nn.Module, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """By loops: every input pixel meets every tap and lands on one output position."""
    result = np.zeros((len(x), *shape, x.shape[1], prod(reader.kernel_size)))
    for image, channel in product(range(len(x)), range(x.shape[1])):
        for place in product(*map(range, x.shape[2:])):
            for number, tap in enumerate(product(*map(range, reader.kernel_size))):
                at = tuple(
                    i * s - p + t * d
                    for i, s, p, t, d in zip(
                        place, reader.stride, reader.padding, tap, reader.dilation, strict=True
                    )
                )
                if all(0 <= a < size for a, size in zip(at, shape, strict=True)):
                    result[(image, *at, channel, number)] += x[(image, channel, *place)]
    return result.reshape(-1, x.shape[1], prod(reader.kernel_size))


READERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain": (lambda: nn.Conv2d(4, 6, 3), 2),
    "stride": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 3)), 2),
    "dilation": (lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), stride=2), 2),
    "zeros": (lambda: nn.Conv2d(4, 6, 3, padding=(2, 1)), 2),
    "same, even kernel": (lambda: nn.Conv2d(4, 6, (4, 2), padding="same"), 2),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"), 2),
    "replicate": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="replicate", stride=2), 2),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), 2),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2), 2),
    "conv1d": (lambda: nn.Conv1d(4, 5, 3, stride=2, padding=1), 1),
    "conv3d": (lambda: nn.Conv3d(4, 5, 2, padding=1, stride=2), 3),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), 2),
    "transposed, stride": (lambda: nn.ConvTranspose2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 0)), 2),
    "transposed, output padding": (
        lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=2, output_padding=1, dilation=(2, 1)), 2
    ),
    "transposed, grouped": (lambda: nn.ConvTranspose1d(4, 6, 4, stride=2, groups=2), 1),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", READERS)
def test_rows_are_what_a_literal_loop_collects(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factory, rank = READERS[name]
    with torch.random.fork_rng():
        torch.manual_seed(4)
        reader = factory()
    read = torch.randn(5, 4, *(6, 7, 5)[:rank], generator=generator()) + 1
    monkeypatch.setattr(patches, "LARGEST_CHUNK_BYTES", 1)  # a chunk for every image
    with torch.no_grad():
        written = reader(read)
    extent, groups = written.shape[2:], reader.groups
    literal = literal_transposed if "Transpose" in type(reader).__name__ else literal_patches
    expected = literal(reader, read.numpy(), extent).reshape(5, prod(extent), 4, -1)
    chosen = positions_read(extent, 4 // groups * expected.shape[3]).numpy()
    expected = expected[:, chosen].reshape(5 * len(chosen), groups, 4 // groups, -1)
    chunks = list(rows_read(reader, read, extent, expected.shape[3]))
    assert len(chunks) == 5 and all(chunk.dtype == torch.float64 for chunk in chunks)
    found = torch.cat(chunks, dim=1).numpy()
    np.testing.assert_allclose(found, expected.transpose(1, 0, 3, 2), atol=1e-6)
    # the rows and the flat weight belong together: their product is the output
    weight = flat_weight(reader).numpy().reshape(groups, -1, 4 // groups, found.shape[2])
    outputs = np.einsum("gntc,goct->ngo", found, weight).reshape(found.shape[1], -1)
    outputs += reader.bias.detach().numpy()
    places = written.flatten(2).movedim(1, -1)[:, chosen].reshape(len(outputs), -1).numpy()
    np.testing.assert_allclose(outputs, places, atol=1e-5)


@pytest.mark.parametrize(("size", "stride"), [((8, 9), 2), ((7, 7), 1), ((10, 8), 3)])
def test_what_a_layer_pads_itself_is_read_as_well(size: tuple[int, int], stride: int) -> None:
    layer, source = SameConv2d(4, 6, (3, 2), stride=stride), torch.randn(5, 4, *size, generator=generator())
    bare = nn.Conv2d(4, 6, (3, 2), stride=stride)
    explicit = functional.pad(source, layer.missing(source))
    extent = layer(source).shape[2:]
    assert extent == bare(explicit).shape[2:] != bare(source).shape[2:]
    (found,), (expected,) = (rows_read(m, x, extent, 6) for m, x in ((layer, source), (bare, explicit)))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("taps", [1, 4])
def test_a_linear_layer_reads_its_features_as_channels_of_taps(taps: int) -> None:
    source = torch.randn(3, 5, 12, generator=generator())
    (found,) = rows_read(nn.Linear(12, 2), source, (5,), taps)
    expected = source.reshape(15, 12 // taps, taps).transpose(1, 2)[None]
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=0)
    found.zero_()
    assert bool(source.any()), "the rows are a copy"


@pytest.mark.parametrize("extent", [(5,), (8, 8), (40, 30), (1000,), (9, 11, 13), ()])
def test_positions_are_all_of_a_few_and_a_fair_sample_of_many(extent: tuple[int, ...]) -> None:
    found = positions_read(extent)
    total = prod(extent)
    assert len(found) == min(total, POSITIONS) == len(found.unique())
    assert bool((found.sort().values == found).all()) and 0 <= int(found.min()) <= int(found.max()) < total
    assert torch.equal(found, positions_read(extent))
    if total > POSITIONS:
        places = torch.stack(torch.unravel_index(found, extent), dim=1).double()
        middle = (places.mean(dim=0) + 0.5) / torch.tensor(extent)
        assert bool(((middle - 0.5).abs() < 0.06).all()), "no side is preferred"
        spread = places.std(dim=0) / torch.tensor(extent)
        assert bool(((spread - 12**-0.5).abs() < 0.05).all()), "borders and middle alike"


def test_longer_patches_are_read_at_fewer_positions() -> None:
    found = [len(positions_read((40, 40), patch)) for patch in (9, 72, 144, 288, 10_000)]
    assert found == [64, 64, 32, 16, 16]
