"""Groups as torch-pruning finds them, in the terms of a filter graph."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from causal_prune.errors import InputError
from causal_prune.network.running import Inputs, copied
from causal_prune.surgery import dependency_graph, form_of, pruning_group
from causal_prune.tracing.filter_graph import Axis, FilterGraph, Group, Layer, Member, Role
from causal_prune.tracing.trial_cuts import Failure

KEPT = (
    "produces an output of the network",
    "frozen by the caller",
    "a branch or a number depends on the images",
    "channels are mixed by",
)
"""Reasons of the labels' graph that hold whoever finds the groups, and that a trial cut on an example may not see."""


def with_torch_pruning(model: nn.Module, inputs: Inputs, labels: FilterGraph) -> FilterGraph:
    """The same layers, parents and costs, with groups of torch-pruning's dependency graph.

    Args:
        model: The network; it is not changed.
        inputs: An example.
        labels: The graph that our own labels gave, not proved.

    Returns:
        The graph, not proved. Groups that make outputs of the network, or that the caller froze, are frozen.

    Raises:
        InputError: If torch-pruning cannot make a graph of the network, or does not come to an end.

    Cost: two forward passes, and torch-pruning's search for every group.
    """
    form = form_of(inputs)
    copy = copied(model).requires_grad_(True)
    graph = dependency_graph(copy, inputs)
    names = {id(module): name for name, module in copy.named_modules()}
    rough = {
        member.layer for group in labels.groups if group.approximate for member in group.of_role("producer")
    }
    taken: set[str] = set()
    groups: list[Group] = []
    lost: dict[str, str] = {}
    for name, layer in labels.layers.items():
        if not layer.inputs or name in taken:
            continue
        try:
            found = pruning_group(graph, name, range(layer.filters))
        except InputError as error:
            lost[name] = str(error).removeprefix("dependencies: ")
            continue
        members = tuple(_members(found, graph, names, labels.layers))
        makers = [member.layer for member in members if member.role == "producer"]
        # a depthwise convolution passes on what others make: asked as a root it would give their group once more
        taken.update(member.layer for member in members if member.axis == "out")
        kept = _kept(makers, labels)
        groups.append(Group(name, layer.filters, members, kept, not rough.isdisjoint(makers)))
    groups.sort(key=lambda group: group.frozen is not None)
    frozen = {name: why for name, why in labels.frozen.items() if any(text in why for text in KEPT)}
    for group in groups:
        if group.frozen is not None:
            for member in group.of_role("producer"):
                frozen.setdefault(member.layer, group.frozen)
    unreached = {name: why for name, why in labels.frozen.items() if name not in labels.layers}
    return replace(
        labels,
        groups=tuple(groups),
        adapters=(),
        frozen={**unreached, **lost, **frozen},
        dependencies="torch-pruning",
        example=form,
    )


def _kept(makers: list[str], labels: FilterGraph) -> str | None:
    for name in makers:
        why = labels.frozen.get(name, "")
        if any(text in why for text in KEPT):
            return why
    return None


@dataclass(frozen=True)
class _Axis:
    """What goes along one axis of a layer, with the root's filter that takes it along."""

    positions: tuple[int, ...]
    units: tuple[int, ...]


def _members(
    found: Any, graph: Any, names: Mapping[int, str], layers: Mapping[str, Layer]
) -> Iterator[Member]:
    """Members of a group in order of execution, then bare parameters."""
    lines: dict[tuple[str, Axis], _Axis] = {}
    bare: list[Member] = []
    for item in found.items:
        module, handler = item.dep.target.module, item.dep.handler
        along = _Axis(tuple(item.idxs), tuple(item.root_idxs))
        if isinstance(module, nn.Parameter):
            name, dim = graph._param_to_name[module], _pruned_dim(graph, module)
            bare.append(Member(name, "passenger", "out", dim, module.shape[dim], *_sorted(along)))
            continue
        name = names.get(id(module), "")
        if name not in layers:
            continue
        axes: tuple[Axis, ...] = ("out",) if graph.is_out_channel_pruning_fn(handler) else ("in",)
        if _passes_on(layers[name]):
            axes = ("in", "out") if layers[name].inputs else ("out",)
        for axis in axes:
            lines[name, axis] = along
    for name, layer in layers.items():
        for axis in ("in", "out"):
            if (name, axis) in lines:
                passing = _passes_on(layer)
                role: Role = "passenger" if passing else "producer" if axis == "out" else "consumer"
                extent = layer.filters if axis == "out" or not layer.inputs else layer.inputs
                yield Member(name, role, axis, None, extent, *_sorted(lines[name, axis]))
    yield from bare


def _passes_on(layer: Layer) -> bool:
    return not layer.inputs or (layer.grouping == "blocks" and layer.inputs == layer.groups)


def _sorted(along: _Axis) -> tuple[tuple[int, ...], tuple[int, ...]]:
    pairs = sorted(zip(along.positions, along.units, strict=True))
    return tuple(place for place, _ in pairs), tuple(unit for _, unit in pairs)


def _pruned_dim(graph: Any, parameter: nn.Parameter) -> int:
    return int(next(dim for each, dim in graph.unwrapped_parameters if each is parameter))


def why_wrong(group: Group, failure: Failure, labels: FilterGraph) -> str:
    """Say what is wrong with a group whose trial cut failed.

    Args:
        group: As torch-pruning has it.
        failure: What the trial said.
        labels: The graph that our labels gave.

    Returns:
        The reason: the first place where torch-pruning cuts another channel than the one that is read, or the module
        that the cut breaks.
    """
    trouble = failure.reason.removeprefix("a trial cut ")
    if failure.module is not None:
        trouble = trouble.replace("fails: ", f"fails in {failure.module or 'the network itself'}: ", 1)
    for unit in range(group.size):
        ours = _reads(labels, group.name, unit)
        if ours is None:
            continue
        for member in group.of_role("consumer"):
            theirs, read = set(member.positions_of([unit])), ours.get(member.layer, set())
            if theirs != read:
                return (
                    f"torch-pruning cuts {_listed(theirs)} of {member.layer} where {_listed(read)} reads filter "
                    f"{unit}: the cut {trouble}; 'labels' follows it"
                )
    hint = "" if "'labels'" in trouble else "; 'labels' may follow it"
    return f"torch-pruning's cut {trouble}{hint}"


def _reads(labels: FilterGraph, root: str, filter_: int) -> dict[str, set[int]] | None:
    """Where a filter is read, by consumer, as our labels have it."""
    for group in labels.groups:
        for member in group.members:
            if (member.layer, member.axis) == (root, "out") and filter_ in member.positions:
                unit = member.units[member.positions.index(filter_)]
                return {each.layer: set(each.positions_of([unit])) for each in group.of_role("consumer")}
    return None


def _listed(positions: set[int]) -> str:
    some = sorted(positions)
    if not some:
        return "nothing"
    text = ", ".join(map(str, some[:4])) + (" ..." if len(some) > 4 else "")
    return f"channel {text}" if len(some) == 1 else f"channels {text}"
