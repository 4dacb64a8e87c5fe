"""The filter graph of a network: what can be cut together, who reads whom, and what is frozen and why."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from causal_prune.batches import Inputs, call, modes_kept, seeded, tensors_in
from causal_prune.channel_labels import FIXED
from causal_prune.channel_tracer import ChannelTracer, tensor_names
from causal_prune.errors import InputError
from causal_prune.layer_rules import MIXING, Grouping, Kind, LayerRecord, labelling
from causal_prune.operation_rules import rule_of

Role = Literal["producer", "passenger", "consumer"]
Axis = Literal["out", "in"]


@dataclass(frozen=True)
class Member:
    """A layer's part in a group.

    Attributes:
        layer: Name of the layer, or of the parameter where it belongs to no known layer.
        role: "producer" makes the channels, "passenger" carries them, "consumer" reads and mixes them.
        axis: Whether the group's channels are the layer's filters ("out") or its inputs ("in").
        dim: For a bare parameter the dimension that holds the channels; else None.
        extent: Size of the axis.
        positions: Indices along the axis that belong to the group.
        units: The unit of each position, of the same length; a unit may hold several positions.
    """

    layer: str
    role: Role
    axis: Axis
    dim: int | None
    extent: int
    positions: tuple[int, ...]
    units: tuple[int, ...]

    def positions_of(self, kept: Iterable[int]) -> list[int]:
        """Positions that belong to some units.

        Args:
            kept: Units of the group.

        Returns:
            Ascending indices along the axis.
        """
        wanted = set(kept)
        return sorted(p for p, u in zip(self.positions, self.units, strict=True) if u in wanted)


@dataclass(frozen=True)
class Group:
    """Channels that must be cut together.

    Attributes:
        name: The first producer.
        size: Number of units.
        members: Every layer that has a part in it.
        frozen: Why none of it may be cut; None where it is prunable.
        approximate: Whether a normalisation over channels makes a cut differ from silencing.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    frozen: str | None
    approximate: bool = False

    def of_role(self, role: Role) -> tuple[Member, ...]:
        """Members with one role.

        Args:
            role: The role.

        Returns:
            The members in order of execution.
        """
        return tuple(member for member in self.members if member.role == role)


@dataclass(frozen=True)
class Layer:
    """What the plan and the scores need to know of a layer.

    Attributes:
        kind: "conv", "linear", "norm" or "prelu".
        filters: Output channels, or the channels that a normalisation carries.
        inputs: Input channels; 0 for layers that mix nothing.
        grouping: "dense", or how a grouped layer is cut: whole "blocks" or equal "positions" of every block.
        groups: Number of groups of a grouped convolution; 1 otherwise.
        macs: Multiply-accumulates for one image.
        params: Number of weights and biases.
        parents: Convolutions and linear layers whose outputs reach it without passing another one.
    """

    kind: Kind
    filters: int
    inputs: int
    grouping: Grouping
    groups: int
    macs: int
    params: int
    parents: tuple[str, ...]


@dataclass(frozen=True)
class FilterGraph:
    """The result of `trace`.

    Attributes:
        layers: Convolutions, linear and normalisation layers by name, in order of execution.
        groups: Prunable groups first, then frozen ones.
        chain: Parent of each convolution as the documented method pretends: the one registered before it.
        frozen: Reason by name, for every layer of which at least one filter is never cut.
    """

    layers: Mapping[str, Layer]
    groups: tuple[Group, ...]
    chain: Mapping[str, tuple[str, ...]]
    frozen: Mapping[str, str]

    @property
    def prunable(self) -> tuple[Group, ...]:
        """The groups that may be cut."""
        return tuple(group for group in self.groups if group.frozen is None)

    def parents(self, kind: Literal["graph", "chain"]) -> dict[str, tuple[str, ...]]:
        """Parents of every convolution and linear layer.

        Args:
            kind: "graph" for the true parents, "chain" for the documented ones.

        Returns:
            Names of the parents by name.
        """
        if kind == "chain":
            return dict(self.chain)
        return {name: layer.parents for name, layer in self.layers.items() if layer.inputs}

    def to_json(self) -> dict[str, Any]:
        """The graph as plain values: what `causal-prune inspect --json` prints.

        Returns:
            Dictionaries, lists, strings and numbers.
        """
        return {
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "groups": [asdict(group) for group in self.groups],
            "chain": {name: list(parents) for name, parents in self.chain.items()},
            "frozen": dict(self.frozen),
        }


