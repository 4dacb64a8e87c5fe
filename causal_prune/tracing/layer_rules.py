"""What layers do with channel labels: those that mix read them and hand out new ones, the others carry them on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle

from causal_prune.network.layer_kinds import (
    CARRYING,
    MIXING,
    Grouping,
    Kind,
    computes_its_weight,
    computes_what_its_type_says,
)
from causal_prune.network.layer_twins import weight_in_use
from causal_prune.tracing.channel_labels import FIXED, Labels, compact, varying_dims
from causal_prune.tracing.channel_tracer import PRODUCTS, ChannelTracer, Operation, tensors


@dataclass
class LayerRecord:
    """What one layer read and wrote during the trace.

    Attributes:
        kind: What the layer is.
        region: Region of the tensors that the layer carries channels in; None for layers that mix.
        grouping: "dense" for one group; else how its groups may be cut.
        out_labels: Label of every filter, or of every channel that a normalisation carries.
        in_labels: Label of every input channel that the layer mixes; empty for layers that mix nothing.
        parents: Layers whose outputs reach it without passing another one.
        approximate: Whether a cut changes the layer's statistics over channels.
    """

    kind: Kind
    region: int | None = None
    grouping: Grouping = "dense"
    out_labels: list[int] = field(default_factory=list)
    in_labels: list[int] = field(default_factory=list)
    parents: set[str] = field(default_factory=set)
    approximate: bool = False


@dataclass
class TraceRecord:
    """What all layers of a network did during the trace.

    Attributes:
        modules: The network's modules by name.
        layers: Records by layer name, in order of execution.
        cut_regions: Regions whose tensors a layer reads or writes cut, with the labels that it reads or writes.
        opaque: Why a layer that ran is not understood, by name.
        counting: Whether parents are taken down.
        trains_more: Whether the network was run as in training as well.
        unbatched: Whether a layer has read a single image, without a dimension for the batch.
    """

    modules: Mapping[str, nn.Module]
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    cut_regions: list[tuple[int, list[int]]] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)
    counting: bool = True
    trains_more: bool = False
    unbatched: bool = False

    @property
    def unreached(self) -> list[str]:
        """Layers that have not run."""
        known = (*MIXING, *CARRYING)
        met = self.layers.keys() | self.opaque.keys()
        return [n for n, module in self.modules.items() if isinstance(module, known) and n not in met]


@contextmanager
def labelling(tracer: ChannelTracer, model: nn.Module, record: TraceRecord) -> Iterator[None]:
    """Record every layer of `model` that runs inside the block, and every border that channels cross.

    Args:
        tracer: Where labels are kept.
        model: The network.
        record: Filled.

    Yields:
        Nothing; the hooks are gone at the end of the block.
    """
    outside: list[list[tuple[Tensor, Labels]]] = []

    layers = {
        name
        for name, module in model.named_modules()
        if computes_what_its_type_says(module) or weight_in_use(module) is not None
    }

    def enter(module: nn.Module, name: str, arguments: Any) -> None:
        tracer.stack.append(name)
        tracer.inside_layer += name in layers
        leaves = _tensor_leaves(arguments)
        outside.append([(tensor, tracer.labels(tensor)) for _, tensor in leaves])
        for leaf, tensor in leaves:
            tracer.cross("in", name, leaf, tensor)

    def ran(module: nn.Module, name: str, source: Tensor | None, out: Any) -> None:
        if name in layers:
            tracer.inside_layer -= 1
            if source is not None:
                record_layer(tracer, record, name, module, source, out)

    def leave(name: str, out: Any) -> None:
        arguments = outside.pop()
        data = any(known.data for _, known in arguments)
        results = [(leaf, tensor, tracer.labels(tensor)) for leaf, tensor in _tensor_leaves(out)]
        for tensor, known in arguments:
            tracer.note(tensor, known)
        for leaf, tensor, known in results:
            tracer.note(tensor, replace(known, data=known.data or data))
            tracer.cross("out", name, leaf, tensor)
        tracer.stack.pop()

    with _hooks(model, enter, ran, leave):
        yield


@contextmanager
def _hooks(model: nn.Module, enter: Any, ran: Any, leave: Any) -> Iterator[None]:
    """Hooks directly around what the modules compute (`enter`, `ran`), and behind hooks of the user's (`leave`)."""

    def before(module: nn.Module, args: Any, kwargs: Any, *, name: str) -> None:
        with _disable_current_modes():
            enter(module, name, (args, kwargs))

    def between(module: nn.Module, args: Any, kwargs: Any, out: Any, *, name: str) -> None:
        found = tensors((args, kwargs))
        with _disable_current_modes():
            ran(module, name, found[0] if found else None, out)

    def after(module: nn.Module, args: Any, out: Any, *, name: str) -> None:
        with _disable_current_modes():
            leave(name, out)

    handles: list[RemovableHandle] = []
    try:
        for name, module in model.named_modules():
            if "parametrizations" in name.split("."):
                continue  # makes a weight of a layer
            handles += (
                module.register_forward_pre_hook(
                    partial(before, name=name), prepend=computes_its_weight(module), with_kwargs=True
                ),
                module.register_forward_hook(partial(between, name=name), prepend=True, with_kwargs=True),
                module.register_forward_hook(partial(after, name=name)),
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensor_leaves(tree: Any) -> list[tuple[int, Tensor]]:
    leaves = torch.utils._pytree.tree_leaves(tree)
    return [(position, leaf) for position, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]


def record_operation(op: Operation, record: TraceRecord) -> bool:
    """Record a layer that is called as a function by its own module: a subclass with a forward of its own.

    Args:
        op: A convolution or normalisation operation.
        record: Filled.

    Returns:
        Whether the running module is a known kind of layer. Where the operation uses another weight than the module's
        own, what it reads is frozen.
    """
    if not any(op.tracer.labels(tensor).data for tensor in op.inputs):
        return False  # makes a weight
    name = op.tracer.stack[-1] if op.tracer.stack else ""
    module = record.modules.get(name)
    if not isinstance(module, (*MIXING, *CARRYING)):
        return False
    weight = getattr(module, "weight", None)
    if op.name in PRODUCTS and not isinstance(module, nn.Linear):
        return False
    if op.name in PRODUCTS and isinstance(weight, Tensor):
        first, second, _ = PRODUCTS[op.name]
        if _is_transposed(op.args[second], weight):
            record_layer(op.tracer, record, name, module, op.args[first], tensors(op.out)[0])
            return True
        return False
    if weight is None or not any(tensor is weight for tensor in op.inputs):
        record.opaque[name] = "computes with a weight of its own making"
        for tensor in op.inputs:
            op.freeze(op.tracer.labels(tensor).ids, "read by a layer that makes its own weight")
        for tensor in tensors(op.out):
            op.tracer.note(tensor, Labels(None, frozenset((name,))))
        return True
    record_layer(op.tracer, record, name, module, op.args[0], tensors(op.out)[0])
    for extra in tensors(op.out)[1:]:
        op.tracer.note(extra, Labels())
    return True


def _is_transposed(tensor: Tensor, weight: Tensor) -> bool:
    """Whether a tensor is a view of the weight of a linear layer with inputs in front."""
    return (
        tensor.dim() == 2
        and tensor.shape == weight.shape[::-1]
        and tensor.stride() == weight.stride()[::-1]
        and tensor.data_ptr() == weight.data_ptr()
    )


def record_layer(
    tracer: ChannelTracer, record: TraceRecord, name: str, module: nn.Module, source: Tensor, out: Tensor
) -> None:
    """Read the labels at a layer's input, write those of its output.

    Args:
        tracer: Where labels are kept.
        record: The record so far; a second call of the same layer ties its inputs to those of the first.
        name: Name of the layer.
        module: The layer.
        source: Its input.
        out: Its output.
    """
    known = tracer.labels(source)
    if isinstance(module, MIXING):
        _record_mixing(tracer, record, name, module, source, out)
        return
    per_channel = not (isinstance(module, nn.PReLU) and module.num_parameters == 1)
    if known.ids is not None and per_channel:
        _record_carrying(tracer, record, name, module, known)
    tracer.note(out, known)


def _record_carrying(
    tracer: ChannelTracer, record: TraceRecord, name: str, module: nn.Module, known: Labels
) -> None:
    assert known.ids is not None
    normalised = len(module.normalized_shape) if isinstance(module, nn.LayerNorm) else 0
    channel = known.ids.dim() - 1 if normalised else 1
    if normalised > 1:
        tracer.freeze(known.ids, "normalised together with space")
    labels = _channels(tracer, known.ids, channel)
    first = name not in record.layers
    layer = record.layers.setdefault(name, LayerRecord("prelu" if isinstance(module, nn.PReLU) else "norm"))
    if layer.region is not None and known.region is not None:
        tracer.regions.unite(layer.region, known.region)
    layer.region = known.region
    _tie(tracer, layer.out_labels, labels, name)
    if first:
        layer.out_labels = labels
        layer.approximate = isinstance(module, nn.LayerNorm | nn.GroupNorm)
        if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
            layer.grouping = _couple_blocks(tracer, labels, None, module.num_groups)


def _record_mixing(
    tracer: ChannelTracer, record: TraceRecord, name: str, module: nn.Module, source: Tensor, out: Tensor
) -> None:
    linear = isinstance(module, nn.Linear)
    channel = source.dim() - 1 if linear else source.dim() - 1 - len(module.kernel_size)  # type: ignore[arg-type]
    known = tracer.labels(source)
    read = _channels(tracer, known.ids, channel) if known.ids is not None else [FIXED] * source.shape[channel]
    first = name not in record.layers
    layer = record.layers.setdefault(name, LayerRecord("linear" if linear else "conv"))
    record.unbatched |= channel == 0 and known.data
    if record.counting:
        layer.parents |= known.parents
    _tie(tracer, layer.in_labels, read, name)
    if first:
        layer.in_labels = read
        layer.out_labels = tracer.sets.fresh(out.shape[channel]).tolist()
        groups = 1 if linear else int(module.groups)  # type: ignore[arg-type]
        if groups > 1:
            layer.grouping = _couple_blocks(tracer, read, layer.out_labels, groups)
    if known.region is not None:
        record.cut_regions.append((known.region, layer.in_labels))
    shape = [1] * out.dim()
    shape[channel] = -1
    region = tracer.regions.fresh()
    record.cut_regions.append((region, layer.out_labels))
    ids = torch.tensor(layer.out_labels).reshape(shape).expand(out.shape)
    tracer.note(out, Labels(ids, frozenset((name,)), region))


def _channels(tracer: ChannelTracer, ids: Tensor, channel: int) -> list[int]:
    """Labels along the channel dimension; what shares a channel, for example after a pixel shuffle, is united."""
    along = ids.movedim(channel, 0)
    rows = compact(along)
    rows = rows.reshape(rows.shape[0], -1).expand(along.shape[0], -1)
    if set(varying_dims(ids)) - {channel}:
        for row in rows.tolist():
            for other in set(row[1:]) - {row[0]}:
                tracer.sets.unite(
                    row[0], other, f"shares a channel with others that cannot be removed{tracer.where()}"
                )
    return list(rows[:, 0].tolist())


def _tie(tracer: ChannelTracer, first: list[int], second: list[int], name: str) -> None:
    for a, b in zip(first, second, strict=False):
        if a != b:
            tracer.sets.unite(a, b, f"the layer {name} also reads channels that cannot be removed")


def _couple_blocks(
    tracer: ChannelTracer, read: list[int], written: list[int] | None, groups: int
) -> Grouping:
    """Couple the channels of a grouped layer so that its groups stay equal.

    Whole blocks go (input channels with the filters that read them) where that leaves more units than
    removing the same position from every block does.
    """
    inside = len(read) // groups
    reason = "one group of a grouped convolution reads channels that cannot be removed"
    if groups >= inside:
        outside = len(written) // groups if written is not None else 0
        for block in range(groups):
            members = read[block * inside : (block + 1) * inside]
            members = members + (
                written[block * outside : (block + 1) * outside] if written is not None else []
            )
            for other in members[1:]:
                tracer.sets.unite(members[0], other, reason)
        return "blocks"
    for labels in (read, written or []):
        size = len(labels) // groups
        for position, label in enumerate(labels):
            if position >= size:
                tracer.sets.unite(labels[position % size], label, reason)
    return "positions"
