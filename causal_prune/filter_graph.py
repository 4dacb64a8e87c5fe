"""The filter graph of a network: what can be cut together, who reads whom, and what is frozen and why."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from causal_prune.channel_labels import FIXED, Labels
from causal_prune.channel_tracer import ChannelTracer, Crossing, tensor_names
from causal_prune.errors import InputError
from causal_prune.graph_types import Adapter, FilterGraph, Form, Group, Layer, Member, Role
from causal_prune.layer_rules import LayerRecord, TraceRecord, labelling
from causal_prune.network.layer_kinds import MIXING
from causal_prune.network.running import (
    Inputs,
    call,
    copied,
    device_of,
    modes_kept,
    moved,
    seeded,
    tensors_in,
    train_without_statistics,
)
from causal_prune.operation_rules import rule_of
from causal_prune.trial_cuts import failing_groups

__all__ = ["Adapter", "FilterGraph", "Group", "Layer", "Member", "Role", "trace"]

OUTPUT = "produces an output of the network"


def trace(
    model: nn.Module, example_input: Inputs, *, freeze: Iterable[str] = (), prove: bool = True
) -> FilterGraph:
    """Find what can be cut together in a network, by running a copy of it.

    Channels are followed by labels through every operation below autograd (see `channel_tracer`), so index maps
    through concatenation, shuffling, flattening and grouped convolutions are exact. Functions that count channels by
    position (slices, shuffles, zero-padded shortcuts) keep all channels: what was cut is put back in front of them and
    picked out behind them. What is not understood is frozen with a reason. Then every group is proved by a trial cut
    (see `trial_cuts`), and frozen where the proof fails.

    Args:
        model: The network; it is not changed, and its mode, hooks and random state stay as they are.
        example_input: A tensor of shape (N, C, H, W), a tuple of positional arguments or a mapping of keyword
            arguments. One image is enough.
        freeze: Names of layers, or of modules that hold them, that must not be cut.
        prove: Whether trial cuts are made.

    Returns:
        The graph.

    Raises:
        InputError: If a name in `freeze` is no module, or the network does not run on the example.

    Cost: one forward pass and memory for one integer tensor beside every activation that lives; about eight further
        forward passes for the proof where nothing is wrong.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> [group.name for group in trace(net, torch.zeros(1, 3, 9, 9)).prunable]
        ['0']
    """
    names = dict(model.named_modules())
    unknown = [name for name in freeze if name not in names]
    if unknown:
        raise InputError(f"--freeze: there is no module {unknown[0]!r} in the model")
    _refuse(model, example_input)
    plain = copied(model).eval()
    inputs = moved(example_input, device_of(plain))
    graph = _traced(plain, inputs, tuple(freeze), cautious=False)
    failing = failing_groups(plain, graph, inputs) if prove and graph.prunable else {}
    if failing:
        # constants in the user's code may be what breaks: give every function all channels
        careful = _traced(plain, inputs, tuple(freeze), cautious=True)
        failing_there = failing_groups(plain, careful, inputs)
        if len(failing_there) < len(failing):
            graph, failing = careful, failing_there
    while failing:
        graph = graph.without(failing)
        failing = failing_groups(plain, graph, inputs) if graph.prunable else {}
    return graph


def _refuse(model: nn.Module, inputs: Inputs) -> None:
    """Name what cannot be traced instead of failing somewhere inside."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the model is a TorchScript module, whose code cannot be cut: pass the module it was made from"
        )
    if hasattr(model, "_orig_mod"):
        raise InputError("the model is compiled (torch.compile): pass the module inside, model._orig_mod")
    if any(tensor.is_meta for tensor in tensors_in(inputs)):
        raise InputError("the example input has no values (it is on the meta device): give one with numbers")
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if parameter.is_meta:
            raise InputError(
                f"the model has no values yet ({name} is on the meta device): load its weights first"
            )
    if any(bool(tensor.isnan().any()) for tensor in tensors_in(inputs) if tensor.is_floating_point()):
        raise InputError("the example input holds NaN, and trial cuts compare numbers: give one without")
    for name, parameter in model.named_parameters():
        if bool(parameter.isnan().any()):
            raise InputError(f"the model's {name} holds NaN: load its weights again")