def trace(model: nn.Module, example_input: Inputs, *, freeze: Iterable[str] = ()) -> FilterGraph:
    """Find what can be cut together in a network, by running a copy of it once.

    Channels are followed by labels through every operation below autograd (see `channel_tracer`), so index maps
    through concatenation, flattening and grouped convolutions are exact, and what is not understood is frozen
    with a reason.

    Args:
        model: The network; it is not changed, and its mode, hooks and random state stay as they are.
        example_input: A tensor of shape (N, C, H, W), a tuple of positional arguments or a mapping of keyword
            arguments. One image is enough.
        freeze: Names of layers, or of modules that hold them, that must not be cut.

    Returns:
        The graph.

    Raises:
        InputError: If a name in `freeze` is no module, or the network does not run on the example.

    Cost: one forward pass, and memory for one integer tensor beside every activation that lives.

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
    copied = copy.deepcopy(model).eval()
    tracer = ChannelTracer(tensor_names(copied), rule_of)
    records: dict[str, LayerRecord] = {}
    _run(copied, example_input, tracer, records)
    modules = dict(copied.named_modules())
    _tie_shared_weights(tracer, modules, records)
    dims = {name: _parameter_dim(tracer, name, ids) for name, ids in tracer.parameters.items()}
    for name, record in records.items():
        if any(name == frozen or name.startswith(f"{frozen}.") for frozen in freeze):
            tracer.sets.freeze(record.out_labels, "frozen by the caller")
    return _graph(model, modules, tracer, records, dims)


def _run(model: nn.Module, inputs: Inputs, tracer: ChannelTracer, records: dict[str, LayerRecord]) -> None:
    try:
        with torch.no_grad(), seeded(0), modes_kept(model), labelling(tracer, model, records), tracer:
            outputs = call(model, inputs)
            for tensor in tensors_in(outputs):
                tracer.freeze(tracer.labels(tensor).ids, "produces an output of the network")
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"the model does not run on an input of shape {shapes}: {first}") from error


def _tie_shared_weights(
    tracer: ChannelTracer, modules: Mapping[str, nn.Module], records: Mapping[str, LayerRecord]
) -> None:
    """Layers that share one weight are cut alike."""
    owners: dict[int, str] = {}
    for name, module in modules.items():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        first = owners.setdefault(id(weight), name)
        if first == name:
            continue
        known, other = records.get(first), records.get(name)
        if known is None or other is None:
            for record in (known, other):
                if record is not None:
                    tracer.sets.freeze(
                        (*record.out_labels, *record.in_labels), f"shares its weight with {first}"
                    )
            continue
        for a, b in (
            *zip(known.out_labels, other.out_labels, strict=True),
            *zip(known.in_labels, other.in_labels, strict=True),
        ):
            tracer.sets.unite(a, b, f"shares its weight with {first}")


def _parameter_dim(tracer: ChannelTracer, name: str, ids: Tensor) -> int | None:
    """The dimension along which a bare parameter can be cut; its channels are frozen where there is none."""
    roots = torch.tensor([tracer.sets.find(label) for label in ids.reshape(-1).tolist()]).reshape(ids.shape)
    if bool((roots == ids).all()):
        return None  # no channel of a layer meets it
    for dim in range(ids.dim()):
        flat = roots.movedim(dim, 0).reshape(ids.shape[dim], -1)
        if bool((flat == flat[:, :1]).all()):
            return dim
    tracer.sets.freeze(ids.reshape(-1).tolist(), f"the parameter {name} cannot be cut along one dimension")
    return None


def _graph(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    tracer: ChannelTracer,
    records: Mapping[str, LayerRecord],
    dims: Mapping[str, int | None],
) -> FilterGraph:
    find, reason = tracer.sets.find, tracer.sets.reason
    layers = {name: _layer(modules[name], record) for name, record in records.items()}
    producers = {name: record for name, record in records.items() if layers[name].inputs}
    family: dict[int, int] = {}
    for record in producers.values():
        _join(
            family, [find(label) for label in record.out_labels], frozen=lambda root: reason(root) is not None
        )
    roots_by_group: dict[int, list[int]] = {}
    for root in sorted(family):
        roots_by_group.setdefault(_top(family, root), []).append(root)
    groups = []
    for roots in roots_by_group.values():
        units = {root: unit for unit, root in enumerate(roots)}
        members = tuple(_members(records, layers, tracer, dims, units))
        if not any(member.role == "producer" for member in members):
            continue
        name = next(member.layer for member in members if member.role == "producer")
        approximate = any(
            records[m.layer].approximate for m in members if m.layer in records and m.role == "passenger"
        )
        groups.append(Group(name, len(roots), members, reason(roots[0]), approximate))
    groups.sort(key=lambda group: group.frozen is not None)
    return FilterGraph(layers, tuple(groups), _chain(model), _frozen_layers(modules, tracer, records))


def _frozen_layers(
    modules: Mapping[str, nn.Module], tracer: ChannelTracer, records: Mapping[str, LayerRecord]
) -> dict[str, str]:
    frozen: dict[str, str] = {}
    for name, module in modules.items():
        if not isinstance(module, MIXING):
            continue
        if name not in records:
            frozen[name] = "not reached by the example input"
            continue
        reasons = [why for why in map(tracer.sets.reason, records[name].out_labels) if why is not None]
        if reasons:
            whole = len(reasons) == len(records[name].out_labels)
            frozen[name] = reasons[0] if whole else f"{len(reasons)} of its filters: {reasons[0]}"
    return frozen


def _top(family: dict[int, int], root: int) -> int:
    while family[root] != root:
        root = family[root]
    return root


def _join(family: dict[int, int], roots: list[int], *, frozen: Any) -> None:
    """Put the units of one producer into one group, its frozen ones into another."""
    for part in ([r for r in roots if not frozen(r)], [r for r in roots if frozen(r)]):
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
    records: Mapping[str, LayerRecord],
    layers: Mapping[str, Layer],
    tracer: ChannelTracer,
    dims: Mapping[str, int | None],
    units: Mapping[int, int],
) -> Iterator[Member]:
    for name, record in records.items():
        layer = layers[name]
        depthwise = layer.grouping == "blocks" and layer.inputs == layer.groups
        for axis, labels in (("in", record.in_labels), ("out", record.out_labels)):
            found = [
                (p, units[root])
                for p, label in enumerate(labels)
                if label != FIXED and (root := tracer.sets.find(label)) in units
            ]
            if found:
                role: Role = (
                    "passenger"
                    if depthwise or not layer.inputs
                    else "consumer"
                    if axis == "in"
                    else "producer"
                )
                positions, owners = zip(*found, strict=True)
                yield Member(
                    name, role, "in" if axis == "in" else "out", None, len(labels), positions, owners
                )
    for name, dim in dims.items():
        if dim is not None:
            flat = tracer.parameters[name].movedim(dim, 0).flatten(1)[:, 0].tolist()
            found = [
                (p, units[root]) for p, label in enumerate(flat) if (root := tracer.sets.find(label)) in units
            ]
            if found:
                positions, owners = zip(*found, strict=True)
                yield Member(name, "passenger", "out", dim, len(flat), positions, owners)


def _chain(model: nn.Module) -> dict[str, tuple[str, ...]]:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    return {name: (names[k - 1],) if k else () for k, name in enumerate(names)}
