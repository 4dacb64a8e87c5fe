"""What a network of given widths costs, in multiply-accumulates and parameters."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from causal_prune.report import TargetKind
from causal_prune.surgery import PruningPlan
from causal_prune.tracing import FilterGraph, Layer, Member


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
        self.others = graph.others
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
                if member.layer in graph.layers or member.layer in graph.others
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
            name: Of the layer, or of a module or bare parameter that is none.

        Returns:
            Multiply-accumulates and parameters.
        """
        if name in self.others:
            other = self.others[name]
            share = self.kept.get((name, "out"), 1.0)
            return other.macs * share, other.params * share
        layer = self.layers[name]
        rows = self.kept.get((name, "out"), 1.0)
        columns = 1.0 if layer.grouping == "blocks" else self.kept.get((name, "in"), 1.0)
        biases = _biases(layer)
        return layer.macs * rows * columns, rows * ((layer.params - biases) * columns + biases)

    def total(self) -> tuple[float, float]:
        """Cost of the whole network.

        Returns:
            Multiply-accumulates and parameters.
        """
        macs, params = 0.0, 0.0
        for name in (*self.layers, *self.others):
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
        Both numbers, of all that the network computes and keeps.
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


def macs_kept(graph: FilterGraph, planned: PruningPlan) -> float:
    """The share of the multiply-accumulates that stays once a plan's units are removed, whatever its target.

    Args:
        graph: From `trace`.
        planned: A plan for it.

    Returns:
        The share, in (0, 1].
    """
    kept = {group.name: planned.kept_units[group.name] for group in graph.prunable}
    widths = {name: len(units) for name, units in kept.items()}
    orders = {
        group.name: [*sorted({*range(group.size)} - {*kept[group.name]}), *kept[group.name]]
        for group in graph.prunable
    }
    return share_kept(graph, "keep_macs", widths, orders)
