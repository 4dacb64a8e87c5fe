"""One layer of every kind: what it lost, how it is changed, and by how much its output changes then."""

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.least_squares import Correction
from causal_prune.network.layer_matrices import matrix_of, rows, weight_of
from causal_prune.surgery.cuts import LayerCut
from tests.unit.compensation.cut_nets import images
from tests.unit.drawn_weights import drawn

pytestmark = pytest.mark.usefixtures("no_gradients")

KINDS: dict[str, tuple[nn.Module, nn.Module | None, tuple[int, ...]]] = {
    "bias": (nn.Conv2d(4, 6, 3, padding=1), None, (5, 4, 4, 4)),
    "norm": (nn.Conv2d(4, 6, 2, bias=False), nn.BatchNorm2d(6), (5, 4, 4, 4)),
    "both": (nn.Conv2d(4, 6, 2), nn.BatchNorm2d(6, affine=False), (5, 4, 4, 4)),
    "neither": (nn.Conv2d(4, 6, 3, stride=2, bias=False), None, (5, 4, 5, 5)),
    "grouped": (nn.Conv2d(4, 6, 2, groups=2, bias=False), nn.BatchNorm2d(6), (5, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), None, (5, 4, 3, 3)),
    "one dimension": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (5, 4, 7)),
    "linear": (nn.Linear(4, 6), None, (5, 4)),
    "tokens": (nn.Linear(4, 6), None, (5, 3, 4)),
    "no batch": (nn.Conv2d(4, 6, 3), None, (4, 5, 5)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, cut: LayerCut | None = None) -> tuple[CutLayer, Tensor]:
    """A layer with weights of its own, and what it reads."""
    module, norm, shape = copy.deepcopy(KINDS[kind])
    return CutLayer(drawn(module, seed=3), None if norm is None else drawn(norm, seed=4), cut), images(*shape)


def output(layer: CutLayer, source: Tensor) -> Tensor:
    return cast(Tensor, layer.module.forward(source))


def change(layer: CutLayer) -> Correction:
    """A change of all weights and constants."""
    matrix = matrix_of(layer.module, layer.weight)
    groups, filters, _ = matrix.shape
    return Correction(images(*matrix.shape, seed=5).double(), images(groups, filters, seed=6).double(), 0.25)


def literal(layer: CutLayer, source: Tensor, by: Correction) -> Tensor:
    """What a change adds to the output: that of a layer with these weights, and the constants."""
    other = copy.deepcopy(layer.module)
    other.get_parameter("weight").copy_(weight_of(other, by.weight))
    if other.bias is not None:
        other.get_parameter("bias").zero_()
    constants = by.bias.flatten().float()
    if not isinstance(other, nn.Linear):
        spatial = len(cast(tuple[int, ...], other.kernel_size))
        constants = constants.reshape(-1, *[1] * spatial)
    return cast(Tensor, other.forward(source)) + (constants if layer.free else 0)


def saved(layer: CutLayer) -> list[Tensor]:
    return [value for _, value in layer.state()]


def of_filter(layer: CutLayer, state: list[Tensor], filter_: int) -> list[Tensor]:
    weight, *others = state
    return [matrix_of(layer.module, weight).flatten(0, 1)[filter_], *(other[filter_] for other in others)]


@pytest.mark.parametrize(
    ("kind", "unknowns", "depthwise", "free"),
    [
        ("bias", 36, False, True),
        ("norm", 16, False, True),
        ("neither", 36, False, False),
        ("grouped", 8, False, True),
        ("transposed", 8, False, True),
        ("linear", 4, False, True),
    ],
)
def test_what_kind_of_layer_it_is(kind: str, unknowns: int, depthwise: bool, free: bool) -> None:
    layer, _ = made(kind)
    assert (layer.filters, layer.inputs) == (6, 4)
    assert (layer.unknowns, layer.depthwise, layer.free) == (unknowns, depthwise, free)


def test_a_depthwise_layer_mixes_no_channels() -> None:
    assert CutLayer(nn.Conv2d(4, 8, 3, groups=4), None, None).depthwise
    assert not CutLayer(nn.Conv2d(1, 8, 3), None, None).depthwise


@pytest.mark.parametrize(
    ("cut", "filters", "inputs"),
    [
        (None, False, False),
        (LayerCut((0, 1, 2, 3, 4, 5), (0, 1, 2, 3), 6, 4), False, False),
        (LayerCut((0, 1, 2, 3, 4, 5), None, 9, 4), True, False),
        (LayerCut(None, (0, 1, 2, 3), 6, 5), False, True),
        (LayerCut((0, 1, 2, 3, 4, 5), (0, 1, 2, 3), 9, 5), True, True),
        (LayerCut((0, 2), (1,), 6, 4), True, True),  # silenced
        (LayerCut(None, (0, 1, 2, 3), 6, 8, "blocks"), False, False),  # a filter reads what it did
        (LayerCut(None, (0, 1, 2, 3), 6, 8, "positions"), False, False),
    ],
)
def test_what_it_lost(cut: LayerCut | None, filters: bool, inputs: bool) -> None:
    layer, _ = made("bias", cut)
    assert (layer.lost_filters, layer.lost_inputs) == (filters, inputs)


