"""What narrower networks cost: products counted one by one, and the networks themselves counted after the cut."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from causal_prune.importance.scores import FilterScores
from causal_prune.measure.cost import count_cost
from causal_prune.planning.network_cost import NetworkCost, cost, macs_kept, share_kept
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.removal import cut_network
from causal_prune.tracing.filter_graph import FilterGraph, Group, Layer, Member
from causal_prune.tracing.network_trace import trace
from tests.unit.planning.networks import network


def whole(graph: FilterGraph) -> dict[str, int]:
    return {group.name: group.size for group in graph.prunable}


@pytest.fixture
def chain() -> FilterGraph:
    """Groups "0" (6 units, of 4 x 4 pixels) and "3" (5, of 2 x 2, read by a linear layer after flatten)."""
    net = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 5, 2, stride=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3),
    )  # fmt: skip
    return trace(net, torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(("a", "b"), [(6, 5), (4, 5), (6, 2), (3, 1)])
def test_products_and_weights_are_counted_one_by_one(chain: FilterGraph, a: int, b: int) -> None:
    macs = 16 * (a * 2 * 9) + 4 * (b * a * 4) + 3 * (b * 4)
    params = (a * 2 * 9 + a) + 2 * a + b * a * 4 + (3 * b * 4 + 3)
    assert cost(chain, {"0": a, "3": b}) == pytest.approx((macs, params), rel=1e-12)


def test_a_layer_costs_what_its_filters_and_its_inputs_leave_of_it(chain: FilterGraph) -> None:
    found = NetworkCost(chain, {"0": 3, "3": 2})
    assert found.of_layer("0") == pytest.approx((16 * 3 * 2 * 9, 3 * 2 * 9 + 3))
    assert found.of_layer("1") == pytest.approx((0, 6))
    assert found.of_layer("3") == pytest.approx((4 * 2 * 3 * 4, 2 * 3 * 4))
    assert found.of_layer("6") == pytest.approx((3 * 2 * 4, 3 * 2 * 4 + 3)), "its biases stay"


@pytest.mark.parametrize("name", ["residual", "mixed", "squeezenet1_1"])
def test_the_cost_is_that_of_the_network_when_it_is_cut(name: str) -> None:
    net, example, graph = network(name)
    dense = count_cost(net, example)
    assert cost(graph, whole(graph)) == (dense.macs, dense.params)
    for share in (0.8, 0.3):
        widths = {group.name: max(1, int(group.size * share)) for group in graph.prunable}
        cuts = graph.cuts({name: range(width) for name, width in widths.items()})
        small = count_cost(cut_network(net, cuts), example)
        assert cost(graph, widths) == pytest.approx((small.macs, small.params), rel=1e-9)


class Scaled(nn.Module):
    """A parameter of its own between two convolutions, and one that meets no channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.gamma, self.shift = nn.Parameter(torch.ones(8, 1, 1)), nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(self.first(x) * self.gamma) + self.shift.sum()
        return out


