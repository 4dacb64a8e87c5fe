"""One layer refitted, against ridge regression by numpy over patch matrices written out."""

import copy
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from causal_prune.compensation import layer_refit
from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.layer_refit import Circumstances, Memory, Refit, refit
from causal_prune.compensation.layer_targets import Judge, Wanted
from causal_prune.compensation.least_squares import RIDGES
from causal_prune.compensation.output_paths import Bounds
from causal_prune.network.layer_matrices import groups_of, matrix_of, weight_of
from causal_prune.surgery.cuts import LayerCut
from tests.unit.compensation.cut_nets import INFINITE, images, wanted
from tests.unit.drawn_weights import drawn

pytestmark = pytest.mark.usefixtures("no_gradients")

Numbers = npt.NDArray[np.float64]

KINDS: dict[str, tuple[nn.Module, nn.Module | None, tuple[int, ...]]] = {
    "bias": (nn.Conv2d(2, 3, 3, padding=1), None, (2, 4, 4)),
    "norm": (nn.Conv2d(2, 3, 2, stride=2, bias=False), nn.BatchNorm2d(3), (2, 6, 6)),
    "neither": (nn.Conv2d(2, 3, 2, bias=False), None, (2, 4, 4)),
    "grouped": (nn.Conv2d(4, 4, 2, groups=2), None, (4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(2, 3, 2, stride=2), None, (2, 3, 3)),
    "tokens": (nn.Linear(4, 3), None, (5, 4)),
}


def layer_of(kind: str, cut: LayerCut | None = None) -> CutLayer:
    module, norm, _ = copy.deepcopy(KINDS[kind])
    return CutLayer(drawn(module, seed=3), None if norm is None else drawn(norm, seed=4), cut)


def sources(kind: str, seed: int = 0) -> list[Tensor]:
    """Three batches; the last is held out."""
    return [images(count, *KINDS[kind][2], seed=seed + k) + 1 for k, count in enumerate((9, 6, 7))]


def asked(
    layer: CutLayer, given: Sequence[Tensor], seed: int = 50, noise: float = 0.3, shift: float = 0.5
) -> list[Wanted]:
    """What another layer of this kind returns, with noise; of the last batch it judges."""
    other = drawn(copy.deepcopy(layer.module), seed=seed)
    items = []
    for k, x in enumerate(given):
        out = cast(Tensor, other.forward(x)) + shift
        target = out + noise * images(*out.shape, seed=seed + k)
        items.append(wanted(layer, x, target, held_out=k == len(given) - 1, index=k))
    return items


def given_for(layer: CutLayer, **changes: object) -> Circumstances:
    standard: dict[str, object] = {
        "original": layer.module, "bounds": None, "again": False, "moves": False, "seed": 0, "max_memory": 10**9,
    }  # fmt: skip
    return Circumstances(**(standard | changes))  # type: ignore[arg-type]


def done(layer: CutLayer, items: list[Wanted], **changes: object) -> Refit:
    return refit(layer, items, Judge(layer, items), Memory(), given_for(layer, **changes))


def patch_matrices(module: nn.Module, x: Tensor) -> list[Numbers]:
    """By group the matrix that a filter's weights are multiplied with: one column per weight, by running it alone."""
    other = copy.deepcopy(module).double()
    if other.bias is not None:
        other.get_parameter("bias").zero_()
    matrix = torch.zeros_like(matrix_of(other, other.get_parameter("weight")))
    columns: list[list[Tensor]] = [[] for _ in matrix]
    for k in range(matrix.shape[2]):
        matrix.zero_()[:, :, k] = 1
        other.get_parameter("weight").copy_(weight_of(other, matrix))
        out = CutLayer(other, None, None).flat(cast(Tensor, other.forward(x.double())))
        for group, found in enumerate(columns):
            found.append(out[:, group * matrix.shape[1]])
    return [torch.stack(found, dim=1).numpy() for found in columns]


def ridge_regression(x: Numbers, r: Numbers, share: float, *, intercept: bool) -> tuple[Numbers, Numbers]:
    mean_x, mean_r = (x.mean(0), r.mean(0)) if intercept else (0 * x[0], 0 * r[0])
    penalty = share * ((x - mean_x) ** 2).sum(0).mean()
    stacked = np.concatenate((x - mean_x, np.sqrt(penalty) * np.eye(x.shape[1])))
    answers = np.concatenate((r - mean_r, np.zeros((x.shape[1], r.shape[1]))))
    change = np.linalg.lstsq(stacked, answers, rcond=None)[0]
    return change.T, mean_r - mean_x @ change


def best_ridge(
    fit: Sequence[tuple[Numbers, Numbers]], judge: Sequence[tuple[Numbers, Numbers]], *, intercept: bool
) -> tuple[list[Numbers], list[Numbers]]:
    """Changes of weights and constants by group, with the ridge that is best on the rows held out."""
    found = []
    for share in RIDGES:
        changes = [ridge_regression(x, r, share, intercept=intercept) for x, r in fit]
        left = sum(
            float(((r - x @ weight.T - bias) ** 2).sum())
            for (x, r), (weight, bias) in zip(judge, changes, strict=True)
        )
        found.append((left, changes))
    _, best = min(found, key=lambda each: each[0])
    return [weight for weight, _ in best], [bias for _, bias in best]


def literal(layer: CutLayer, items: Sequence[Wanted]) -> tuple[list[Numbers], list[Numbers]]:
    """What least squares say of a layer with the weights that the residuals are those of."""
    groups, parts = groups_of(layer.module), []
    for held_out in (False, True):
        some = [item for item in items if item.pair.held_out == held_out]
        xs = [patch_matrices(layer.module, item.source) for item in some]
        rs = [np.split(layer.flat(item.residual).double().numpy(), groups, axis=1) for item in some]
        parts.append(
            [
                (np.concatenate([x[group] for x in xs]), np.concatenate([r[group] for r in rs]))
                for group in range(groups)
            ]
        )
    return best_ridge(*parts, intercept=layer.free)


def changes_of(layer: CutLayer, state: Sequence[tuple[Tensor, Tensor]]) -> tuple[Numbers, Numbers]:
    change = layer.since(state, 0.0)
    return change.weight.double().numpy(), change.bias.double().numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_becomes_what_ridge_regression_makes_of_it(kind: str) -> None:
    layer = layer_of(kind)
    items = asked(layer, sources(kind))
    state, at_first = layer.state(), Judge(layer, items).at_first
    weights, biases = literal(layer, items)
    found = done(layer, items)
    assert (found.kept, found.remark) == ("", "")
    weight, bias = changes_of(layer, state)
    np.testing.assert_allclose(weight, weights, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(bias, biases, rtol=2e-3, atol=2e-4)
    judged = items[-1]
    left = judged.residual - layer.change_since(state, judged.source, judged.dense_reply - judged.residual)
    expected = layer.flat(left).double().square().sum(dim=0)
    torch.testing.assert_close(found.error, expected, rtol=1e-3, atol=0)
    assert bool((found.error < at_first).all())


def test_a_filter_that_no_refit_makes_better_keeps_its_weights() -> None:
    layer = layer_of("bias")
    items = asked(layer, sources("bias"))
    items[-1].residual[:, 1] = 0  # on the images held out this filter is right already
    state = layer.state()
    found = done(layer, items)
    weight, bias = changes_of(layer, state)
    assert found.kept == "" and found.error[1] == 0
    assert not weight[0, 1].any() and bias[0, 1] == 0
    assert weight[0, 0].any() and weight[0, 2].any()


def test_a_layer_that_no_refit_makes_better_is_left_as_it_was() -> None:
    layer = layer_of("norm")
    items = asked(layer, sources("norm"))
    items[-1].residual.zero_()
    state = layer.state()
    found = done(layer, items)
    assert found.kept == "no refit is better on held-out images" and not found.error.any()
    assert all(torch.equal(tensor, value) for tensor, value in state)


def test_equations_without_a_finite_solution_change_nothing() -> None:
    layer = layer_of("bias")
    items = asked(layer, sources("bias"))
    items[0].source[0, 0, 0, 0] = 3e38
    state, judge = layer.state(), Judge(layer, items)
    found = refit(layer, items, judge, Memory(), given_for(layer))
    assert found.kept == "its equations have no finite solution" and found.error is judge.at_first
    assert all(torch.equal(tensor, value) for tensor, value in state)


def test_fewer_rows_than_weights_are_remarked_upon() -> None:
    layer = CutLayer(drawn(nn.Linear(30, 2), seed=3), None, None)
    items = asked(layer, [images(12, 30) + 1, images(9, 30, seed=1) + 1])
    assert done(layer, items).remark == "12 rows of calibration data for 30 weights per filter"


def test_silenced_filters_and_inputs_stay_silent() -> None:
    layer = layer_of("bias", LayerCut((0, 2), (1,), 3, 2))
    layer.module.get_parameter("weight")[1] = 0
    layer.module.get_parameter("bias")[1] = 0
    layer.module.get_parameter("weight")[:, 0] = 0
    items = asked(layer, sources("bias"))
    state = layer.state()
    found = done(layer, items)
    weight, bias = changes_of(layer, state)
    by_input = weight.reshape(3, 2, 9)
    assert found.kept == "" and not by_input[1].any() and not by_input[:, 0].any() and bias[0, 1] == 0
    assert by_input[0, 1].any() and by_input[2, 1].any()


def test_a_layer_that_is_called_again_is_fitted_to_all_that_it_read() -> None:
    layer, memory = layer_of("bias"), Memory()
    first, origin = asked(layer, sources("bias")), layer.state()
    refit(layer, first, Judge(layer, first), memory, given_for(layer, again=True))
    once = layer.weight.clone()
    again = asked(layer, sources("bias", seed=20), seed=50)
    targets = [item.dense_reply for item in again]
    found = refit(layer, again, Judge(layer, again), memory, given_for(layer, again=True))
    assert found.kept == "" and not torch.equal(layer.weight, once)
    weight, bias = changes_of(layer, origin)
    layer.restore(origin)
    both = [
        *first,
        *(
            wanted(layer, item.source, target, held_out=item.pair.held_out)
            for item, target in zip(again, targets, strict=True)
        ),
    ]
    weights, biases = literal(layer, both)
    np.testing.assert_allclose(weight, weights, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(bias, biases, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("moves", "places"), [(False, 7), (True, 4)])
def test_of_many_places_some_are_drawn_and_fewer_where_the_layer_will_move(
    monkeypatch: pytest.MonkeyPatch, moves: bool, places: int
) -> None:
    """Of 17 images of 36 places 4 or 2 rows for each of 27 weights, rounded up to whole places of every image."""
    monkeypatch.setattr(layer_refit, "ROWS_PER_UNKNOWN", 4)
    monkeypatch.setattr(layer_refit, "FIRST_ROWS_PER_UNKNOWN", 2)
    given = [images(17, 3, 6, 6), images(8, 3, 6, 6, seed=1)]
    found = []
    for seed in (7, 7, 8):
        layer, memory = CutLayer(drawn(nn.Conv2d(3, 2, 3, padding=1), seed=3), None, None), Memory()
        items = asked(layer, given)
        refit(layer, items, Judge(layer, items), memory, given_for(layer, again=True, moves=moves, seed=seed))
        assert memory.regression is not None and memory.regression.rows == 17 * places
        found.append(layer.weight.clone())
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("bounds", [(0.0, INFINITE), (0.0, 1.0)])
def test_further_rounds_fit_what_a_rectifier_lets_through(
    monkeypatch: pytest.MonkeyPatch, bounds: Bounds
) -> None:
    def errors(rounds: int) -> tuple[Tensor, Tensor, Tensor]:
        monkeypatch.setattr(layer_refit, "ROUNDS", rounds)
        layer = layer_of("norm")
        given = sources("norm")
        items = []
        for k, item in enumerate(asked(layer, given, noise=0.5, shift=-0.5)):
            low, high = (torch.tensor(b).clamp(-9, 9) for b in bounds)
            beyond = (
                item.behind - item.behind.clamp(low, high)
            ) * 8  # what is stopped is far from what is read
            target = item.dense_reply + beyond / layer.along(layer.slope(), beyond)
            items.append(wanted(layer, given[k], target, held_out=k == 2, index=k))
        judge = Judge(layer, items)
        refit(layer, items, judge, Memory(), given_for(layer, bounds=bounds))
        plain, through = judge.errors(bounds)
        return judge.at_first, plain, through

    (_, _, before), (cut, plain, after) = errors(0), errors(3)
    assert float(after.sum()) < 0.95 * float(before.sum())
    assert bool((after <= before).all()) and bool((plain < cut).all())


def mixed(cut: LayerCut, *, narrow: bool) -> tuple[CutLayer, list[Wanted], nn.Module]:
    """A layer that lost two of six inputs, the others of which changed, and the dense one."""
    original, keep = drawn(nn.Conv2d(6, 3, 3), seed=3), list(cut.keep_inputs or range(6))
    module = nn.Conv2d(len(keep), 3, 3) if narrow else copy.deepcopy(original)
    module.get_parameter("bias").copy_(original.get_parameter("bias"))
    if narrow:
        module.get_parameter("weight").copy_(original.get_parameter("weight")[:, keep])
    else:
        gone = [k for k in range(6) if k not in keep]
        module.get_parameter("weight")[:, gone] = 0
    layer, items = CutLayer(module, None, cut), []
    mixing = images(6, 6, seed=9)
    for k, count in enumerate((9, 8)):
        dense = torch.einsum("nchw,cd->ndhw", images(count, 6, 5, 5, seed=k), mixing) + 1
        source = dense[:, keep] * 1.1 + 0.2 if narrow else dense * 1.1 + 0.2
        items.append(wanted(layer, source, original(dense), held_out=k == 1, index=k, dense_source=dense))
    return layer, items, original


SHORT = 6 * 8 * 6**2
"""Bytes for the Gram matrices of channels, and not for those of patches."""
MIXED = "channels were mixed alike at all kernel elements: 0 MiB needed, 0 MiB allowed"


def test_where_memory_is_short_channels_are_told_from_those_that_are_left() -> None:
    keep = (0, 2, 3, 5)
    layer, items, original = mixed(LayerCut(None, keep, 3, 6), narrow=True)
    state, at_first = layer.state(), Judge(layer, items).at_first
    parts = []
    for item in items:
        x = item.source.movedim(1, -1).reshape(-1, 4).double().numpy()
        missing = item.dense_source.movedim(1, -1).reshape(-1, 6).double().numpy().copy()
        missing[:, keep] -= x
        parts.append((x, missing))
    (told,), (offset,) = best_ridge([parts[0]], [parts[1]], intercept=True)
    dense = original.get_parameter("weight").double().numpy()
    expected, constants = np.zeros((3, 4, 3, 3)), np.zeros(3)
    for filter_ in range(3):
        for lost in range(6):
            constants[filter_] += dense[filter_, lost].sum() * offset[lost]
            for left in range(4):
                expected[filter_, left] += dense[filter_, lost] * told[lost, left]
    found = done(layer, items, original=original, max_memory=SHORT)
    assert (found.kept, found.remark) == ("", MIXED) and bool((found.error < at_first).all())
    weight, bias = changes_of(layer, state)
    np.testing.assert_allclose(weight[0], expected.reshape(3, -1), rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(bias[0], constants, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(("groups", "memory"), [(1, SHORT - 1), (2, SHORT)])
def test_where_not_even_channels_fit_a_layer_is_left_as_it_was(groups: int, memory: int) -> None:
    layer = CutLayer(drawn(nn.Conv2d(6, 4, 3, groups=groups), seed=3), None, None)
    items, state = asked(layer, [images(9, 6, 5, 5), images(8, 6, 5, 5, seed=1)]), layer.state()
    assert done(layer, items, max_memory=memory).kept
    assert all(torch.equal(tensor, value) for tensor, value in state)


@pytest.mark.xfail(
    strict=True,
    raises=RuntimeError,
    reason="mixing takes the rows of silenced filters out of a weight that still has them",
)
def test_mixed_channels_leave_silenced_filters_silent() -> None:
    layer, items, original = mixed(LayerCut((0, 2), None, 3, 6), narrow=False)
    before = layer.weight.clone()
    assert done(layer, items, original=original, max_memory=SHORT).remark == MIXED
    assert torch.equal(layer.weight[1], before[1]) and not torch.equal(layer.weight[0], before[0])


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="mixing reads silenced inputs and writes weights for them"
)
def test_mixed_channels_leave_silenced_inputs_silent() -> None:
    layer, items, original = mixed(LayerCut(None, (0, 2, 3, 5), 3, 6), narrow=False)
    assert done(layer, items, original=original, max_memory=SHORT).remark == MIXED
    assert not layer.weight[:, [1, 4]].any()
