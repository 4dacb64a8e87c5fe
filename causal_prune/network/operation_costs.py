"""What an operation costs: the one place that counts multiply-accumulates, in plans, targets and reports alike."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_KNOWN_SPACES = ("aten", "prims", "prim", "profiler", "inductor", "rngprims", "debugprims")
_HEAVY = (
    "fft_", "_fft_", "linalg_", "_linalg_", "cdist", "_cdist", "_pdist", "lstm", "gru", "rnn_", "miopen_rnn",
    "quantized_", "_transformer_encoder", "_native_multi_head", "_triton", "cholesky", "triangular_solve", "_sparse",
    "_addmm_activation", "_weight_int", "_int_mm", "histc", "_ctc_loss", "matrix_exp", "kron",
)  # fmt: skip
"""Beginnings of names of operations that multiply and for which there is no formula here."""


def macs_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int | None:
    """Multiply-accumulates of one call of an operation below autograd.

    Counted are convolutions (padding included), products of matrices and vectors, attention, recurrent layers, bilinear
    forms and deformable convolutions. Additions of biases, normalisation, activations and pooling count as nothing.

    Args:
        func: The overload.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.

    Returns:
        The count, half of torch's FLOPs; None for an operation that multiplies in a way that is not known here.
    """
    space, _, full = str(func._schema.name).partition("::")
    formula = _FORMULAS.get(f"{space}::{full.rstrip('_')}") or _FORMULAS.get(f"{space}::{full}")
    if formula is not None:
        return formula(args, kwargs, out)
    known = flop_registry.get(getattr(func, "_overloadpacket", func))
    if known is not None:
        return int(known(*args, **kwargs, out_val=out)) // 2
    if space not in _KNOWN_SPACES and space != "torchvision":
        return None
    return None if full.startswith(_HEAVY) else 0


def _vectors(args: Sequence[Any], _: Mapping[str, Any], __: Any) -> int:
    return int(args[0].numel())


def _added_vector(args: Sequence[Any], _: Mapping[str, Any], __: Any) -> int:
    return int(args[1].numel())


def _recurrent(args: Sequence[Any], _: Mapping[str, Any], __: Any) -> int:
    """One direction of one layer: every step multiplies what comes in, and the state."""
    source, into, state = args[:3]
    return int(source.numel() // source.shape[-1] * (into.numel() + state.numel()))


def _recurrent_layers(args: Sequence[Any], _: Mapping[str, Any], __: Any) -> int:
    source, weights = args[0], args[1]
    return int(source.numel() // source.shape[-1] * sum(w.numel() for w in weights if w.dim() == 2))


def _bilinear(args: Sequence[Any], _: Mapping[str, Any], __: Any) -> int:
    return int(math.prod(args[0].shape[:1]) * args[1].numel())


def _deformable(args: Sequence[Any], _: Mapping[str, Any], out: Any) -> int:
    weight = args[1]
    return int(out.numel() // out.shape[1] * weight.numel())


_FORMULAS: dict[str, Callable[[Sequence[Any], Mapping[str, Any], Any], int]] = {
    "aten::mv": _vectors,
    "aten::dot": _vectors,
    "aten::vdot": _vectors,
    "aten::addmv": _added_vector,
    "aten::mkldnn_rnn_layer": _recurrent,
    "aten::_cudnn_rnn": _recurrent_layers,
    "aten::_trilinear": _bilinear,
    "torchvision::deform_conv2d": _deformable,
}


@contextmanager
def without_fused_attention() -> Iterator[None]:
    """Let attention of eval mode run as the operations that it is made of, which can be followed and counted.

    Yields:
        Nothing.
    """
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


class OperationCounter(TorchDispatchMode):
    """Counts what every module computes itself, inside the block.

    Args:
        model: The network.

    Attributes:
        macs: Multiply-accumulates by module; those of inner modules are not repeated in outer ones.
        uncounted: Operations for which there is no formula, with the module that ran them.
    """

    macs: dict[str, int]
    uncounted: dict[tuple[str, str], None]

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs, self.uncounted = {}, {}
        self._model = model
        self._stack: list[str] = []
        self._handles: list[Any] = []

    def __enter__(self) -> "OperationCounter":
        for name, module in self._model.named_modules():
            self._handles.append(
                module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name), prepend=True)
            )
            self._handles.append(module.register_forward_hook(lambda *_: self._leave()))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def _leave(self) -> None:
        self._stack.pop()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count_operation(
            self.macs, self.uncounted, self._stack[-1] if self._stack else "", func, args, kwargs, out
        )
        return out


def count_operation(
    macs: dict[str, int],
    uncounted: dict[tuple[str, str], None],
    module: str,
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    out: Any,
) -> int:
    """Add one call to what a module computes.

    Args:
        macs: By module; is added to.
        uncounted: Pairs of operation and module; is added to where there is no formula.
        module: The module that runs.
        func: The overload.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.

    Returns:
        What was added.
    """
    if not any(isinstance(value, Tensor) for value in torch.utils._pytree.tree_leaves((args, kwargs))):
        return 0
    count = macs_of(func, args, kwargs, out)
    if count is None:
        uncounted[str(func._schema.name).removeprefix("aten::").strip("_"), module] = None
    elif count:
        macs[module] = macs.get(module, 0) + count
    return count or 0


def named_uncounted(uncounted: Mapping[tuple[str, str], None]) -> tuple[str, ...]:
    """Words for operations that are not counted.

    Args:
        uncounted: From `count_operation`.

    Returns:
        One text each, such as "fft_rfft2 in filter".
    """
    return tuple(f"{name} in {module}" if module else name for name, module in uncounted)
