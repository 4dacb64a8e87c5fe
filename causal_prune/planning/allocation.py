"""How many units of every group stay: equal shares, or by what the elimination curves say a removal costs."""

import heapq
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from causal_prune.errors import TargetError
from causal_prune.importance import EliminationCurve
from causal_prune.planning.network_cost import NetworkCost, share_kept
from causal_prune.report import TargetKind
from causal_prune.tracing import FilterGraph, Group

SMALLEST_WIDTH = 1
CLOSE = 0.01
"""A target counts as met within this share of it, from below."""
FLOOR = 1 / 8
"""Allocation by curves leaves every group this share of its units, unless the target cannot be met otherwise."""


def _step(group: Group, align: int) -> int:
    while align > 1 and group.size < 4 * align:
        align //= 2
    return align


Orders = Mapping[str, Sequence[int]]
"""By group its units, those that go first in front; units that must stay stand at the end."""


def equal_shares(
    graph: FilterGraph, orders: Orders, kind: TargetKind, requested: float, align: int
) -> dict[str, int]:
    """Widths at which every group gives up the same share of its units.

    Units of one group may have channels in different layers and then cost differently: what counts is what those save
    that go.

    Args:
        graph: From `trace`.
        orders: Of the units.
        kind: Kind of the target.
        requested: The share asked for.
        align: As in `plan`.

    Returns:
        Units that stay, by group.

    Raises:
        TargetError: If the target is out of reach.
    """
    least = least_widths(graph, orders)
    if kind == "remove_filters":
        return {
            group.name: max(group.size - int(group.size * requested + 1e-9), least[group.name])
            for group in graph.prunable
        }
    _check_reach(graph, orders, kind, requested)

    def widths(share: float, block: int) -> dict[str, int]:
        return {group.name: max(_width(group, share, block), least[group.name]) for group in graph.prunable}

    block = align
    while block > 1 and share_kept(graph, kind, widths(0.0, block), orders) > requested:
        block //= 2
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if share_kept(graph, kind, widths(middle, block), orders) <= requested
            else (low, middle)
        )
    sizes = {group.name: group.size for group in graph.prunable}
    start = widths(low, block)
    return _fill(graph, kind, requested, start, block, lambda name, width: width / sizes[name], orders)


