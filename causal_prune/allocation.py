"""How many units of every group stay: equal shares, or by what the elimination curves say a removal costs."""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from causal_prune.errors import TargetError
from causal_prune.importance.scores import EliminationCurve
from causal_prune.surgery.pruning_plan import TargetKind
from causal_prune.tracing.filter_graph import FilterGraph, Group, Layer, Member

SMALLEST_WIDTH = 1
CLOSE = 0.01
"""A target counts as met within this share of it, from below."""
FLOOR = 1 / 8
"""Allocation by curves leaves every group this share of its units, unless the target cannot be met otherwise."""


class NetworkCost:
    """Multiply-accumulates for one image and parameters of a network while its groups become narrower.

    A layer's cost is that of the dense layer times the shares of its filters and of its inputs that stay.

    Args:
        graph: From `trace`.
        widths: Units that stay, by group.
        orders: By group the units in the order in which they go, at least those that are gone; None where it is not
            known yet which units go: every unit then counts alike, also for layers that have channels of some alone.
    """

    def __init__(
        self, graph: FilterGraph, widths: Mapping[str, int], orders: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.layers = graph.layers
        self.lost: dict[str, list[tuple[tuple[str, str], list[float]]]] = {}
        self.gone = {group.name: 0 for group in graph.prunable}
        self.kept: dict[tuple[str, str], float] = {}
        for group in graph.prunable:
            self.lost[group.name] = [
                (
                    (member.layer, member.axis),
                    _lost(member, group.size, None if orders is None else orders[group.name]),
                )
                for member in group.members
                if member.layer in graph.layers
            ]
            self.remove(group.name, group.size - widths[group.name])

    def remove(self, group: str, units: int) -> None:
        """Take units out of a group; a negative number gives them back.

        Args:
            group: Name of the group.
            units: How many.
        """
        before = self.gone[group]
        self.gone[group] = after = before + units
        for key, lost in self.lost[group]:
            self.kept[key] = self.kept.get(key, 1.0) - (lost[after] - lost[before])

    def of_layer(self, name: str) -> tuple[float, float]:
        """Cost of one layer.

        Args:
            name: Of the layer.

        Returns:
            Multiply-accumulates and parameters.
        """
        layer = self.layers[name]
        rows = self.kept.get((name, "out"), 1.0)
        columns = 1.0 if layer.grouping == "blocks" else self.kept.get((name, "in"), 1.0)
        biases = _biases(layer)
        return layer.macs * rows * columns, rows * ((layer.params - biases) * columns + biases)

    def total(self) -> tuple[float, float]:
        """Cost of all layers.

        Returns:
            Multiply-accumulates and parameters.
        """
        macs, params = 0.0, 0.0
        for name in self.layers:
            m, p = self.of_layer(name)
            macs, params = macs + m, params + p
        return macs, params

    def saved(self, group: str, units: int) -> tuple[float, float]:
        """What taking units out of a group would save now.

        Args:
            group: Name of the group.
            units: How many.

        Returns:
            Multiply-accumulates and parameters.
        """
        touched = dict.fromkeys(key[0] for key, _ in self.lost[group])
        before = [self.of_layer(name) for name in touched]
        self.remove(group, units)
        after = [self.of_layer(name) for name in touched]
        self.remove(group, -units)
        return (
            sum(a[0] - b[0] for a, b in zip(before, after, strict=True)),
            sum(a[1] - b[1] for a, b in zip(before, after, strict=True)),
        )


def cost(
    graph: FilterGraph, widths: Mapping[str, int], orders: Mapping[str, Sequence[int]] | None = None
) -> tuple[float, float]:
    """Multiply-accumulates for one image and parameters of a network at given widths.

    Args:
        graph: From `trace`.
        widths: Units that stay, by group.
        orders: As in `NetworkCost`.

    Returns:
        Both numbers, of convolutions, linear and normalisation layers.
    """
    return NetworkCost(graph, widths, orders).total()


def _lost(member: Member, size: int, order: Sequence[int] | None) -> list[float]:
    """Share of a layer's axis that is gone after so many units of the group went."""
    held = Counter(member.units)
    counts = [held[unit] for unit in order] if order is not None else [len(member.units) / size] * size
    return [0.0, *accumulate(count / member.extent for count in counts)]


def _biases(layer: Layer) -> int:
    """Parameters of a layer that belong to a filter but to none of its inputs."""
    read = layer.inputs // layer.groups
    # a filter's weights are a multiple of the channels that it reads; what is left over are its biases
    return layer.params // layer.filters % read * layer.filters if read else 0


def share_kept(
    graph: FilterGraph,
    kind: TargetKind,
    widths: Mapping[str, int],
    orders: Mapping[str, Sequence[int]] | None = None,
) -> float:
    """The share that a target counts.

    Args:
        graph: From `trace`.
        kind: Kind of the target.
        widths: Units that stay, by group.
        orders: As in `NetworkCost`.

    Returns:
        The share that stays; for "remove_filters" the share of all units that goes.
    """
    if kind == "remove_filters":
        total = sum(group.size for group in graph.prunable)
        return 1 - sum(widths[group.name] for group in graph.prunable) / total
    dense, left = cost(graph, {g.name: g.size for g in graph.prunable}), cost(graph, widths, orders)
    return left[kind == "keep_params"] / dense[kind == "keep_params"]


def _step(group: Group, align: int) -> int:
    while align > 1 and group.size < 4 * align:
        align //= 2
    return align


def equal_shares(graph: FilterGraph, kind: TargetKind, requested: float, align: int) -> dict[str, int]:
    """Widths at which every group gives up the same share of its units.

    Args:
        graph: From `trace`.
        kind: Kind of the target.
        requested: The share asked for.
        align: As in `plan`.

    Returns:
        Units that stay, by group.

    Raises:
        TargetError: If the target is out of reach.
    """
    if kind == "remove_filters":
        return {
            group.name: max(group.size - int(group.size * requested + 1e-9), SMALLEST_WIDTH)
            for group in graph.prunable
        }
    _check_reach(graph, kind, requested)

    def widths(share: float, block: int) -> dict[str, int]:
        return {group.name: _width(group, share, block) for group in graph.prunable}

    block = align
    while block > 1 and share_kept(graph, kind, widths(0.0, block)) > requested:
        block //= 2
    low, high = 0.0, 1.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if share_kept(graph, kind, widths(middle, block)) <= requested else (low, middle)
        )
    sizes = {group.name: group.size for group in graph.prunable}
    return _fill(graph, kind, requested, widths(low, block), block, lambda name, width: width / sizes[name])