def _traced(model: nn.Module, inputs: Inputs, freeze: tuple[str, ...], *, cautious: bool) -> FilterGraph:
    copy = copied(model)
    record = TraceRecord(dict(copy.named_modules()))
    tracer = ChannelTracer(tensor_names(copy), lambda func: rule_of(func, record), cautious=cautious)
    _run(copy, inputs, tracer, record)
    if record.unreached:
        _run_as_in_training(copy, inputs, tracer, record)
    _tie_shared_weights(tracer, record)
    _freeze_branches(tracer)
    for name, layer in record.layers.items():
        if any(name == frozen or name.startswith(f"{frozen}.") for frozen in freeze):
            tracer.sets.freeze(layer.out_labels, "frozen by the caller")
    _join_calls(tracer)
    _settle_regions(tracer, record)
    return _graph(model, tracer, record)


def _run(model: nn.Module, inputs: Inputs, tracer: ChannelTracer, record: TraceRecord) -> None:
    try:
        with (
            torch.no_grad(),
            seeded(0, device_of(model)),
            modes_kept(model),
            labelling(tracer, model, record),
            tracer,
        ):
            for tensor in tensors_in(inputs):
                tracer.note(tensor, Labels(data=True))
            outputs = call(model, inputs)
            for tensor in tensors_in(outputs):
                tracer.freeze(tracer.labels(tensor).ids, OUTPUT)
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the model does not run on an input of shape {shapes}: {first}") from error


def _run_as_in_training(model: nn.Module, inputs: Inputs, tracer: ChannelTracer, record: TraceRecord) -> None:
    """Follow the channels into heads that run only in training; they must fit after a cut as well."""
    record.counting = False
    train_without_statistics(model)
    try:
        _run(model, inputs, tracer, record)
    except InputError:
        return  # what cannot run on the example is not reached
    record.trains_more = True


def _freeze_branches(tracer: ChannelTracer) -> None:
    """Code that asks for values may do anything at the next image: what it handles keeps all channels."""
    for crossing in tracer.crossings:
        owners = {crossing.module, crossing.module.rpartition(".")[0]} if crossing.module else {""}
        for owner in owners & tracer.branching:
            place = f" in {owner}" if owner else ""
            tracer.sets.freeze(crossing.labels, f"a branch or a number depends on the images{place}")


def _tie_shared_weights(tracer: ChannelTracer, record: TraceRecord) -> None:
    """Layers that share one weight are cut alike."""
    owners: dict[int, str] = {}
    for name, module in record.modules.items():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        first = owners.setdefault(id(weight), name)
        if first == name:
            continue
        reason = f"shares its weight with {first}"
        known, other = record.layers.get(first), record.layers.get(name)
        if known is None or other is None:
            for layer in (known, other):
                if layer is not None:
                    tracer.sets.freeze((*layer.out_labels, *layer.in_labels), reason)
            continue
        pairs = [(known.out_labels, other.out_labels), (known.in_labels, other.in_labels)]
        if bool(getattr(module, "transposed", False)) != bool(
            getattr(record.modules[first], "transposed", False)
        ):
            pairs = [(known.out_labels, other.in_labels), (known.in_labels, other.out_labels)]
        for left, right in pairs:
            if len(left) != len(right):  # the shared weight stands for different axes: grouped against dense
                tracer.sets.freeze((*left, *right), reason)
            for a, b in zip(left, right, strict=False):
                tracer.sets.unite(a, b, reason)


