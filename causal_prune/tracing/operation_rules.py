"""What operations between layers do with channel labels: one rule for each kind of operation.

A rule gives labels to what the operation returns. It returns True where the operation counts channels by position
(a slice, a shuffle, zero-padding of channels): such a function needs all channels in their places, and what is cut is
put back in front of it and picked out again behind it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from causal_prune.tracing.channel_labels import (
    FIXED,
    Labels,
    broadcast_labels,
    canonical,
    compact,
    meeting_pairs,
    varying_dims,
)
from causal_prune.tracing.channel_statistics import STATISTICS
from causal_prune.tracing.channel_tracer import PRODUCTS, Operation, Rule, tensors
from causal_prune.tracing.layer_rules import TraceRecord, record_operation
from causal_prune.tracing.product_rules import convolution, normalisation, product

_IDENTITY = ("clone", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "native_dropout")
_WHOLE = ("permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "cat", "stack")
_BY_POSITION = (
    "select", "slice", "split", "split_with_sizes", "unbind", "index_select", "narrow", "flip", "roll", "repeat",
    "pixel_shuffle", "pixel_unshuffle", "index", "channel_shuffle", "native_channel_shuffle", "diagonal", "unfold",
)  # fmt: skip
_VIEW = ("view", "_unsafe_view", "reshape", "_reshape_alias")
_REDUCE = (
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "prod", "logsumexp", "argmax", "argmin",
    "linalg_vector_norm", "norm", "any", "all", "var_mean", "std_mean", "median",
)  # fmt: skip
_ALONG = ("_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "_safe_softmax")
_SPATIAL = (
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "fractional_max_pool2d", "grid_sampler_2d", "grid_sampler_3d",
)  # fmt: skip
_LIKE = (
    "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "empty_like", "bernoulli", "zero", "fill",
    "uniform", "normal",
)  # fmt: skip
_ELEMENTWISE = (  # those that carry no tag saying so
    "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "softplus", "log_sigmoid_forward", "relu6",
    "rrelu_with_noise", "_prelu_kernel", "softshrink", "hardshrink", "threshold", "mish", "masked_fill", "addcmul",
    "addcdiv", "lerp", "where", "clamp", "nan_to_num", "pow", "fmod", "remainder", "copysign", "xlogy",
)  # fmt: skip
_LAYERS = (
    "aten::convolution", "aten::native_layer_norm", "aten::native_group_norm", "aten::native_batch_norm",
)  # fmt: skip
_SOURCES = (
    "zeros", "ones", "full", "empty", "arange", "rand", "randn", "scalar_tensor", "eye", "linspace", "new_zeros",
    "new_ones", "new_full", "new_empty", "randint", "empty_strided", "new_empty_strided", "randperm",
)  # fmt: skip


def rule_of(func: Any, record: TraceRecord) -> Rule:
    """The rule of an operation.

    Args:
        func: An aten overload.
        record: Where layers that are called as functions are recorded.

    Returns:
        Its rule; the one for unknown operations freezes what it touches.
    """
    if str(func._schema.name) in _LAYERS:
        return lambda op: None if record_operation(op, record) or _as_function(op) else _unknown(op)
    base = str(func._schema.name).split("::")[-1]
    if base in PRODUCTS:
        return lambda op: None if record_operation(op, record) else product(op)
    for name in (base, base.rstrip("_")):  # an in-place form is named like the operation with an underscore
        if name in _RULES:
            return _RULES[name]
    return _pointwise if torch.Tag.pointwise in func.tags else _unknown


def _as_function(op: Operation) -> bool:
    """A layer that is called as a function, outside a module of its kind."""
    if op.name == "convolution":
        convolution(op)
        return True
    return normalisation(op)


def _identity(op: Operation) -> None:
    op.note(op.source.ids)


def _whole(op: Operation) -> None:
    """Apply a data movement to the labels themselves."""

    def stand_in(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        ids = op.tracer.labels(leaf).ids
        return ids if ids is not None else torch.zeros((), dtype=torch.int64).expand(leaf.shape)

    swapped = [
        [stand_in(item) for item in arg] if isinstance(arg, list | tuple) else stand_in(arg)
        for arg in op.args
    ]
    reordered = op.func(*swapped, **{key: value for key, value in op.kwargs.items() if key != "dtype"})
    parents = op.parents
    for tensor, ids in zip(tensors(op.out), tensors(reordered), strict=True):
        op.tracer.note(tensor, Labels(canonical(ids), parents))


def _by_position(op: Operation) -> bool:
    ids = op.source.ids
    if ids is None:
        op.note(None)
        return False
    indices = op.argument("indices") if op.name == "index" else [op.argument("index")]
    for index in tensors(indices):
        op.freeze(op.tracer.labels(index).ids, "channels pick channels")
    dims = op.argument("dims") if op.argument("dims") is not None else op.argument("dim")
    # `index` has tensors for dimensions, `repeat` and the shuffles have none: they count as touching the channels
    named = dims is not None and op.name not in ("index", "repeat", "diagonal")
    touched = set(_dims(dims, ids.dim())) if named else set(range(ids.dim()))
    op_swapped = Operation(op.tracer, op.func, op.args, op.kwargs, op.out)
    _whole_with_indices(op_swapped)
    whole = op.name in ("slice", "narrow") and isinstance(op.out, Tensor) and op.out.shape == op.args[0].shape
    by_channel = touched & set(varying_dims(ids))
    return bool(by_channel) and not whole and not _cut_alike(op, ids, by_channel)


def _cut_alike(op: Operation, ids: Tensor, dims: set[int]) -> bool:
    """Bind equal parts of the channels together, where an operation takes such parts and code by share is followed."""
    if not _by_share(op) or op.name not in ("split", "split_with_sizes", "slice", "narrow") or len(dims) != 1:
        return False
    (dim,) = dims
    sizes = {part.shape[dim] for part in tensors(op.out)}
    size = sizes.pop() if len(sizes) == 1 else 0
    start = int(op.argument("start") or 0) if op.name in ("slice", "narrow") else 0
    step = int(op.argument("step") or 1) if op.name == "slice" else 1
    if not size or ids.shape[dim] % size or start % size or step != 1 or size == ids.shape[dim]:
        return False
    _unite_along(op, ids.unflatten(dim, (-1, size)), dim)
    return True


def _by_share(op: Operation) -> bool:
    module = op.tracer.stack[-1] if op.tracer.stack else ""
    return op.tracer.form.shares and module not in op.tracer.form.rigid


def _unite_along(op: Operation, ids: Tensor, dim: int) -> None:
    """Let everything that stands at one place of all other dimensions go together."""
    rows = compact(ids).movedim(dim, 0).flatten(1)
    reason = f"goes with channels that cannot be removed{op.tracer.where()}"
    for row in rows[1:].tolist():
        for first, other in zip(rows[0].tolist(), row, strict=True):
            if first != other:
                op.tracer.sets.unite(first, other, reason)
    op.tracer.alike.add(op.tracer.stack[-1] if op.tracer.stack else "")


def _whole_with_indices(op: Operation) -> None:
    """Move the labels of the first argument; index tensors stay what they are."""
    ids = op.source.ids
    assert ids is not None
    reordered = op.func(ids.contiguous(), *op.args[1:], **op.kwargs)
    parents = op.parents
    for tensor, labels in zip(tensors(op.out), tensors(reordered), strict=True):
        op.tracer.note(tensor, Labels(canonical(labels), parents))


def _view(op: Operation) -> bool:
    ids = op.source.ids
    if ids is None:
        op.note(None)
        return False
    op.note(canonical(ids.reshape(op.out.shape)))
    return _splits(ids, op.out.shape) and not _viewed_alike(op, ids)


def _viewed_alike(op: Operation, ids: Tensor) -> bool:
    """Bind what a view puts side by side: of (..., C, ...) as (..., P, C / P, ...) every part is cut alike."""
    dims = varying_dims(ids)
    if not _by_share(op) or len(dims) != 1:
        return False
    found = op.tracer.labels(op.out).ids
    new = varying_dims(found)
    if len(new) != 2 or new[1] != new[0] + 1 or found is None:
        return False
    if found.shape[new[0]] * found.shape[new[1]] != ids.shape[dims[0]]:
        return False
    _unite_along(op, found, new[0])
    return True


def _splits(ids: Tensor, new: torch.Size) -> bool:
    """Whether a view divides a dimension in which the labels change."""
    old, channels = list(ids.shape), set(varying_dims(ids))
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
        if sum(1 for k in right if k < len(new) and new[k] > 1) > 1 and set(left) & channels:
            return True
        i, j = left[-1] + 1, right[-1] + 1
    return False


def _pad(op: Operation) -> bool:
    ids = op.source.ids
    if ids is None:
        op.note(None)
        return False
    padding = list(op.args[1])
    padded = {op.out.dim() - 1 - k // 2 for k, amount in enumerate(padding) if amount}
    if not padded & set(varying_dims(ids)):
        for dim in padded:
            ids = ids.narrow(dim, 0, 1)
        op.note(ids.expand(op.out.shape))
        return False
    # a channel of zeros is a channel of its own, which nobody makes; adding to it ties it to what is added
    places = op.func(torch.ones_like(ids), padding, 0)
    zeros = op.tracer.sets.fresh(op.out.numel()).reshape(op.out.shape)
    for dim in set(range(op.out.dim())) - set(varying_dims(ids)):
        zeros = zeros.narrow(dim, 0, 1)
    reordered = torch.where(
        places == 0, zeros.expand(op.out.shape), op.func(ids.contiguous(), padding, FIXED)
    )
    op.note(canonical(reordered))
    return True


def _pointwise(op: Operation) -> bool:
    many = len(op.inputs) > 1
    operands = [tensor for tensor in op.inputs if tensor.dim() or not many]
    known = [op.tracer.labels(tensor).ids for tensor in operands]
    labelled = [ids for ids in known if ids is not None]
    filters = [ids for ids in labelled if not op.tracer.is_parameter(ids)]
    coefficients = [ids for ids in labelled if op.tracer.is_parameter(ids)]
    for other in filters[1:]:
        for a, b in meeting_pairs(filters[0], other).tolist():
            op.tracer.sets.unite(a, b, f"joined with channels that cannot be removed{op.tracer.where()}")
    for other in coefficients if filters else coefficients[1:]:
        _couple_parameter(op, other, filters[0] if filters else coefficients[0])
    shape = tensors(op.out)[0].shape
    everything = filters or coefficients
    op.note(canonical(broadcast_labels(everything, shape)) if everything else None)
    return any(
        ids is None and bool(filters) and _fixed_width(tensor, filters[0], shape)
        for tensor, ids in zip(operands, known, strict=True)
    )


def _couple_parameter(op: Operation, parameter: Tensor, other: Tensor) -> None:
    """Unite a parameter's elements with the channels that they scale; one that serves many channels stays whole."""
    pairs = meeting_pairs(parameter, other)
    elements, counts = torch.unique(pairs[:, 0], return_counts=True)
    alone = set(elements[counts == 1].tolist())
    for a, b in pairs.tolist():
        if a in alone:
            op.tracer.sets.unite(a, b, f"scaled by a parameter of fixed width{op.tracer.where()}")