def _width(group: Group, share: float, align: int) -> int:
    step = _step(group, align)
    return max(int(group.size * share + 1e-9) // step * step, min(step, group.size), SMALLEST_WIDTH)


def least_widths(graph: FilterGraph, orders: Orders) -> dict[str, int]:
    """The least number of units that every group keeps.

    Args:
        graph: From `trace`.
        orders: Of the units.

    Returns:
        By group one, or as many as leave every layer a channel.
    """
    return {
        group.name: max(SMALLEST_WIDTH, len(group.essential(orders[group.name][::-1])))
        for group in graph.prunable
    }


def _check_reach(graph: FilterGraph, orders: Orders, kind: TargetKind, requested: float) -> None:
    least = share_kept(graph, kind, least_widths(graph, orders), orders)
    if least > requested:
        raise TargetError(f"{kind}={requested} is out of reach: between {least:.3f} and 1 can be kept here")


def _fill(
    graph: FilterGraph,
    kind: TargetKind,
    requested: float,
    widths: dict[str, int],
    block: int,
    price: Callable[[str, int], float],
    orders: Orders,
) -> dict[str, int]:
    """Give back steps, to groups of the least price first, in smaller and smaller steps while the target is missed."""
    groups = {group.name: group for group in graph.prunable}
    while True:
        open_groups = dict(groups)
        while open_groups:
            name = min(open_groups, key=lambda key: (price(key, widths[key]), key))
            wider = widths | {name: widths[name] + _step(groups[name], block)}
            if wider[name] <= groups[name].size and share_kept(graph, kind, wider, orders) <= requested:
                widths = wider
            else:
                del open_groups[name]
        if block == 1 or share_kept(graph, kind, widths, orders) >= requested * (1 - CLOSE):
            return widths
        block //= 2


def by_curves(
    graph: FilterGraph,
    curves: Mapping[str, EliminationCurve],
    orders: Orders,
    kind: TargetKind,
    requested: float,
    align: int,
) -> dict[str, int]:
    """Widths at which the removals lose the least for what they save.

    minimises  sum_g U_g(r_g)  subject to the target, with U_g(r) the price after r units of group g went.
    Greedily on the lower convex hulls: the group goes on whose next stretch has the least rise of U per cost saved
    (Fox 1966: for convex curves and costs that add up this is the optimum of the Lagrangian). Costs of neighbouring
    groups multiply; what a removal saves is computed anew when its turn comes.

    Args:
        graph: From `trace`.
        curves: One curve per prunable group.
        orders: Of the units.
        kind: Kind of the target.
        requested: The share asked for.
        align: As in `plan`.

    Returns:
        Units that stay, by group; at least `FLOOR` of each group unless the target asks for less.

    Raises:
        TargetError: If the target is out of reach.

    Cost: about one evaluation of a group's own layers per step, and none of the network.
    """
    if kind != "remove_filters":
        _check_reach(graph, orders, kind, requested)
    goal = 1 - requested if kind == "remove_filters" else requested
    for floor, block in ((FLOOR, align), (FLOOR, 1), (0.0, 1)):
        widths = _greedy(graph, curves, orders, kind, goal, floor, block)
        if widths is not None:
            break
    else:
        # rounding: nothing but the narrowest network meets the target
        return least_widths(graph, orders)
    if kind == "remove_filters":
        return _trimmed(graph, curves, widths, requested)

    def price(name: str, width: int) -> float:
        curve = curves[name].price
        gone = len(curve) - 1 - width
        return -float(curve[gone] - curve[max(gone - 1, 0)])

    return _fill(graph, kind, requested, widths, block, price, orders)


def _greedy(
    graph: FilterGraph,
    curves: Mapping[str, EliminationCurve],
    orders: Orders,
    kind: TargetKind,
    goal: float,
    floor: float,
    block: int,
) -> dict[str, int] | None:
    groups = {group.name: group for group in graph.prunable}
    widths = {name: group.size for name, group in groups.items()}
    network, narrowest = NetworkCost(graph, widths, orders), least_widths(graph, orders)
    which = int(kind == "keep_params")
    whole = float(sum(widths.values())) if kind == "remove_filters" else network.total()[which]
    left = whole

    def next_step(name: str) -> tuple[float, int, float] | None:
        """Price of the next stretch, the units of its first step, and what that step saves."""
        size, step = groups[name].size, _step(groups[name], block)
        least = max(-(-int(size * floor) // step) * step, min(step, size), narrowest[name])
        first = widths[name] % step or step
        if widths[name] - first < least:
            return None
        saved = float(first) if kind == "remove_filters" else network.saved(name, first)[which]
        slope = _hull_slope(curves[name].price, size - widths[name], size - least, first)
        return slope * first / max(saved, 1e-12 * whole), first, saved

    heap = [(found[0], name) for name in groups if (found := next_step(name)) is not None]
    heapq.heapify(heap)
    while left > goal * whole * (1 + 1e-12):
        if not heap:
            return None
        price, name = heapq.heappop(heap)
        found = next_step(name)
        assert found is not None
        if found[0] > price * (1 + 1e-9) + 1e-300 and heap and found[0] > heap[0][0]:
            heapq.heappush(heap, (found[0], name))
            continue
        widths[name] -= found[1]
        network.remove(name, found[1])
        left -= found[2]
        again = next_step(name)
        if again is not None:
            heapq.heappush(heap, (again[0], name))
    return widths


def _hull_slope(price: Tensor, gone: int, most: int, first: int) -> float:
    """Rise per unit of the lower convex hull from `gone` on: the flattest stretch that begins there."""
    rise = price[gone + first : most + 1] - price[gone]
    units = torch.arange(first, first + len(rise), dtype=torch.float64)
    return float((rise / units).min())


def _trimmed(
    graph: FilterGraph, curves: Mapping[str, EliminationCurve], widths: dict[str, int], requested: float
) -> dict[str, int]:
    """Give back single units where steps removed more than was asked for."""
    total = sum(group.size for group in graph.prunable)
    spare = int(total * requested + 1e-9) - (total - sum(widths.values()))
    while spare < 0:
        open_groups = [group for group in graph.prunable if widths[group.name] < group.size]

        def gain(group: Group) -> float:
            curve = curves[group.name].price
            gone = group.size - widths[group.name]
            return float(curve[gone] - curve[gone - 1])

        best = max(open_groups, key=gain)
        widths[best.name] += 1
        spare += 1
    return widths
