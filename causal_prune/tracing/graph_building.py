"""The filter graph from the labels that a trace has left."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from causal_prune.network.layer_kinds import MIXING
from causal_prune.network.operation_costs import named_uncounted
from causal_prune.tracing.channel_labels import FIXED
from causal_prune.tracing.channel_tracer import ChannelTracer
from causal_prune.tracing.filter_graph import (
    Adapter,
    Axis,
    Cost,
    FilterGraph,
    Form,
    Group,
    Layer,
    Member,
    Role,
)
from causal_prune.tracing.layer_rules import LayerRecord, TraceRecord


def graph_of(model: nn.Module, tracer: ChannelTracer, record: TraceRecord, images: int = 1) -> FilterGraph:
    """Build the graph from united and frozen labels.

    Args:
        model: The network that was run.
        tracer: What the run has left, with all ties made.
        record: What the layers were.
        images: Of the batch that was run.

    Returns:
        The graph, not proved yet.
    """
    dims = {name: _parameter_dim(tracer, name) for name in tracer.parameters}
    find, reason = tracer.sets.find, tracer.sets.reason
    costs = _costs(model, tracer, record, images)
    layers = {
        name: _layer(record.modules[name], layer, costs.pop(name)) for name, layer in record.layers.items()
    }
    roots_by_group = _roots_by_group(tracer, record, layers)
    groups: list[Group] = []
    rough = {find(label) for label in tracer.approximate}
    owners: dict[int, tuple[str, int]] = {}
    places = {root: (top, unit) for top, roots in roots_by_group.items() for unit, root in enumerate(roots)}
    members_of = _members(_lines(record, layers, tracer, dims), places)
    for top, roots in roots_by_group.items():
        units = {root: unit for unit, root in enumerate(roots)}
        members = tuple(members_of.get(top, ()))
        makers = [member.layer for member in members if member.role == "producer"]
        if not makers:
            continue
        name = makers[0]
        name = name if all(group.name != name for group in groups) else f"{name} ({len(groups)})"
        approximate = not units.keys().isdisjoint(rough) or any(
            record.layers[m.layer].approximate
            for m in members
            if m.layer in record.layers and m.role == "passenger"
        )
        groups.append(Group(name, len(roots), members, reason(roots[0]), approximate))
        owners |= {root: (name, unit) for root, unit in units.items() if reason(root) is None}
    groups.sort(key=lambda group: group.frozen is not None)
    adapters = tuple(_adapters(tracer, owners))
    return FilterGraph(
        layers,
        tuple(groups),
        _chain(model),
        _frozen_layers(tracer, record),
        adapters,
        record.trains_more,
        others=costs,
        uncounted=named_uncounted(tracer.uncounted),
        statistics=frozenset(tracer.statistics),
    )


def _roots_by_group(
    tracer: ChannelTracer, record: TraceRecord, layers: Mapping[str, Layer]
) -> dict[int, list[int]]:
    """The units of every group, in order: what one layer makes is one group, and its frozen part another one."""
    family: dict[int, int] = {}
    for name, layer in record.layers.items():
        if layers[name].inputs:
            _join(tracer, family, [tracer.sets.find(label) for label in layer.out_labels])
    found: dict[int, list[int]] = {}
    for root in sorted(family):
        found.setdefault(_top(family, root), []).append(root)
    return found


def _costs(model: nn.Module, tracer: ChannelTracer, record: TraceRecord, images: int) -> dict[str, Cost]:
    """What every layer costs, and what other modules and bare parameters do; shared parameters count once."""
    macs = {name: round(count / images) for name, count in tracer.macs.items()}
    params = dict.fromkeys(record.layers, 0)
    for name, parameter in model.named_parameters():
        owner = (
            name.partition(".parametrizations.")[0]
            if ".parametrizations." in name
            else name.rpartition(".")[0]
        )
        key = owner if owner in record.layers else name
        params[key] = params.get(key, 0) + parameter.numel()
    return {
        name: Cost(macs.get(name, 0), params.get(name, 0))
        for name in (*params, *(macs.keys() - params.keys()))
    }


def _adapters(tracer: ChannelTracer, owners: Mapping[int, tuple[str, int]]) -> Iterator[Adapter]:
    for border in tracer.crossings:
        before, after = tracer.regions.is_wide(border.before), tracer.regions.is_wide(border.after)
        owned = tuple(owners.get(tracer.sets.find(label)) for label in border.labels)
        if before != after and any(owner is not None for owner in owned):
            form: Form = "pick" if before else "restore"
            yield Adapter(border.module, border.side, border.leaf, border.dim, form, owned)


def _parameter_dim(tracer: ChannelTracer, name: str) -> int | None:
    """The dimension along which a bare parameter is cut; its channels are frozen where there is none."""
    known = tracer.parameters[name]
    assert known.ids is not None
    assert known.region is not None
    ids = known.ids
    roots = torch.tensor([tracer.sets.find(label) for label in ids.flatten().tolist()]).reshape(ids.shape)
    if bool((roots == ids).all()) or tracer.regions.is_wide(known.region):
        return None  # no channel of a layer meets it, or it meets all of them
    for dim in range(ids.dim()):
        flat = roots.movedim(dim, 0).reshape(ids.shape[dim], -1)
        if bool((flat == flat[:, :1]).all()):
            return dim
    tracer.sets.freeze(ids.flatten().tolist(), f"the parameter {name} cannot be cut along one dimension")
    return None


def _frozen_layers(tracer: ChannelTracer, record: TraceRecord) -> dict[str, str]:
    frozen: dict[str, str] = {}
    for name, module in record.modules.items():
        if not isinstance(module, MIXING):
            continue
        if name not in record.layers:
            frozen[name] = record.opaque.get(name, "not reached by the example input")
            continue
        labels = record.layers[name].out_labels
        reasons = [why for why in map(tracer.sets.reason, labels) if why is not None]
        if reasons:
            whole = len(reasons) == len(labels)
            frozen[name] = reasons[0] if whole else f"{len(reasons)} of its filters: {reasons[0]}"
    return frozen


def _top(family: dict[int, int], root: int) -> int:
    while family[root] != root:
        root = family[root]
    return root


def _join(tracer: ChannelTracer, family: dict[int, int], roots: list[int]) -> None:
    """Put the units of one producer into one group, its frozen ones into another."""
    free = [root for root in roots if tracer.sets.reason(root) is None]
    kept = [root for root in roots if tracer.sets.reason(root) is not None]
    for part in (free, kept):
        for root in part:
            family.setdefault(root, root)
            a, b = _top(family, part[0]), _top(family, root)
            family[max(a, b)] = min(a, b)


def _layer(module: nn.Module, record: LayerRecord, cost: Cost) -> Layer:
    groups = getattr(module, "groups", 1) if record.kind == "conv" else getattr(module, "num_groups", 1)
    return Layer(
        record.kind,
        len(record.out_labels),
        len(record.in_labels),
        record.grouping,
        groups,
        cost.macs,
        cost.params,
        tuple(sorted(record.parents)),
    )


@dataclass(frozen=True)
class _Line:
    """The channels of one axis of a layer, or of a bare parameter, and the part that it has in groups."""

    layer: str
    role: Role
    axis: Axis
    dim: int | None
    roots: tuple[int, ...]
    reads: bool = False


def _lines(
    record: TraceRecord, layers: Mapping[str, Layer], tracer: ChannelTracer, dims: Mapping[str, int | None]
) -> Iterator[_Line]:
    find = tracer.sets.find

    def roots(labels: Iterable[int]) -> tuple[int, ...]:
        return tuple(FIXED if label == FIXED else find(label) for label in labels)

    for name, known in record.layers.items():
        layer = layers[name]
        if known.region is not None and tracer.regions.is_wide(known.region) and not layer.inputs:
            continue  # it carries all channels
        passes_on = not layer.inputs or (layer.grouping == "blocks" and layer.inputs == layer.groups)
        yield _Line(name, "passenger" if passes_on else "consumer", "in", None, roots(known.in_labels))
        yield _Line(name, "passenger" if passes_on else "producer", "out", None, roots(known.out_labels))
    for name, dim in dims.items():
        ids = tracer.parameters[name].ids
        if dim is not None and isinstance(ids, Tensor):
            labels = ids.movedim(dim, 0).reshape(ids.shape[dim], -1)[:, 0].tolist()
            yield _Line(name, "passenger", "out", dim, roots(labels), name in tracer.reading)


def _members(lines: Iterable[_Line], units: Mapping[int, tuple[int, int]]) -> dict[int, list[Member]]:
    """The members of all groups, in order of execution.

    Args:
        lines: The axes of all layers.
        units: Group and unit of every root.

    Returns:
        Members by group.
    """
    found: dict[int, list[Member]] = {}
    for line in lines:
        parts: dict[int, tuple[list[int], list[int]]] = {}
        for place, root in enumerate(line.roots):
            if root != FIXED and root in units:
                group, unit = units[root]
                positions, of_units = parts.setdefault(group, ([], []))
                positions.append(place)
                of_units.append(unit)
        for group, (positions, of_units) in parts.items():
            known = (line.layer, line.role, line.axis, line.dim, len(line.roots))
            member = Member(*known, tuple(positions), tuple(of_units), line.reads)
            found.setdefault(group, []).append(member)
    return found


def _chain(model: nn.Module) -> dict[str, tuple[str, ...]]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return {name: (names[k - 1],) if k else () for k, name in enumerate(names)}
