"""What products do with channel labels: of activations with parameters of the user's own, and of two activations.

A parameter that channels are multiplied with and summed over is cut along that dimension; what comes out has no filters
that could be cut. Channels that only stand beside the sum are carried on. Two activations whose channels are summed
over against each other (the scores of attention) stay whole.
"""

from typing import Any

import torch
from torch import Tensor

from causal_prune.tracing.channel_labels import FIXED, Labels, canonical, compact, varying_dims
from causal_prune.tracing.channel_tracer import PRODUCTS, Operation, tensors

ATTENTION = "channels of two activations are summed over against each other, as in attention"


def product(op: Operation) -> None:
    """Label the result of a product of matrices.

    Args:
        op: One of `PRODUCTS`.
    """
    first, second, added = PRODUCTS[op.name]
    a, b = op.args[first], op.args[second]
    _widen(op, op.args[added] if added is not None else None)
    left, right = op.tracer.labels(a).ids, op.tracer.labels(b).ids
    left, right = _several(op, left), _several(op, right)
    inner_a, inner_b = a.dim() - 1, max(b.dim() - 2, 0)
    _contract(op, (a, left, inner_a), (b, right, inner_b))
    out = tensors(op.out)[0]
    ids: Tensor | None = None
    if left is not None and inner_a not in varying_dims(left) and a.dim() > 1:
        row = left.narrow(inner_a, 0, 1)
        ids = _beside(row if b.dim() > 1 else row.squeeze(inner_a), out.shape)
    if right is not None and inner_b not in varying_dims(right) and b.dim() > 1 and not _is_parameter(op, b):
        column = _beside(right.narrow(inner_b, 0, 1), out.shape)
        if ids is None:
            ids = column
        elif column is not None:
            op.freeze(left, ATTENTION)
            op.freeze(right, ATTENTION)
            ids = None
    op.note(ids)


def convolution(op: Operation) -> None:
    """Label the result of a convolution that is called as a function with a weight of the user's own.

    Args:
        op: A convolution.
    """
    source, weight, bias = op.args[:3]
    known, groups = op.tracer.labels(source).ids, int(op.argument("groups"))
    transposed = bool(op.argument("transposed"))
    _widen(op, bias)
    if known is None:
        op.note(None)
        return
    varies, channel = varying_dims(known), source.dim() - weight.dim() + 1
    if varies != (channel,) or not _is_parameter(op, weight):
        op.freeze(known, "multiplied in convolution with activations")
        op.note(None)
        return
    labels = compact(known).flatten()
    axis = 0 if transposed else 1
    if groups == 1:
        _read(op, weight, axis, labels)
        op.note(None)
    elif groups == len(labels) == op.out.shape[channel] and not transposed:
        _couple(op, weight, 0, labels)
        if bias is not None:
            _couple(op, bias, 0, labels)
        shape = [1] * op.out.dim()
        shape[channel] = -1
        op.note(canonical(labels.reshape(shape).expand(op.out.shape)))
    else:
        op.freeze(known, "read by a grouped convolution that is called as a function")
        op.note(None)


def normalisation(op: Operation) -> bool:
    """Label the result of a normalisation that is called as a function with parameters of the user's own.

    Args:
        op: A batch, group or layer normalisation.

    Returns:
        Whether it was understood.
    """
    source = op.args[0]
    known = op.tracer.labels(source).ids
    others = [tensor for tensor in tensors((op.args[1:], dict(op.kwargs))) if tensor.dim() == 1]
    if known is None:
        if any(op.tracer.labels(tensor).data for tensor in op.inputs):
            op.note(None)
        else:
            _of_parameters(op)
        return True
    varies = varying_dims(known)
    over_channels = op.name in ("native_layer_norm", "native_group_norm")
    channel = source.dim() - 1 if op.name == "native_layer_norm" else 1
    if varies != (channel,):
        return False
    labels = compact(known).flatten()
    for tensor in others:
        if len(tensor) == len(labels):
            _couple(op, tensor, 0, labels)
    if over_channels:
        op.tracer.approximate.update(labels.tolist())
        groups = int(op.argument("group") or 1)
        size = len(labels) // groups
        for place, label in enumerate(labels.tolist() if groups > 1 else ()):
            op.tracer.sets.unite(int(labels[place % size]), label, "normalised in groups of fixed number")
    op.note(known)
    for extra in tensors(op.out)[1:]:
        op.tracer.note(extra, Labels())
    return True


def _of_parameters(op: Operation) -> None:
    """A function of parameters alone: what it returns is none of them."""
    for tensor in tensors(op.out):
        op.tracer.note(tensor, Labels())


def _contract(op: Operation, first: tuple[Any, Any, int], second: tuple[Any, Any, int]) -> None:
    """Bind what is summed over."""
    (a, left, inner_a), (b, right, inner_b) = first, second
    summed_a = left is not None and inner_a in varying_dims(left)
    summed_b = right is not None and inner_b in varying_dims(right)
    if summed_a and _is_parameter(op, b) and varying_dims(left) == (inner_a,) and not _is_parameter(op, a):
        _read(op, b, inner_b, compact(left).flatten())
    elif summed_b and _is_parameter(op, a) and varying_dims(right) == (inner_b,) and not _is_parameter(op, b):
        _read(op, a, inner_a, compact(right).flatten())
    else:
        for each, ids, summed in ((a, left, summed_a), (b, right, summed_b)):
            if summed and not _is_parameter(op, each):
                other = b if each is a else a
                two = op.tracer.labels(other).data
                op.freeze(ids, ATTENTION if two else f"channels are mixed by {op.name} with a fixed matrix")


def _several(op: Operation, ids: Tensor | None) -> Tensor | None:
    """Labels of an operand; those of a map of one channel, of which nothing can go, are frozen and forgotten."""
    if ids is not None and not varying_dims(ids):
        op.freeze(ids, "a single channel steers a product")
        return None
    return ids


def _read(op: Operation, weight: Tensor, axis: int, labels: Tensor) -> None:
    """Channels are multiplied with a parameter and summed over: it loses what they lose."""
    name = op.tracer.parameter_of(weight)
    if name is None:
        op.tracer.freeze(
            labels, f"multiplied in {op.name} with a tensor that is no parameter{op.tracer.where()}"
        )
        return
    _couple(op, weight, axis, labels)
    op.tracer.charge(name)


def _couple(op: Operation, parameter: Tensor, axis: int, labels: Tensor) -> None:
    ids = op.tracer.labels(parameter).ids
    if ids is None:
        reason = "meets a tensor of fixed width that is no parameter"
        op.tracer.freeze(labels, reason)
        return
    rows = ids.movedim(axis, 0).reshape(ids.shape[axis], -1)
    for row, label in zip(rows.tolist(), labels.tolist(), strict=True):
        for element in row:
            op.tracer.sets.unite(element, label, f"meets a parameter of fixed width{op.tracer.where()}")


def _widen(op: Operation, added: Any) -> None:
    """What is added to a product whose filters stay whole stays whole."""
    if isinstance(added, Tensor) and added.dim():
        ids = op.tracer.labels(added).ids
        if ids is not None and not op.tracer.is_parameter(ids):
            op.freeze(ids, "is added to a product that stays whole")


def _beside(ids: Tensor, shape: torch.Size) -> Tensor | None:
    found = canonical(ids.expand(shape))
    return None if found is None or not bool((found != FIXED).any()) else found


def _is_parameter(op: Operation, tensor: Tensor) -> bool:
    known = op.tracer.labels(tensor)
    return not known.data and (known.ids is None or op.tracer.is_parameter(known.ids))
