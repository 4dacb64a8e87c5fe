"""The filter graph from the labels that a trace has left."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from causal_prune.network.layer_kinds import MIXING
from causal_prune.network.operation_costs import named_uncounted
from causal_prune.tracing.channel_labels import FIXED
from causal_prune.tracing.channel_tracer import ChannelTracer
from causal_prune.tracing.filter_graph import Adapter, Cost, FilterGraph, Form, Group, Layer, Member, Role
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
    family: dict[int, int] = {}
    for name, layer in record.layers.items():
        if layers[name].inputs:
            _join(tracer, family, [find(label) for label in layer.out_labels])
    roots_by_group: dict[int, list[int]] = {}
    for root in sorted(family):
        roots_by_group.setdefault(_top(family, root), []).append(root)
    groups: list[Group] = []
    rough = {find(label) for label in tracer.approximate}
    owners: dict[int, tuple[str, int]] = {}
    for roots in roots_by_group.values():
        units = {root: unit for unit, root in enumerate(roots)}
        members = tuple(_members(record, layers, tracer, dims, units))
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


def _members(
    record: TraceRecord,
    layers: Mapping[str, Layer],
    tracer: ChannelTracer,
    dims: Mapping[str, int | None],
    units: Mapping[int, int],
) -> Iterator[Member]:
    def owned(labels: Iterable[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        found = [
            (place, units[root])
            for place, label in enumerate(labels)
            if label != FIXED and (root := tracer.sets.find(label)) in units
        ]
        return tuple(place for place, _ in found), tuple(unit for _, unit in found)

    for name, known in record.layers.items():
        layer = layers[name]
        if known.region is not None and tracer.regions.is_wide(known.region) and not layer.inputs:
            continue  # it carries all channels
        depthwise = layer.grouping == "blocks" and layer.inputs == layer.groups
        for axis, labels in (("in", known.in_labels), ("out", known.out_labels)):
            positions, of_units = owned(labels)
            if positions:
                mixes: Role = "consumer" if axis == "in" else "producer"
                role: Role = "passenger" if depthwise or not layer.inputs else mixes
                yield Member(
                    name, role, "in" if axis == "in" else "out", None, len(labels), positions, of_units
                )
    for name, dim in dims.items():
        ids = tracer.parameters[name].ids
        if dim is not None and isinstance(ids, Tensor):
            labels = ids.movedim(dim, 0).reshape(ids.shape[dim], -1)[:, 0].tolist()
            positions, of_units = owned(labels)
            if positions:
                yield Member(
                    name, "passenger", "out", dim, len(labels), positions, of_units, name in tracer.reading
                )


def _chain(model: nn.Module) -> dict[str, tuple[str, ...]]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return {name: (names[k - 1],) if k else () for k, name in enumerate(names)}