def _width(group: Group, share: float, align: int) -> int:
    step = _step(group, align)
    return max(int(group.size * share + 1e-9) // step * step, min(step, group.size), SMALLEST_WIDTH)


def _check_reach(graph: FilterGraph, kind: TargetKind, requested: float) -> None:
    least = share_kept(graph, kind, {group.name: SMALLEST_WIDTH for group in graph.prunable})
    if least > requested:
        raise TargetError(f"{kind}={requested} is out of reach: between {least:.3f} and 1 can be kept here")


def _fill(
    graph: FilterGraph,
    kind: TargetKind,
    requested: float,
    widths: dict[str, int],
    block: int,
    price: Callable[[str, int], float],
    orders: Mapping[str, Sequence[int]] | None = None,
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
        _check_reach(graph, kind, requested)
    goal = 1 - requested if kind == "remove_filters" else requested
    for floor, block in ((FLOOR, align), (FLOOR, 1), (0.0, 1)):
        widths = _greedy(graph, curves, kind, goal, floor, block)
        if widths is not None:
            break
    else:
        # rounding: nothing but the narrowest network meets the target
        return {group.name: SMALLEST_WIDTH for group in graph.prunable}
    if kind == "remove_filters":
        return _trimmed(graph, curves, widths, requested)

    def price(name: str, width: int) -> float:
        curve = curves[name].price
        gone = len(curve) - 1 - width
        return -float(curve[gone] - curve[max(gone - 1, 0)])

    return _fill(graph, kind, requested, widths, block, price, _orders(curves))


def _greedy(
    graph: FilterGraph,
    curves: Mapping[str, EliminationCurve],
    kind: TargetKind,
    goal: float,
    floor: float,
    block: int,
) -> dict[str, int] | None:
    groups = {group.name: group for group in graph.prunable}
    widths = {name: group.size for name, group in groups.items()}
    network = NetworkCost(graph, widths, _orders(curves))
    which = int(kind == "keep_params")
    whole = float(sum(widths.values())) if kind == "remove_filters" else network.total()[which]
    left = whole

    def next_step(name: str) -> tuple[float, int, float] | None:
        """Price of the next stretch, the units of its first step, and what that step saves."""
        step = _step(groups[name], block)
        least = max(-(-int(groups[name].size * floor) // step) * step, min(step, groups[name].size), 1)
        first = widths[name] % step or step
        if widths[name] - first < least:
            return None
        saved = float(first) if kind == "remove_filters" else network.saved(name, first)[which]
        gone = groups[name].size - widths[name]
        slope = _hull_slope(curves[name].price, gone, groups[name].size - least, first)
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


def _orders(curves: Mapping[str, EliminationCurve]) -> dict[str, list[int]]:
    return {name: curve.order.tolist() for name, curve in curves.items()}


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