@every_kind
def test_the_slope_is_what_the_batch_norm_makes_of_one_more(kind: str) -> None:
    layer, source = made(kind)
    out = output(layer, source)
    steeper = layer.behind_norm(out + 1) - layer.behind_norm(out)
    torch.testing.assert_close(layer.along(layer.slope(), out).expand_as(out), steeper, rtol=1e-4, atol=1e-5)
    assert layer.slope().shape == (6,)
    if layer.norm is None:
        assert layer.behind_norm(out) is out


@every_kind
def test_an_output_as_rows_of_filters(kind: str) -> None:
    layer, source = made(kind)
    out = output(layer, source)
    per_filter = layer.flat(out * layer.along(torch.arange(6.0), out))
    assert per_filter.shape == (out.numel() // 6, 6)
    for filter_ in range(6):
        assert torch.equal(per_filter[:, filter_], layer.flat(out)[:, filter_] * filter_)


@every_kind
def test_a_change_adds_to_the_output_what_it_says(kind: str) -> None:
    layer, source = made(kind)
    before, state, by = output(layer, source), layer.state(), change(layer)
    behind = layer.behind_norm(before)
    layer.write(by)
    expected = literal(layer, source, by)
    torch.testing.assert_close(layer.change_since(state, source, before), expected, rtol=1e-4, atol=1e-5)
    moved = layer.behind_norm(output(layer, source)) - behind
    torch.testing.assert_close(moved, expected * layer.along(layer.slope(), expected), rtol=1e-4, atol=1e-5)
    found = layer.since(state, 0.5)
    torch.testing.assert_close(found.weight.double(), by.weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.bias.double(), by.bias * layer.free, rtol=1e-4, atol=1e-6)
    assert found.ridge == 0.5
    layer.restore(state)
    assert all(torch.equal(tensor, value) for tensor, value in state)
    assert torch.equal(output(layer, source), before)


@every_kind
def test_filters_that_are_no_better_get_their_weights_back(kind: str) -> None:
    layer, _ = made(kind)
    state, old = layer.state(), saved(layer)
    layer.write(change(layer))
    new, better = saved(layer), torch.tensor([True, False, False, True, True, False])
    layer.choose(better, state)
    for filter_, chosen in enumerate(better.tolist()):
        expected = of_filter(layer, new if chosen else old, filter_)
        found = of_filter(layer, saved(layer), filter_)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("kind", "dim"), [("bias", 1), ("tokens", 2), ("no batch", 0)])
def test_of_a_dense_output_the_kept_filters_are_taken(kind: str, dim: int) -> None:
    layer, source = made(kind, LayerCut((0, 1, 3, 4, 6, 8), None, 9, 4))
    shape = list(output(layer, source).shape)
    shape[dim] = 9
    dense = images(*shape)
    assert torch.equal(layer.kept(dense), dense.index_select(dim, torch.tensor([0, 1, 3, 4, 6, 8])))
    matrix = images(9, 5)
    assert torch.equal(layer.kept_rows(matrix), matrix[[0, 1, 3, 4, 6, 8]])
    whole, _ = made(kind)
    assert whole.kept(dense) is dense and whole.kept_rows(matrix) is matrix


@pytest.mark.parametrize(("kind", "dim"), [("bias", 1), ("tokens", 2), ("no batch", 0)])
def test_of_silenced_filters_nothing_is_asked(kind: str, dim: int) -> None:
    layer, source = made(kind, LayerCut((1, 4), None, 6, 4))
    residual = output(layer, source) + 10
    given, gone = residual.clone(), [0, 2, 3, 5]
    masked = layer.masked(residual)
    assert not masked.index_select(dim, torch.tensor(gone)).any()
    kept = torch.tensor([1, 4])
    assert torch.equal(masked.index_select(dim, kept), residual.index_select(dim, kept))
    assert torch.equal(residual, given)
    assert layer.kept(residual) is residual, "they are there still"
    assert layer.spoken().tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("cut", [None, LayerCut(None, (0, 2), 6, 4), LayerCut(tuple(range(6)), None, 9, 4)])
def test_of_filters_that_are_there_everything_is_asked(cut: LayerCut | None) -> None:
    layer, source = made("bias", cut)
    residual = output(layer, source)
    assert layer.masked(residual) is residual and bool(layer.spoken().all())


@pytest.mark.parametrize("kind", ["bias", "neither", "linear", "tokens"])
def test_silenced_inputs_are_not_heard(kind: str) -> None:
    layer, source = made(kind, LayerCut(None, (0, 3), 6, 4))
    dim = -1 if isinstance(layer.module, nn.Linear) else 1
    silent = source.index_fill(dim, torch.tensor([1, 2]), 0.0)
    ((patches, _),) = rows(layer.module, source, [output(layer, source)], None)
    ((expected, _),) = rows(layer.module, silent, [output(layer, source)], None)
    assert torch.equal(layer.audible(patches), expected)


@pytest.mark.parametrize(
    "cut",
    [
        None,
        LayerCut((0, 1), None, 6, 4),
        LayerCut(None, (0, 1, 2, 3), 6, 7),  # removed: the layer has them no more
        LayerCut((0, 1, 2), (0, 1), 6, 4, "blocks"),
    ],
)
def test_inputs_that_are_there_are_heard(cut: LayerCut | None) -> None:
    layer, source = made("grouped" if cut is not None and cut.grouping == "blocks" else "bias", cut)
    ((patches, _),) = rows(layer.module, source, [output(layer, source)], None)
    assert layer.audible(patches) is patches
