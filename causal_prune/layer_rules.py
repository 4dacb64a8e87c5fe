"""What layers do with channel labels: those that mix read them and hand out new ones, the others carry them on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from causal_prune.channel_labels import FIXED, Labels, compact, varying_dims
from causal_prune.channel_tracer import ChannelTracer

Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
InstanceNorm = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
MIXING = (*Convolution, nn.Linear)
CARRYING = (*BatchNorm, *InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)

Kind = Literal["conv", "linear", "norm", "prelu"]
Grouping = Literal["dense", "blocks", "positions"]
"""How a grouped convolution is cut: whole blocks with their filters, or the same positions in every block."""


@dataclass
class LayerRecord:
    """What one layer read and wrote during the trace.

    Attributes:
        kind: What the layer is.
        grouping: "dense" for one group; else how its groups may be cut.
        out_labels: Label of every filter, or of every channel that a normalisation carries.
        in_labels: Label of every input channel that the layer mixes; empty for layers that mix nothing.
        parents: Layers whose outputs reach it without passing another one.
        macs: Multiply-accumulates for one image, over all calls.
        calls: How often the layer ran.
        approximate: Whether a cut changes the layer's statistics over channels.
    """

    kind: Kind
    grouping: Grouping = "dense"
    out_labels: list[int] = field(default_factory=list)
    in_labels: list[int] = field(default_factory=list)
    parents: set[str] = field(default_factory=set)
    macs: int = 0
    calls: int = 0
    approximate: bool = False


def follows_standard_forward(module: nn.Module) -> bool:
    """Whether a module is a known layer that computes what its type says.

    Args:
        module: Any module.

    Returns:
        False for other modules, and for subclasses with a forward of their own.
    """
    for known in (*MIXING, *CARRYING):
        if isinstance(module, known):
            return type(module).forward is known.forward and not _computed_weight(module)
    return False


def _computed_weight(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or not isinstance(
        getattr(module, "weight", None), (nn.Parameter, type(None))
    )


@contextmanager
def labelling(tracer: ChannelTracer, model: nn.Module, records: dict[str, LayerRecord]) -> Iterator[None]:
    """Record every layer of `model` that runs inside the block.

    Args:
        tracer: Where labels are kept.
        model: The network.
        records: Filled by layer name, in order of execution.

    Yields:
        Nothing; the hooks are gone at the end of the block.
    """
    handles = []

    def enter(module: nn.Module, name: str) -> None:
        tracer.stack.append(name)
        tracer.inside_layer += follows_standard_forward(module)

    def leave(module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if follows_standard_forward(module):
            tracer.inside_layer -= 1
            source = args[0] if args else kwargs["input"]
            with torch.utils._python_dispatch._disable_current_modes():
                record_layer(tracer, records, name, module, source, out)
        tracer.stack.pop()

    try:
        for name, module in model.named_modules():
            handles.append(
                module.register_forward_pre_hook(lambda m, _, name=name: enter(m, name), prepend=True)
            )
            handles.append(
                module.register_forward_hook(
                    lambda m, a, k, out, name=name: leave(m, name, a, k, out), with_kwargs=True
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()


def record_layer(
    tracer: ChannelTracer,
    records: dict[str, LayerRecord],
    name: str,
    module: nn.Module,
    source: Tensor,
    out: Tensor,
) -> None:
    """Read the labels at a layer's input, write those of its output.

    Args:
        tracer: Where labels are kept.
        records: The records so far; a second call of the same layer ties its inputs to those of the first.
        name: Name of the layer.
        module: The layer.
        source: Its input.
        out: Its output.
    """
    known = tracer.labels(source)
    if isinstance(module, MIXING):
        _record_mixing(tracer, records, name, module, source, out)
        return
    channel = source.dim() - 1 if isinstance(module, nn.LayerNorm) else 1
    shared = isinstance(module, nn.PReLU) and module.num_parameters == 1
    if known.ids is not None and not shared:
        labels = _channels(tracer, known.ids, channel)
        record = records.setdefault(name, LayerRecord("prelu" if isinstance(module, nn.PReLU) else "norm"))
        record.calls += 1
        _tie(tracer, record.out_labels, labels, name)
        record.out_labels = record.out_labels or labels
        record.approximate = isinstance(module, (nn.LayerNorm, nn.GroupNorm))
        if isinstance(module, nn.LayerNorm) and len(module.normalized_shape) > 1:
            tracer.freeze(known.ids, "normalised together with space")
        if isinstance(module, nn.GroupNorm):
            record.grouping = _couple_blocks(tracer, labels, None, module.num_groups)
    tracer.note(out, Labels(known.ids, known.parents))


def _record_mixing(
    tracer: ChannelTracer,
    records: dict[str, LayerRecord],
    name: str,
    module: nn.Module,
    source: Tensor,
    out: Tensor,
) -> None:
    linear = isinstance(module, nn.Linear)
    channel = source.dim() - 1 if linear else source.dim() - 1 - len(module.kernel_size)  # type: ignore[arg-type]
    known = tracer.labels(source)
    read = _channels(tracer, known.ids, channel) if known.ids is not None else [FIXED] * source.shape[channel]
    record = records.setdefault(name, LayerRecord("linear" if linear else "conv"))
    record.calls += 1
    record.parents |= known.parents
    weight = module.weight
    assert isinstance(weight, Tensor)
    images = 1 if channel == 0 else source.shape[0]
    # every weight is used once for each output position, of a transposed convolution for each input position
    positions = source if getattr(module, "transposed", False) else out
    record.macs += positions.numel() // positions.shape[channel] // max(images, 1) * weight.numel()
    _tie(tracer, record.in_labels, read, name)
    if not record.out_labels:
        record.in_labels = read
        record.out_labels = tracer.sets.fresh(out.shape[channel]).tolist()
        groups = 1 if linear else module.groups
        if groups > 1:  # type: ignore[operator]
            record.grouping = _couple_blocks(tracer, read, record.out_labels, groups)  # type: ignore[arg-type]
    shape = [1] * out.dim()
    shape[channel] = -1
    ids = torch.tensor(record.out_labels).reshape(shape).expand(out.shape)
    tracer.note(out, Labels(ids, frozenset((name,))))


def _channels(tracer: ChannelTracer, ids: Tensor, channel: int) -> list[int]:
    """Labels along the channel dimension; frozen where they change along another dimension as well."""
    if set(varying_dims(ids)) - {channel}:
        tracer.freeze(ids, "channels lie in a dimension that the layer does not read as channels")
        return [FIXED] * ids.shape[channel]
    values = compact(ids).reshape(-1)
    return list(values.expand(ids.shape[channel]).tolist())


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
            tracer.sets.unite(labels[position % size], label, reason)
    return "positions"