def _fixed_width(tensor: Tensor, ids: Tensor, shape: torch.Size) -> bool:
    """Whether an operand without labels has an extent of its own along the channels."""
    offset, lift = len(shape) - tensor.dim(), len(shape) - ids.dim()
    return any(tensor.shape[d + lift - offset] > 1 for d in varying_dims(ids) if d + lift >= offset)


def _reduce(op: Operation) -> None:
    ids = op.source.ids
    if ids is None:
        op.note(None)
        return
    dims = _dims(op.argument("dim"), ids.dim())
    mixed, others = set(dims) & set(varying_dims(ids)), set(varying_dims(ids)) - set(dims)
    if mixed and not others:
        if op.name in STATISTICS and not op.tracer.is_parameter(ids):
            op.tracer.approximate.update(label for label in compact(ids).flatten().tolist() if label != FIXED)
            op.tracer.statistics.add(op.tracer.place)
        else:
            op.freeze(ids, f"channels are mixed by {op.name}")
        op.note(None)
        return
    for dim in mixed:  # branches, or parts of the channels, are summed place by place
        _unite_along(op, ids, dim)
    for dim in dims:
        ids = ids.narrow(dim, 0, 1)
    op.note(ids.reshape(tensors(op.out)[0].shape))


def _along(op: Operation) -> None:
    ids = op.source.ids
    dim = op.argument("dim") % ids.dim() if ids is not None else 0
    if ids is not None and dim in varying_dims(ids):
        if len(varying_dims(ids)) > 1:
            _unite_along(op, ids, dim)
        else:
            op.freeze(ids, f"channels are mixed by {op.name}")
    op.note(ids)


