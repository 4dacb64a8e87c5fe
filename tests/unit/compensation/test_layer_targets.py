"""The squared error of a layer, number by number."""

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.layer_targets import Judge, Wanted
from causal_prune.compensation.least_squares import Correction
from causal_prune.compensation.output_paths import Bounds
from causal_prune.network.layer_matrices import matrix_of
from tests.unit.compensation.cut_nets import INFINITE, images, wanted
from tests.unit.drawn_weights import drawn

pytestmark = pytest.mark.usefixtures("no_gradients")

LAYERS: dict[str, tuple[nn.Module, nn.Module | None, tuple[int, ...]]] = {
    "bias": (nn.Conv2d(2, 3, 2), None, (4, 2, 3, 3)),
    "norm": (nn.Conv2d(2, 3, 2, bias=False), nn.BatchNorm2d(3), (4, 2, 3, 3)),
    "neither": (nn.Conv2d(2, 3, 2, bias=False), None, (4, 2, 3, 3)),
    "linear": (nn.Linear(2, 3), None, (4, 2)),
    "tokens": (nn.Linear(2, 3), None, (4, 5, 2)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def made(name: str) -> tuple[CutLayer, list[Wanted]]:
    """A layer, and four batches of what it should return, of which the second and the last are held out."""
    module, norm, shape = copy.deepcopy(LAYERS[name])
    layer = CutLayer(drawn(module, seed=3), None if norm is None else drawn(norm, seed=4), None)
    items = []
    for k, held_out in enumerate([False, True, False, True]):
        source = images(*shape, seed=k)
        target = images(*cast(Tensor, layer.module.forward(source)).shape, seed=k + 10)
        items.append(wanted(layer, source, target, held_out=held_out, index=k))
    return layer, items


def changed(layer: CutLayer) -> None:
    matrix = matrix_of(layer.module, layer.weight)
    layer.write(Correction(images(*matrix.shape, seed=5), images(*matrix.shape[:2], seed=6), 0.0))


def squares(layer: CutLayer, gap: Tensor) -> list[float]:
    """Sum of squares of every filter, one number after the other."""
    totals = [0.0] * layer.filters
    for row in layer.flat(gap).double().tolist():
        for filter_, value in enumerate(row):
            totals[filter_] += value**2
    return totals


def literal(layer: CutLayer, items: list[Wanted], bounds: Bounds) -> tuple[list[float], list[float]]:
    """Of the output itself, as if a batch norm's shift were its own, and behind a rectifier."""
    plain, through = torch.zeros(2, layer.filters, dtype=torch.float64)
    for item in items:
        now = layer.behind_norm(cast(Tensor, layer.module.forward(item.source)))
        gap = (item.behind - now) / layer.along(layer.slope(), now)
        plain += torch.tensor(squares(layer, gap), dtype=torch.float64)
        let_through = item.behind.clamp(*bounds) - now.clamp(*bounds)
        through += torch.tensor(squares(layer, let_through), dtype=torch.float64)
    return plain.tolist(), through.tolist()


@every_layer
def test_images_that_are_held_out_judge(name: str) -> None:
    layer, items = made(name)
    judge = Judge(layer, items)
    assert judge.items == [items[1], items[3]]
    expected, _ = literal(layer, [items[1], items[3]], (0.0, INFINITE))
    assert judge.at_first.tolist() == pytest.approx(expected, rel=1e-4)
    assert judge.at_first.dtype == torch.float64


def test_all_images_judge_where_none_is_held_out() -> None:
    layer, items = made("bias")
    judge = Judge(layer, [items[0], items[2]])
    expected, _ = literal(layer, [items[0], items[2]], (0.0, INFINITE))
    assert judge.at_first.tolist() == pytest.approx(expected, rel=1e-4)


@every_layer
@pytest.mark.parametrize("bounds", [(0.0, INFINITE), (-0.5, 0.5)])
def test_a_layer_that_has_changed_is_judged_as_it_is_now(name: str, bounds: Bounds) -> None:
    layer, items = made(name)
    judge = Judge(layer, items)
    before = judge.at_first.clone()
    changed(layer)
    plain, through = literal(layer, [items[1], items[3]], bounds)
    found = judge.errors(bounds)
    assert found[0].tolist() == judge.error().tolist() == pytest.approx(plain, rel=1e-3)
    assert found[1].tolist() == pytest.approx(through, rel=1e-3)
    assert torch.equal(judge.at_first, before) and before.tolist() != plain


def test_without_a_rectifier_the_error_behind_is_that_of_the_output_times_the_slope() -> None:
    layer, items = made("norm")
    judge = Judge(layer, items)
    plain, through = judge.errors(None)
    torch.testing.assert_close(through, plain * layer.slope().double() ** 2)
    unbounded = judge.errors((-INFINITE, INFINITE))[1]
    torch.testing.assert_close(through, unbounded, rtol=1e-4, atol=0)


def test_the_judge_can_send_a_layer_back() -> None:
    layer, items = made("norm")
    judge = Judge(layer, items)
    changed(layer)
    layer.restore(judge.first)
    torch.testing.assert_close(judge.error(), judge.at_first)


def test_what_the_refit_alone_needs_is_given_up() -> None:
    _, (item, *_) = made("bias")
    reply, pair = item.dense_reply, item.pair
    item.let_go()
    assert [t.numel() for t in (item.source, item.dense_source, item.residual, item.behind)] == [0] * 4
    assert item.dense_reply is reply and item.pair is pair
