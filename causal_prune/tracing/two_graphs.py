"""Where two graphs of one network differ: ours, and torch-pruning's."""

from collections.abc import Iterator
from dataclasses import dataclass

from causal_prune.tracing.filter_graph import FilterGraph, Group


@dataclass(frozen=True)
class GraphDifference:
    """One layer on whose filters two graphs do not agree.

    Attributes:
        layer: The layer that makes them.
        labels: What our labels say of it.
        torch_pruning: What torch-pruning's graph says.
    """

    layer: str
    labels: str
    torch_pruning: str


def differences(labels: FilterGraph, other: FilterGraph) -> list[GraphDifference]:
    """Layers that one graph cuts and the other does not, or that they couple in another way.

    Args:
        labels: From `trace`.
        other: From `trace` with dependencies="torch-pruning", of the same network. Both were proved by trial cuts: what
            a graph has prunable its trial cut found right, and what was wrong is frozen with the reason.

    Returns:
        One value per layer, in order of execution; empty where the graphs agree.
    """
    return list(_differences(labels, other))


def _differences(labels: FilterGraph, other: FilterGraph) -> Iterator[GraphDifference]:
    for name, layer in labels.layers.items():
        if not layer.inputs:
            continue
        ours, theirs = _coupled(labels, name), _coupled(other, name)
        if ours == theirs:
            continue
        if ours is None or theirs is None:
            yield GraphDifference(name, _told(labels, name, ours), _told(other, name, theirs))
            continue
        unit = next((k for k in range(layer.filters) if ours.get(k) != theirs.get(k)), 0)
        yield GraphDifference(
            name,
            f"filter {unit} goes with {_listed(ours.get(unit, frozenset()) - theirs.get(unit, frozenset()))}",
            f"filter {unit} goes with {_listed(theirs.get(unit, frozenset()) - ours.get(unit, frozenset()))}",
        )


Places = frozenset[tuple[str, str, int]]


def _coupled(graph: FilterGraph, layer: str) -> dict[int, Places] | None:
    """By filter of a layer all places that go with it; None where nothing of it can go."""
    found: dict[int, Places] = {}
    for group in graph.prunable:
        for member in group.of_role("producer"):
            if member.layer == layer:
                for position, unit in zip(member.positions, member.units, strict=True):
                    found[position] = _places(group, unit)
    return found or None


def _places(group: Group, unit: int) -> Places:
    return frozenset(
        (member.layer, member.axis, place)
        for member in group.members
        for place, owner in zip(member.positions, member.units, strict=True)
        if owner == unit
    )


def _told(graph: FilterGraph, layer: str, coupled: dict[int, Places] | None) -> str:
    if coupled is not None:
        return "can be cut: the trial cut is right"
    return f"frozen: {graph.frozen.get(layer, 'its filters belong to no group')}"


def _listed(places: Places) -> str:
    if not places:
        return "nothing more"
    some = sorted(places)[:3]
    text = ", ".join(
        f"{'filter' if axis == 'out' else 'input'} {place} of {layer}" for layer, axis, place in some
    )
    return f"{text} and {len(places) - 3} more" if len(places) > 3 else text