def _spatial(op: Operation) -> None:
    ids, shape = op.source.ids, tensors(op.out)[0].shape
    for tensor in tensors(op.args[1:]):
        op.freeze(op.tracer.labels(tensor).ids, f"channels steer {op.name}")
    if ids is None:
        op.note(None)
        return
    digits = [int(character) for character in op.name if character in "123"]
    rank = digits[-1] if digits else 2
    space = {dim for dim in range(ids.dim()) if ids.shape[dim] != shape[dim]}
    space |= set(range(max(ids.dim() - rank, 1), ids.dim()))
    if space & set(varying_dims(ids)):
        op.freeze(ids, f"channels are mixed by {op.name}")
        op.note(None)
        return
    for dim in space:
        ids = ids.narrow(dim, 0, 1)
    op.note(ids.expand(shape))


def _glu(op: Operation) -> None:
    ids = op.source.ids
    if ids is None:
        op.note(None)
        return
    kept, gate = ids.chunk(2, dim=op.argument("dim"))
    for a, b in meeting_pairs(kept, gate).tolist():
        op.tracer.sets.unite(a, b, "gated by channels that cannot be removed")
    op.note(canonical(kept))


def _sources(op: Operation) -> None:
    for tensor in tensors(op.out):
        op.tracer.note(tensor, Labels())


