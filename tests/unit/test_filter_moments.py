import copy
from collections.abc import Callable, Iterator
from itertools import product
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from causal_prune import filter_moments
from causal_prune.errors import InputError
from causal_prune.filter_graph import FilterGraph, trace
from causal_prune.filter_moments import Moments, merge, moments_of, observe


def generator(seed: int = 4) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seeded(make: Callable[[], nn.Module], seed: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def exact(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scatter in float64, in two passes."""
    rows = rows.astype(np.float64)
    centred = rows - rows.mean(axis=0)
    return rows.mean(axis=0), centred.T @ centred


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, -3e5])
def test_moments_are_exact_where_the_mean_is_far_above_the_deviation(mean: float) -> None:
    spread = torch.tensor([0.5, 1.0, 3.0, 0.1])
    rows = torch.randn(4000, 4, generator=generator()) * spread + mean
    found, (expected_mean, expected) = moments_of(rows), exact(rows.numpy())
    scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    assert found.count == 4000 and found.scatter.dtype == found.mean.dtype == torch.float64
    assert np.abs(found.mean.numpy() - expected_mean).max() <= 1e-12 * max(abs(mean), 1)
    assert (np.abs(found.scatter.numpy() - expected) / scale).max() < 1e-6
    if abs(mean) >= 1e4:  # the case is hard: raw float32 sums lose everything
        raw = (rows.T @ rows - len(rows) * torch.outer(rows.mean(0), rows.mean(0))).numpy()
        assert (np.abs(raw - expected) / scale).max() > 0.1


@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.floats(-1e4, 1e4), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_moments_of_parts_merge_to_the_moments_of_the_whole(sizes: list[int], mean: float, seed: int) -> None:
    drift = torch.linspace(-5, 5, sum(sizes)).unsqueeze(1)  # parts with different means
    rows = torch.randn(sum(sizes), 3, generator=generator(seed), dtype=torch.float64) + drift + mean
    whole, merged = moments_of(rows), None
    for part in rows.split(sizes):
        merged = merge(merged, moments_of(part))
    assert merged is not None and merged.count == whole.count == sum(sizes)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-11)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(merged.covariance, torch.cov(rows.T, correction=0), rtol=1e-9, atol=1e-7)


def test_merging_is_commutative_and_keeps_batched_shapes() -> None:
    rows = torch.randn(5, 9, 2, generator=generator()) + 10
    a, b = moments_of(rows[:, :4]), moments_of(rows[:, 4:])
    one, other = merge(a, b), merge(b, a)
    assert one.mean.shape == (5, 2) and one.scatter.shape == (5, 2, 2)
    torch.testing.assert_close(one.scatter, other.scatter)
    torch.testing.assert_close(one.scatter, moments_of(rows).scatter)
    empty = Moments(0, torch.zeros(5, 2), torch.zeros(5, 2, 2))
    assert merge(None, a) is a and merge(empty, a) is a
    assert not empty.covariance.any()


class Head(nn.Module):
    """A producer of 4 channels, a layer that reads them, and an output."""

    def __init__(self, reader: nn.Module, width: int, rank: int = 2) -> None:
        super().__init__()
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.maker, self.reader, self.out = convolution(2, 4, 1), reader, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reader(F.relu(self.maker(x)))
        return self.out(x.flatten(2).mean(2) if x.dim() > 2 else x)


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
def test_patches_are_what_a_literal_loop_collects(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    factory, rank = READERS[name]
    net = seeded(lambda: Head(factory(), factory().out_channels, rank))
    x = torch.randn(5, 2, *(6, 7, 5)[:rank], generator=generator()) + 1
    monkeypatch.setattr(filter_moments, "PATCH_BYTES", 4 * 4 * 9 * 200)  # several chunks
    graph = trace(net, x[:1])
    moments = observe(net, graph, [x[:3], x[3:]])
    with torch.no_grad():
        read = F.relu(net.maker(x))
        written = net.reader(read)
    transposed = "Transpose" in type(net.reader).__name__
    patches = (literal_transposed if transposed else literal_patches)(
        net.reader, read.numpy(), written.shape[2:]
    )
    weight, groups = moments.weights["reader"].numpy(), net.reader.groups
    outputs = []  # the patches and the flat weights belong together: their product is the output
    for filter_ in range(weight.shape[0]):
        start = filter_ // (weight.shape[0] // groups) * weight.shape[1]
        outputs.append(np.tensordot(patches[:, start : start + weight.shape[1]], weight[filter_], axes=2))
    bias = net.reader.bias.detach().numpy()
    np.testing.assert_allclose(np.stack(outputs, 1) + bias, _rows(written), atol=1e-5)
    found = moments.patches["reader", "maker"]
    assert found.count == len(patches)
    units = _units(graph)
    for unit, positions in units.items():
        mean, scatter = exact(patches[:, positions].reshape(len(patches), -1))
        np.testing.assert_allclose(found.mean[unit], mean, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.covariance[unit], scatter / len(patches), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        moments.outputs["reader"], _rows(written).astype(np.float64).var(axis=0), rtol=1e-6
    )


def _rows(written: Tensor) -> np.ndarray:
    return written.movedim(1, -1).reshape(-1, written.shape[1]).numpy()


def _units(graph: FilterGraph) -> dict[int, list[int]]:
    (member,) = (m for g in graph.prunable for m in g.of_role("consumer") if m.layer == "reader")
    result: dict[int, list[int]] = {}
    for position, unit in zip(member.positions, member.units, strict=True):
        result.setdefault(unit, []).append(position)
    return result


def test_a_linear_layer_after_flatten_reads_whole_maps() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2))
    )
    x = torch.randn(7, 1, 3, 3, generator=generator())
    moments = observe(net, trace(net, x[:1]), [x])
    with torch.no_grad():
        maps = F.relu(net[0](x)).flatten(2).numpy()
    for unit in range(3):
        mean, scatter = exact(maps[:, unit])
        np.testing.assert_allclose(moments.patches["3", "0"].mean[unit], mean, rtol=1e-6)
        np.testing.assert_allclose(moments.patches["3", "0"].scatter[unit], scatter, rtol=1e-5, atol=1e-10)
    assert moments.images == 7 and moments.patches["3", "0"].count == 7


def test_features_are_frobenius_norms_of_the_raw_output_with_those_of_the_parents() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Flatten(),
                              nn.Linear(16, 2))
    )  # fmt: skip
    x = torch.randn(11, 2, 5, 5, generator=generator())
    moments = observe(net, trace(net, x[:1]), [x[:4], x[4:]])
    with torch.no_grad():
        first = net[0](x)
        second = net[3](net[2](net[1](first)))
        norms = [out.double().flatten(2).norm(dim=2).numpy() for out in (first, second)]
    assert moments.features["0"].layers == ("0",) and moments.features["3"].layers == ("0", "3")
    mean, scatter = exact(np.concatenate(norms, axis=1))
    np.testing.assert_allclose(moments.features["3"].moments.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(moments.features["3"].moments.scatter, scatter, rtol=1e-6)


def test_batches_may_hold_labels_mappings_or_tuples_of_inputs() -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 1)))
    x = torch.randn(6, 2, 4, 4, generator=generator())
    graph = trace(net, x[:1])
    plain, labelled = (
        observe(net, graph, [x]),
        observe(net, graph, [(x[:2], torch.zeros(2)), x[:0], [x[2:], None]]),
    )
    named = observe(net, graph, iter([{"input": x}]))
    assert plain.images == labelled.images == named.images == 6
    for other in (labelled, named):
        torch.testing.assert_close(other.patches["1", "0"].scatter, plain.patches["1", "0"].scatter)


def test_the_network_is_left_as_it_was() -> None:
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1))
    )
    x = torch.randn(6, 2, 4, 4, generator=generator())
    graph = trace(net, x[:1])
    net.train()
    net[1].eval()
    before, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    random_state = torch.get_rng_state()
    observe(net, graph, [x])
    net[0].weight.data[1, 1, 1, 1] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        observe(net, graph, [x])
    net[0].weight.data.copy_(before["0.weight"])
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("layer", "value"), [("0", torch.nan), ("1", torch.inf), ("3", torch.nan), ("4", torch.inf)]
)
def test_an_activation_that_is_not_finite_is_named_with_its_batch(layer: str, value: float) -> None:
    net = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 4), nn.Linear(4, 2)
        )
    )
    x = torch.rand(4, 1, 2, 2, generator=generator())
    graph = trace(net, x[:1])
    net.register_buffer("calls", torch.zeros(()))

    def poison(module: nn.Module, _: object, out: Tensor) -> Tensor:
        net.calls += 1
        return out + value if net.calls == 2 else out

    net.get_submodule(layer).register_forward_hook(poison)
    with pytest.raises(InputError, match=f"calibration: the output of {layer} is NaN or infinite in batch 2"):
        observe(net, graph, [x, x, x])


@pytest.mark.parametrize("calibration", [[], iter(()), [torch.zeros(0, 1, 2, 2)]])
def test_no_images_are_refused(calibration: list[Tensor] | Iterator[Tensor]) -> None:
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)))
    with pytest.raises(InputError, match="calibration: there are no images"):
        observe(net, trace(net, torch.zeros(1, 1, 2, 2)), calibration)