def _join_calls(tracer: ChannelTracer) -> None:
    """Let all calls of a module meet its borders in one form; a border that differs from call to call is none."""
    calls: dict[tuple[str, str, int], list[Crossing]] = {}
    for crossing in tracer.crossings:
        calls.setdefault((crossing.module, crossing.side, crossing.leaf), []).append(crossing)
    tracer.crossings = []
    for crossings in calls.values():
        first, *others = crossings
        alike = {(c.dim, tuple(tracer.sets.find(label) for label in c.labels)) for c in crossings}
        for other in others if len(alike) == 1 else ():
            tracer.regions.unite(first.before, other.before)
            tracer.regions.unite(first.after, other.after)
        if len(alike) == 1:
            tracer.crossings.append(first)
        else:
            for crossing in crossings:
                tracer.regions.unite(crossing.before, crossing.after)


def _settle_regions(tracer: ChannelTracer, record: TraceRecord) -> None:
    """Freeze what a layer would read cut where it must stay whole, and spare pairs of adapters."""
    regions = tracer.regions
    for region, labels in record.cut_regions:
        if regions.is_wide(region):
            tracer.sets.freeze(
                labels, "a function that counts channels by position stands directly beside the layer"
            )
    cut = {regions.find(region) for region, _ in record.cut_regions}
    borders = [(c.before, c.after) for c in tracer.crossings if _moves(tracer, c)]
    changed = True
    while changed:
        changed = False
        votes: dict[int, int] = {}
        for before, after in borders:
            a, b = regions.find(before), regions.find(after)
            if a != b:
                votes[a] = votes.get(a, 0) + (1 if regions.is_wide(b) else -1)
                votes[b] = votes.get(b, 0) + (1 if regions.is_wide(a) else -1)
        for region, vote in votes.items():
            if vote > 0 and region not in cut and not regions.is_wide(region):
                regions.widen(region)
                changed = True


def _moves(tracer: ChannelTracer, crossing: Crossing) -> bool:
    """Whether any of the channels that cross may be cut."""
    return any(label != FIXED and tracer.sets.reason(label) is None for label in crossing.labels)


def _graph(model: nn.Module, tracer: ChannelTracer, record: TraceRecord) -> FilterGraph:
    dims = {name: _parameter_dim(tracer, name) for name in tracer.parameters}
    find, reason = tracer.sets.find, tracer.sets.reason
    layers = {name: _layer(record.modules[name], layer) for name, layer in record.layers.items()}
    family: dict[int, int] = {}
    for name, layer in record.layers.items():
        if layers[name].inputs:
            _join(tracer, family, [find(label) for label in layer.out_labels])
    roots_by_group: dict[int, list[int]] = {}
    for root in sorted(family):
        roots_by_group.setdefault(_top(family, root), []).append(root)
    groups: list[Group] = []
    owners: dict[int, tuple[str, int]] = {}
    for roots in roots_by_group.values():
        units = {root: unit for unit, root in enumerate(roots)}
        members = tuple(_members(record, layers, tracer, dims, units))
        makers = [member.layer for member in members if member.role == "producer"]
        if not makers:
            continue
        name = makers[0]
        name = name if all(group.name != name for group in groups) else f"{name} ({len(groups)})"
        approximate = any(
            record.layers[m.layer].approximate
            for m in members
            if m.layer in record.layers and m.role == "passenger"
        )
        groups.append(Group(name, len(roots), members, reason(roots[0]), approximate))
        owners |= {root: (name, unit) for root, unit in units.items() if reason(root) is None}
    groups.sort(key=lambda group: group.frozen is not None)
    adapters = tuple(_adapters(tracer, owners))
    return FilterGraph(
        layers, tuple(groups), _chain(model), _frozen_layers(tracer, record), adapters, record.trains_more
    )


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


def _layer(module: nn.Module, record: LayerRecord) -> Layer:
    groups = getattr(module, "groups", 1) if record.kind == "conv" else getattr(module, "num_groups", 1)
    return Layer(
        record.kind,
        len(record.out_labels),
        len(record.in_labels),
        record.grouping,
        groups,
        record.macs,
        sum(p.numel() for p in module.parameters(recurse=False)),
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
                yield Member(name, "passenger", "out", dim, len(labels), positions, of_units)


def _chain(model: nn.Module) -> dict[str, tuple[str, ...]]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return {name: (names[k - 1],) if k else () for k, name in enumerate(names)}