def _like(op: Operation) -> None:
    ids = op.source.ids
    for tensor in tensors(op.out):
        op.tracer.note(tensor, Labels(ids if ids is not None and ids.shape == tensor.shape else None))


def _copy(op: Operation) -> None:
    """Writing into a tensor, or into a part of it."""
    target, source = (op.tracer.labels(tensor) for tensor in op.args[:2])
    if source.ids is not None and target.ids is None:
        op.freeze(source.ids, "channels are written into another tensor")
    elif source.ids is not None and target.ids is not None:
        for a, b in meeting_pairs(target.ids, source.ids).tolist():
            op.tracer.sets.unite(a, b, "written over channels that cannot be removed")
    op.note(target.ids)


def _unknown(op: Operation) -> None:
    what = (
        "a branch or a Python number depends on the channels"
        if op.name == "local_scalar_dense"
        else f"passes through {op.name}, which cannot be followed"
    )
    for tensor in op.inputs:
        op.freeze(op.tracer.labels(tensor).ids, what)
    op.note(None)


def _as_strided(op: Operation) -> None:
    if op.source.ids is not None and op.source.ids.shape == tensors(op.out)[0].shape:
        op.note(op.source.ids)  # another layout of the same values
    else:
        _unknown(op)


def _dims(value: Any, rank: int) -> tuple[int, ...]:
    if value is None or value == []:
        return tuple(range(rank))
    listed: Sequence[int] = [value] if isinstance(value, int) else value
    return tuple(dim % rank for dim in listed) if rank else ()


def _table(groups: Iterable[tuple[Iterable[str], Rule]]) -> dict[str, Rule]:
    return {name: rule for names, rule in groups for name in names}


_RULES = _table(
    (
        (_IDENTITY, _identity),
        (_WHOLE, _whole),
        (_BY_POSITION, _by_position),
        (_VIEW, _view),
        (_REDUCE, _reduce),
        (_ALONG, _along),
        (_SPATIAL, _spatial),
        (_ELEMENTWISE, _pointwise),
        (_LIKE, _like),
        (_SOURCES, _sources),
        (("constant_pad_nd",), _pad),
        (("copy_",), _copy),
        (("glu",), _glu),
        (("as_strided",), _as_strided),
    )
)
