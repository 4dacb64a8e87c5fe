"""What operations between layers do with channel labels: one rule for each kind of operation."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from causal_prune.channel_labels import (
    FIXED,
    Labels,
    broadcast_labels,
    canonical,
    meeting_pairs,
    varying_dims,
)
from causal_prune.channel_tracer import ChannelTracer, Rule

_IDENTITY = {"clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "dropout", "native_dropout"}
_WHOLE = {"permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "cat", "stack"}
_ALONG_DIM = {
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "split_with_sizes_copy",
    "unbind",
    "index_select",
    "narrow",
    "unfold",
}
_REARRANGE = {"flip", "roll", "repeat", "pixel_shuffle", "pixel_unshuffle", "index", "gather", "as_strided"}
_VIEW = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
_REDUCE = {
    "mean",
    "sum",
    "amax",
    "amin",
    "max",
    "min",
    "var",
    "std",
    "prod",
    "logsumexp",
    "argmax",
    "argmin",
    "linalg_vector_norm",
    "norm",
    "any",
    "all",
    "var_mean",
    "std_mean",
    "median",
}
_ALONG = {"_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "_safe_softmax"}
_SPATIAL = {
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "max_pool1d_with_indices",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "upsample_bilinear2d",
    "upsample_linear1d",
    "upsample_bicubic2d",
    "upsample_trilinear3d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "fractional_max_pool2d",
}
_LIKE = {
    "zeros_like",
    "ones_like",
    "full_like",
    "rand_like",
    "randn_like",
    "empty_like",
    "bernoulli",
    "zero",
    "fill",
    "uniform",
    "normal",
}
_SOURCES = {
    "zeros",
    "ones",
    "full",
    "empty",
    "arange",
    "rand",
    "randn",
    "scalar_tensor",
    "eye",
    "linspace",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "randint",
    "empty_strided",
    "new_empty_strided",
    "randperm",
}


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _parents(tracer: ChannelTracer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> frozenset[str]:
    return frozenset().union(*(tracer.labels(tensor).parents for tensor in _tensors((args, kwargs))))


def _note_all(tracer: ChannelTracer, out: Any, labels: Labels) -> None:
    for tensor in _tensors(out):
        tracer.note(
            tensor,
            labels
            if labels.ids is not None and labels.ids.shape == tensor.shape
            else Labels(None, labels.parents),
        )


def _dims(value: Any, rank: int) -> tuple[int, ...]:
    if value is None or value == []:
        return tuple(range(rank))
    return tuple(dim % rank for dim in ([value] if isinstance(value, int) else value)) if rank else ()


def _argument(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], name: str) -> Any:
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[position] if position < len(args) else kwargs.get(name, argument.default_value)
    return None


def _on_labels(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    """Apply a data movement to the labels themselves."""
    parents = _parents(tracer, args, kwargs)

    def stand_in(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        ids = tracer.labels(leaf).ids
        return ids if ids is not None else torch.zeros((), dtype=torch.int64).expand(leaf.shape)

    swapped = [
        [stand_in(item) for item in arg] if isinstance(arg, (list, tuple)) else stand_in(arg) for arg in args
    ]
    moved = func(*swapped, **kwargs)
    for tensor, ids in zip(_tensors(out), _tensors(moved), strict=True):
        tracer.note(tensor, Labels(canonical(ids), parents))


def _identity(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    _note_all(tracer, out, Labels(tracer.labels(args[0]).ids, _parents(tracer, args, kwargs)))


def _along_dim(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    ids = tracer.labels(args[0]).ids
    dim = _argument(func, args, kwargs, "dim")
    dim = _argument(func, args, kwargs, "dimension") if dim is None else dim
    whole = (
        isinstance(out, Tensor)
        and out.shape == args[0].shape
        and not func._schema.name.endswith("index_select")
    )
    if not whole and ids is not None and dim % ids.dim() in varying_dims(ids):
        tracer.freeze(ids, f"channels are picked by position ({_plain(func)})")
    if func._schema.name.endswith(("index_select", "unfold")):
        kept = torch.as_tensor(varying_dims(ids))
        if dim % args[0].dim() in kept.tolist():
            _note_all(tracer, out, Labels(None, _parents(tracer, args, kwargs)))
            return
    _on_labels(tracer, func, args, kwargs, out)


def _rearrange(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    ids = tracer.labels(args[0]).ids
    dims = _argument(func, args, kwargs, "dims")
    spatial_only = (
        dims is not None and ids is not None and not set(_dims(dims, ids.dim())) & set(varying_dims(ids))
    )
    if spatial_only and func._schema.name.endswith(("flip", "roll")):
        _on_labels(tracer, func, args, kwargs, out)
        return
    tracer.freeze(ids, f"channels are rearranged ({_plain(func)})")
    _note_all(tracer, out, Labels(None, _parents(tracer, args, kwargs)))


def _view(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
) -> None:
    known = tracer.labels(args[0])
    if known.ids is None:
        tracer.note(out, known)
        return
    if _splits(known.ids, out.shape):
        tracer.freeze(known.ids, "channels are split into two dimensions (view)")
    tracer.note(out, Labels(canonical(known.ids.reshape(out.shape)), known.parents))


def _splits(ids: Tensor, new: torch.Size) -> bool:
    """Whether a view divides a dimension in which the labels change."""
    old, channels = list(ids.shape), varying_dims(ids)
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i], [j]
        a = old[i] if i < len(old) else 1
        b = new[j] if j < len(new) else 1
        while a != b:
            if a < b:
                left.append(left[-1] + 1)
                a *= old[left[-1]]
            else:
                right.append(right[-1] + 1)
                b *= new[right[-1]]
        if sum(1 for k in right if k < len(new) and new[k] > 1) > 1 and set(left) & set(channels):
            return True
        i, j = left[-1] + 1, right[-1] + 1
    return False


def _pad(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Tensor
) -> None:
    known = tracer.labels(args[0])
    if known.ids is None:
        tracer.note(out, known)
        return
    padding = list(args[1])
    padded = {out.dim() - 1 - k // 2 for k, amount in enumerate(padding) if amount}
    if not padded & set(varying_dims(known.ids)):
        shape = [1 if dim in padded else size for dim, size in enumerate(known.ids.shape)]
        ids = known.ids
        for dim in padded:
            ids = ids.narrow(dim, 0, 1)
        tracer.note(out, Labels(ids.reshape(shape).expand(out.shape), known.parents))
        return
    tracer.freeze(known.ids, "channels are padded with zeros (a parameter-free shortcut)")
    ids = func(known.ids.contiguous(), padding, FIXED)
    tracer.note(out, Labels(canonical(ids), known.parents))


def _pointwise(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    operands = [tensor for tensor in _tensors((args, kwargs)) if tensor.dim() or len(_tensors(args)) == 1]
    known = [tracer.labels(tensor) for tensor in operands]
    parents = _parents(tracer, args, kwargs)
    filters = [k.ids for k in known if k.ids is not None and not tracer.is_parameter(k.ids)]
    coefficients = [k.ids for k in known if k.ids is not None and tracer.is_parameter(k.ids)]
    for other in filters[1:]:
        for a, b in meeting_pairs(filters[0], other).tolist():
            tracer.sets.unite(a, b, f"added to channels that cannot be removed{tracer.where()}")
    for other in coefficients[1:] if not filters else coefficients:
        _couple_parameter(tracer, other, filters[0] if filters else coefficients[0])
    shape = _tensors(out)[0].shape if _tensors(out) else torch.Size()
    for tensor, labels in zip(operands, known, strict=True):
        if labels.ids is None and filters and _fixed_width(tensor, filters[0], shape):
            tracer.freeze(filters[0], "combined with a tensor of fixed width")
    everything = filters or coefficients
    ids = canonical(broadcast_labels(everything, shape)) if everything else None
    _note_all(tracer, out, Labels(ids, parents))


def _couple_parameter(tracer: ChannelTracer, parameter: Tensor, other: Tensor) -> None:
    """Unite a parameter's elements with the channels that they scale; one that serves many channels stays whole."""
    pairs = meeting_pairs(parameter, other)
    elements, counts = torch.unique(pairs[:, 0], return_counts=True)
    alone = set(elements[counts == 1].tolist())
    for a, b in pairs.tolist():
        if a in alone:
            tracer.sets.unite(a, b, f"scaled by a parameter of fixed width{tracer.where()}")