class Recurrent(nn.Module):
    """Convolutions, a recurrent layer and a product of attention: most of it is none of the known layers."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.cells = kind(6, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.cell = nn.GRUCell(10, 4)
        self.head = nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.second(self.first(x).relu()).flatten(2).transpose(1, 2)
        seen = self.cells(steps)[0]
        mixed = nn.functional.scaled_dot_product_attention(seen[:, None], seen[:, None], seen[:, None])[:, 0]
        weights = torch.einsum("btc,bsc->bts", mixed, seen).softmax(-1)
        pooled = (weights @ mixed).mean(1)
        out: Tensor = self.head(torch.cat((pooled, self.cell(pooled)), 1))
        return out


def by_hand(positions: int) -> int:
    """Multiply-accumulates of the recurrent layers and the products of `Recurrent`, for an LSTM."""
    layers = sum(2 * positions * 4 * 5 * (wide + 5) for wide in (6, 10))
    attention = 2 * positions * positions * 10
    return layers + attention + 2 * positions * positions * 10 + 3 * 4 * (10 + 4)


def test_recurrent_layers_and_products_count_in_the_plan_and_in_the_report() -> None:
    net, example = Recurrent(), torch.randn(2, 3, 8, 8)
    graph, measured = trace(net, example), count_cost(net, example)
    layers = sum(layer.macs for layer in graph.layers.values())
    assert sum(other.macs for other in graph.others.values()) == by_hand(16) == measured.macs - layers
    assert cost(graph, whole(graph)) == (measured.macs, measured.params)
    small = count_cost(cut_network(net, graph.cuts({"first": range(3)})), example)
    assert cost(graph, {"first": 3}) == pytest.approx((small.macs, small.params), rel=1e-9)


@pytest.mark.parametrize("make", [Scaled, lambda: Recurrent(nn.GRU), lambda: Recurrent(nn.RNN)])
def test_what_is_no_layer_counts_too(make: Callable[[], nn.Module]) -> None:
    net, example = make(), torch.zeros(2, 3, 8, 8)
    graph = trace(net, example)
    dense = count_cost(net, example)
    assert cost(graph, whole(graph)) == (dense.macs, dense.params)
    small = count_cost(cut_network(net, graph.cuts({"first": range(3)})), example)
    assert cost(graph, {"first": 3}) == pytest.approx((small.macs, small.params), rel=1e-9)


def test_units_that_go_and_come_back_leave_the_cost_of_what_is_there(chain: FilterGraph) -> None:
    moving, widths = NetworkCost(chain, whole(chain)), whole(chain)
    for group, units in (("0", 2), ("3", 4), ("0", 3), ("0", -4), ("3", -1)):
        moving.remove(group, units)
        widths[group] -= units
        assert moving.total() == pytest.approx(cost(chain, widths), rel=1e-12)


def test_what_would_be_saved_is_the_difference_and_nothing_has_changed(chain: FilterGraph) -> None:
    standing = NetworkCost(chain, {"0": 5, "3": 4})
    before = standing.total()
    for group, units in (("0", 3), ("3", 1), ("0", -1), ("3", 0)):
        after = cost(chain, {"0": 5, "3": 4} | {group: {"0": 5, "3": 4}[group] - units})
        expected = tuple(b - a for b, a in zip(before, after, strict=True))
        assert standing.saved(group, units) == pytest.approx(expected, abs=1e-9)
    assert standing.total() == pytest.approx(before, rel=1e-12)


def uneven() -> FilterGraph:
    """A stream of three units: the last of them has no channel in the layer "early", which holds unit 0 twice."""

    def member(layer: str, axis: str, units: tuple[int, ...], extent: int) -> Member:
        role = "producer" if axis == "out" else "consumer"
        return Member(layer, role, axis, None, extent, tuple(range(len(units))), units)  # type: ignore[arg-type]

    members = (
        member("early", "out", (0, 1, 0), 4),
        member("late", "out", (0, 1, 2), 3),
        member("reader", "in", (0, 1, 2), 3),
    )
    layers = {
        "early": Layer("conv", 4, 2, "dense", 1, 800, 80, ()),
        "late": Layer("conv", 3, 2, "dense", 1, 300, 9, ()),
        "reader": Layer("conv", 7, 3, "dense", 1, 210, 28, ("early", "late")),
    }
    return FilterGraph(layers, (Group("early", 3, members, None),), {}, {})


@pytest.mark.parametrize(
    ("orders", "gone", "macs", "params"),
    [
        ({"early": [2, 1, 0]}, 1, 800 + 200 + 140, 80 + 6 + 7 * 2 + 7),
        ({"early": [0, 1, 2]}, 1, 400 + 200 + 140, 40 + 6 + 7 * 2 + 7),
        ({"early": [1, 0]}, 2, 200 + 100 + 70, 20 + 3 + 7 + 7),
        (None, 1, 600 + 200 + 140, 60 + 6 + 7 * 2 + 7),  # a third of the three channels of four
        (None, 3, 200, 20 + 7),
    ],
)
def test_units_without_a_channel_in_a_layer_cost_nothing_there(
    orders: dict[str, list[int]] | None, gone: int, macs: float, params: float
) -> None:
    assert cost(uneven(), {"early": 3 - gone}, orders) == pytest.approx((macs, params))


def grouped(layer: Layer, units: tuple[int, ...], *axes: str) -> FilterGraph:
    """A layer whose channels along some axes belong to units of the group "before"."""
    members = [
        Member("grouped", "passenger", axis, None, len(units), tuple(range(len(units))), units)  # type: ignore[arg-type]
        for axis in axes
    ]
    group = Group("before", max(units) + 1, tuple(members), None)
    return FilterGraph({"grouped": layer}, (group,), {}, {})


def test_in_blocks_that_go_whole_a_filter_reads_what_it_did() -> None:
    depthwise = Layer("conv", 6, 6, "blocks", 6, 120, 6 * 9 + 6, ())
    graph = grouped(depthwise, (0, 1, 2, 3, 4, 5), "in", "out")
    assert cost(graph, {"before": 2}) == pytest.approx((40, 2 * 9 + 2))


def test_where_positions_of_every_block_go_a_filter_reads_less() -> None:
    two_blocks = Layer("conv", 6, 6, "positions", 2, 90, 6 * 3 * 2 + 6, ())
    graph = grouped(two_blocks, (0, 1, 2, 0, 1, 2), "in")
    assert cost(graph, {"before": 2}) == pytest.approx((60, 6 * 2 * 2 + 6))


def test_a_target_counts_products_parameters_or_units_that_go(chain: FilterGraph) -> None:
    widths = {"0": 3, "3": 4}
    (macs, params), (all_macs, all_params) = cost(chain, widths), cost(chain, whole(chain))
    assert share_kept(chain, "keep_macs", widths) == pytest.approx(macs / all_macs)
    assert share_kept(chain, "keep_params", widths) == pytest.approx(params / all_params)
    assert share_kept(chain, "remove_filters", widths) == pytest.approx(4 / 11)
    for kind, expected in (("keep_macs", 1.0), ("keep_params", 1.0), ("remove_filters", 0.0)):
        assert share_kept(chain, kind, whole(chain)) == expected  # type: ignore[arg-type]
    order = {"early": [2, 1, 0]}
    assert share_kept(uneven(), "keep_macs", {"early": 2}, order) == pytest.approx(1140 / 1310)


@pytest.mark.parametrize("name", ["residual", "mixed", "squeezenet1_1"])
@pytest.mark.parametrize("target", [{"keep_params": 0.5}, {"remove_filters": 0.3}])
def test_the_share_of_a_plan_is_that_of_the_network_when_it_is_cut(
    name: str, target: dict[str, float]
) -> None:
    net, example, graph = network(name)
    draw = torch.Generator().manual_seed(1)
    groups = {
        group.name: torch.rand(group.size, generator=draw, dtype=torch.float64) for group in graph.prunable
    }
    planned = plan(graph, FilterScores("test", "", groups, {}), **target)
    small, dense = count_cost(cut_network(net, planned.cuts), example), count_cost(net, example)
    assert macs_kept(graph, planned) == pytest.approx(small.macs / dense.macs, rel=1e-9)
    everything = {group.name: tuple(range(group.size)) for group in graph.prunable}
    assert macs_kept(graph, replace(planned, kept_units=everything)) == 1
