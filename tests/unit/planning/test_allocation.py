"""Widths against every choice that there is, in networks small enough to try them all."""

import itertools
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from causal_prune.errors import TargetError
from causal_prune.importance.scores import EliminationCurve
from causal_prune.planning.allocation import by_curves, equal_shares
from causal_prune.planning.network_cost import share_kept
from causal_prune.report.target import TargetKind
from causal_prune.tracing.filter_graph import FilterGraph, Group, Layer, Member
from causal_prune.tracing.network_trace import trace
from tests.unit.planning.networks import curved, network

KEPT: tuple[TargetKind, ...] = ("keep_macs", "keep_params")


@pytest.fixture(scope="module")
def apart() -> FilterGraph:
    """Groups "0" (8 units) and "4" (10), whose costs add up: the layer between them stays as it is."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 10, 1), nn.ReLU(),
        nn.Conv2d(10, 2, 1),
    )  # fmt: skip
    return trace(net, torch.zeros(2, 3, 2, 2), freeze=["2"])


@pytest.fixture(scope="module")
def coupled() -> FilterGraph:
    """Groups "0" (6 units), "2" (9) and "4" (7): what a removal saves depends on its neighbours."""
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 9, 1), nn.ReLU(), nn.Conv2d(9, 7, 1), nn.ReLU(),
        nn.Conv2d(7, 2, 1),
    )  # fmt: skip
    return trace(net, torch.zeros(2, 3, 2, 2))


def wide(*sizes: int) -> FilterGraph:
    """Groups "a", "b", ... of so many units, each of one layer that costs 10 for every filter."""
    layers, groups = {}, []
    for name, size in zip("abcd", sizes, strict=False):
        layers[name] = Layer("conv", size, 1, "dense", 1, 10 * size, 10 * size, ())
        units = tuple(range(size))
        groups.append(Group(name, size, (Member(name, "producer", "out", None, size, units, units),), None))
    return FilterGraph(layers, tuple(groups), {}, {})


def priced(**prices: list[float]) -> dict[str, EliminationCurve]:
    """Curves by group: what is lost after so many removals."""
    return {
        name: EliminationCurve(
            torch.arange(len(price) - 1), torch.zeros(len(price)), torch.tensor(price, dtype=torch.float64)
        )
        for name, price in prices.items()
    }


def equally(graph: FilterGraph, kind: TargetKind, requested: float, align: int) -> dict[str, int]:
    """The last units go first."""
    orders = {group.name: list(range(group.size))[::-1] for group in graph.prunable}
    return equal_shares(graph, orders, kind, requested, align)


def spread(
    graph: FilterGraph, curves: Mapping[str, EliminationCurve], kind: TargetKind, requested: float, align: int
) -> dict[str, int]:
    """Units go in the order of the curves."""
    orders = {name: curve.order.tolist() for name, curve in curves.items()}
    return by_curves(graph, curves, orders, kind, requested, align)


def every_choice(graph: FilterGraph) -> list[dict[str, int]]:
    names = [group.name for group in graph.prunable]
    ranges = [range(1, group.size + 1) for group in graph.prunable]
    return [dict(zip(names, widths, strict=True)) for widths in itertools.product(*ranges)]


def lost(curves: Mapping[str, EliminationCurve], widths: Mapping[str, int]) -> float:
    return sum(float(curve.price[len(curve.price) - 1 - widths[name]]) for name, curve in curves.items())


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("requested", [0.25, 0.5, 0.51, 0.9])
def test_the_largest_share_that_meets_the_target_is_kept_and_filled_up(
    coupled: FilterGraph, kind: TargetKind, requested: float
) -> None:
    found = equally(coupled, kind, requested, 1)
    shares = sorted({k / group.size for group in coupled.prunable for k in range(group.size + 1)})
    at = [
        {group.name: max(1, int(group.size * share + 1e-9)) for group in coupled.prunable} for share in shares
    ]
    largest = [widths for widths in at if share_kept(coupled, kind, widths) <= requested][-1]
    assert share_kept(coupled, kind, found) <= requested
    assert all(found[name] >= width for name, width in largest.items())
    for group in coupled.prunable:
        wider = found | {group.name: found[group.name] + 1}
        assert found[group.name] == group.size or share_kept(coupled, kind, wider) > requested


def test_groups_give_up_about_the_same_share() -> None:
    _, _, graph = network("resnet18")
    widths = equally(graph, "keep_macs", 0.5, 1)
    shares = [widths[group.name] / group.size for group in graph.prunable]
    assert max(shares) - min(shares) <= 2 / min(group.size for group in graph.prunable)


@pytest.mark.parametrize(
    ("requested", "expected"),
    [(0.5, {"a": 5, "b": 2}), (0.3, {"a": 7, "b": 3}), (0.05, {"a": 10, "b": 3}), (0.99, {"a": 1, "b": 1})],
)
def test_filters_to_remove_are_counted_in_every_group_and_rounded_down(
    requested: float, expected: dict[str, int]
) -> None:
    graph = wide(10, 3)
    found = {align: equally(graph, "remove_filters", requested, align) for align in (1, 8)}
    assert found == {1: expected, 8: expected}


def test_widths_are_multiples_of_the_block_or_of_a_part_of_it_in_narrow_groups() -> None:
    found = equally(wide(64, 64, 24), "keep_macs", 0.5, 16)
    assert found == {"a": 32, "b": 32, "c": 12}, "24 is less than four times 8: blocks of 4"


def test_blocks_become_smaller_where_the_target_would_be_missed_for_them() -> None:
    graph = wide(64, 48)
    assert equally(graph, "keep_macs", 0.44, 16) == {"a": 32, "b": 17}, "49 units of 112"
    assert equally(graph, "keep_macs", 0.1, 16) == {"a": 6, "b": 5}, "a block of each were too many"


def test_greedy_on_convex_curves_is_the_best_of_all_choices(apart: FilterGraph) -> None:
    curves = curved(apart, "0").curves
    for kind, requested in itertools.product(KEPT, (0.4, 0.6, 0.8)):
        found = spread(apart, curves, kind, requested, 1)
        possible = [w for w in every_choice(apart) if share_kept(apart, kind, w) <= requested]
        assert found in possible
        least = min(lost(curves, widths) for widths in possible)
        last_step = max(float(curve.price.diff().max()) for curve in curves.values())
        assert least <= lost(curves, found) <= least + last_step


@pytest.mark.parametrize("requested", [0.1, 0.35, 0.5, 0.7])
def test_filters_to_remove_are_those_that_cost_least_of_all_groups_together(
    coupled: FilterGraph, requested: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    curves = priced(
        **{
            group.name: [0.0, *torch.rand(group.size, generator=generator).sort().values.cumsum(0).tolist()]
            for group in coupled.prunable
        }
    )
    found = spread(coupled, curves, "remove_filters", requested, 1)
    left = 22 - int(22 * requested)
    assert sum(found.values()) == left
    least = min(lost(curves, w) for w in every_choice(coupled) if sum(w.values()) == left)
    assert lost(curves, found) == pytest.approx(least)


def test_a_dear_unit_goes_for_the_sake_of_the_cheap_ones_behind_it() -> None:
    """The lower convex hull of a curve that rises at once and then no more is nearly flat."""
    curves = priced(a=[0.0, 3, 3, 3, 3, 9], b=[0.0, 1, 2, 3, 4, 5])
    assert spread(wide(5, 5), curves, "remove_filters", 0.4, 1) == {"a": 1, "b": 5}


def test_a_group_whose_removals_cost_little_gives_up_more() -> None:
    _, _, graph = network("residual")
    total = sum(group.size for group in graph.prunable)
    for flat in ("a", "hidden"):
        widths = spread(graph, curved(graph, flat).curves, "remove_filters", 0.3, 1)
        assert min(graph.prunable, key=lambda group: widths[group.name] / group.size).name == flat
        assert sum(widths.values()) == total - int(total * 0.3)


def test_every_group_keeps_an_eighth_unless_the_target_asks_for_less() -> None:
    free, dear = [0.0] * 17, [float(k) for k in range(17)]
    curves = priced(a=free, b=dear)
    assert spread(wide(16, 16), curves, "keep_macs", 0.6, 1) == {"a": 3, "b": 16}
    assert spread(wide(16, 16), curves, "keep_macs", 0.5, 1) == {"a": 2, "b": 14}
    assert spread(wide(16, 16), curves, "keep_macs", 0.1, 1) == {"a": 1, "b": 2}


def test_curves_are_followed_in_blocks_and_single_units_given_back() -> None:
    steep, flat = [float(k * k) for k in range(65)], [0.1 * k * k for k in range(65)]
    curves = priced(a=steep, b=flat)
    assert spread(wide(64, 64), curves, "keep_macs", 0.75, 16) == {"a": 64, "b": 32}
    assert spread(wide(64, 64), curves, "keep_macs", 0.7, 16) == {"a": 64, "b": 25}
    widths = spread(wide(64, 64), curves, "remove_filters", 0.3, 16)
    assert sum(widths.values()) == 128 - int(128 * 0.3)


def test_the_order_of_the_curves_says_what_a_removal_saves() -> None:
    """Unit 0 has no channel in the dear layer: to remove it saves little, and more must go."""
    units = (1, 2, 3)
    members = (
        Member("cheap", "producer", "out", None, 4, (0, 1, 2, 3), (0, 1, 2, 3)),
        Member("dear", "producer", "out", None, 3, (0, 1, 2), units),
    )
    layers = {
        "cheap": Layer("conv", 4, 1, "dense", 1, 4, 4, ()),
        "dear": Layer("conv", 3, 1, "dense", 1, 96, 96, ()),
    }
    graph = FilterGraph(layers, (Group("cheap", 4, members, None),), {}, {})
    price = torch.arange(5, dtype=torch.float64)
    for order, left in (([0, 1, 2, 3], 2), ([3, 2, 1, 0], 3)):
        curves = {"cheap": EliminationCurve(torch.tensor(order), price, price)}
        assert spread(graph, curves, "keep_macs", 0.7, 1) == {"cheap": left}


@pytest.mark.parametrize("kind", KEPT)
def test_a_target_out_of_reach_names_the_reachable_range(coupled: FilterGraph, kind: TargetKind) -> None:
    least = share_kept(coupled, kind, dict.fromkeys(("0", "2", "4"), 1))
    curves = curved(coupled, "0").curves
    message = f"^{kind}=0.01 is out of reach: between {least:.3f} and 1 can be kept here$"
    for align in (1, 8):
        with pytest.raises(TargetError, match=message):
            equally(coupled, kind, 0.01, align)
        with pytest.raises(TargetError, match=message):
            spread(coupled, curves, kind, 0.01, align)


def test_the_narrowest_network_is_within_reach(coupled: FilterGraph) -> None:
    narrowest = dict.fromkeys(("0", "2", "4"), 1)
    least = share_kept(coupled, "keep_macs", narrowest)
    assert equally(coupled, "keep_macs", least, 8) == narrowest
    assert spread(coupled, curved(coupled, "2").curves, "keep_macs", least, 8) == narrowest