def _fixed_width(tensor: Tensor, ids: Tensor, shape: torch.Size) -> bool:
    """Whether an unlabelled operand has an extent of its own along the channels."""
    offset = len(shape) - tensor.dim()
    lift = len(shape) - ids.dim()
    return any(tensor.shape[dim + lift - offset] > 1 for dim in varying_dims(ids) if dim + lift >= offset)


def _reduce(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    known = tracer.labels(args[0])
    parents = _parents(tracer, args, kwargs)
    if known.ids is None:
        _note_all(tracer, out, Labels(None, parents))
        return
    rank = known.ids.dim()
    dims = _dims(_argument(func, args, kwargs, "dim"), rank)
    if set(dims) & set(varying_dims(known.ids)):
        tracer.freeze(known.ids, f"channels are mixed by {_plain(func)}")
        _note_all(tracer, out, Labels(None, parents))
        return
    ids = known.ids
    for dim in dims:
        ids = ids.narrow(dim, 0, 1)
    first = _tensors(out)[0]
    _note_all(tracer, out, Labels(ids.reshape(first.shape), parents))


def _along(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    known = tracer.labels(args[0])
    dim = _argument(func, args, kwargs, "dim")
    if known.ids is not None and dim % known.ids.dim() in varying_dims(known.ids):
        tracer.freeze(known.ids, f"channels are mixed by {_plain(func)}")
    _note_all(tracer, out, known)


def _spatial(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    known = tracer.labels(args[0])
    first = _tensors(out)[0]
    if known.ids is None:
        _note_all(tracer, out, known)
        return
    spatial = {dim for dim in range(known.ids.dim()) if known.ids.shape[dim] != first.shape[dim]}
    spatial |= set(range(max(known.ids.dim() - _spatial_rank(func), 1), known.ids.dim()))
    if spatial & set(varying_dims(known.ids)):
        tracer.freeze(known.ids, f"channels are mixed by {_plain(func)}")
        _note_all(tracer, out, Labels(None, known.parents))
        return
    ids = known.ids
    for dim in spatial:
        ids = ids.narrow(dim, 0, 1)
    _note_all(tracer, out, Labels(ids.expand(first.shape), known.parents))


def _spatial_rank(func: Any) -> int:
    digits = [int(c) for c in _plain(func) if c in "123"]
    return digits[-1] if digits else 2


def _forget(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    _note_all(tracer, out, Labels())


def _like(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    _note_all(tracer, out, Labels(tracer.labels(args[0]).ids, frozenset()))


def _copy(tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> None:
    """Writing into a part of a tensor: what is written and what it is written into stay whole."""
    for tensor in _tensors(args[:2]):
        tracer.freeze(tracer.labels(tensor).ids, "channels are written into another tensor")


def _unknown(
    tracer: ChannelTracer, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any
) -> None:
    what = (
        "a branch or a Python number depends on the channels"
        if "_local_scalar_dense" in func._schema.name
        else f"passes through {_plain(func)}, which cannot be followed"
    )
    for tensor in _tensors((args, kwargs)):
        tracer.freeze(tracer.labels(tensor).ids, what)
    _note_all(tracer, out, Labels(None, _parents(tracer, args, kwargs)))


def _plain(func: Any) -> str:
    return str(func._schema.name).split("::")[-1].strip("_")


def _table(groups: Iterable[tuple[Iterable[str], Rule]]) -> dict[str, Rule]:
    return {name: rule for names, rule in groups for name in names}


_RULES: dict[str, Rule] = _table(
    (
        (_IDENTITY, _identity),
        (_WHOLE, _on_labels),
        (_ALONG_DIM, _along_dim),
        (_REARRANGE, _rearrange),
        (_VIEW, _view),
        (_REDUCE, _reduce),
        (_ALONG, _along),
        (_SPATIAL, _spatial),
        (_LIKE, _like),
        (_SOURCES, _forget),
        (("constant_pad_nd",), _pad),
        (("copy_",), _copy),
    )
)


def rule_of(func: Any) -> Rule:
    """The rule of an operation.

    Args:
        func: An aten overload.

    Returns:
        Its rule; the one for unknown operations freezes what it touches.
    """
    base = str(func._schema.name).split("::")[-1]
    for name in (base, base.rstrip("_")):  # an in-place form is named like the operation with an underscore
        if name in _RULES:
            return _RULES[name]
    return _pointwise if torch.Tag.pointwise in func.tags else _unknown
