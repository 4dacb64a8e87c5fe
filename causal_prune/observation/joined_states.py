"""Which state the output of a layer becomes part of, what scales it on the way, and how much the state varies."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from causal_prune.machine import add_up
from causal_prune.network.patches import positions_read
from causal_prune.observation.gathering import Gathering, gather_all

_SAME = ("detach", "alias", "clone", "contiguous", "_to_copy", "native_dropout", "lift_fresh")
_MOVED = ("permute", "transpose", "t")
_SUMS = ("add", "sub")
_SCALED = ("mul", "div")


@dataclass(frozen=True)
class State:
    """The state that a layer's output becomes part of.

    Attributes:
        gain: By how much each filter's output is multiplied on the way there, shape (filters,), float64.
        variance: Variance of each channel of the state over images and positions, shape (filters,), float64.
    """

    gain: Tensor
    variance: Tensor


@dataclass(frozen=True)
class _Flow:
    """Outputs that a tensor holds as summands: the channel dimension, and the gain of each layer's filters."""

    dim: int
    gains: Mapping[str, Tensor]


_FlowOf = Callable[[Tensor], _Flow | None]


class StateFlow(TorchDispatchMode):
    """Follows outputs below autograd until something reads them that is neither linear nor a sum.

    From where it is written, an output may pass a batch norm in eval mode, a multiplication by constants of its
    channels, and any number of sums. The tensor that is then read by something else, a rectifier, another layer or a
    concatenation, is the state that the output becomes part of: the sum, where it is added into a residual stream;
    the layer's own (normalised) output, in a plain network; the output of the network, where nobody reads it. The
    first reader decides. In a network that normalises before it rectifies (He et al. 2016b) the state is thus the
    stream behind the next block's batch norm.

    Args:
        filters: Number of filters of the layers to follow, by name.
        device: Where to add up.
    """

    def __init__(self, filters: Mapping[str, int], device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.gathered = {name: Gathering(n, 1, 1, device) for name, n in filters.items()}
        self.gains: dict[str, Tensor] = {}
        self._device = device
        self._flows: dict[int, tuple[weakref.ref[Tensor], _Flow]] = {}
        self._open: dict[str, Tensor] = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._flows.clear()
        self._open.clear()
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def written(self, name: str, out: Tensor, dim: int) -> None:
        """Follow an output from here.

        Args:
            name: The layer.
            out: What it returned.
            dim: The dimension of its filters.
        """
        if name in self.gathered:
            self._close_open([name])
            ones = torch.ones(out.shape[dim], dtype=torch.float64)
            self._hold(out, _Flow(dim, {name: ones}))

    def end_batch(self) -> None:
        """Count what nothing has read as it is."""
        self._close_open(list(self._open))
        self._flows.clear()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and self._flow(t) is not None]
        if not read:
            return func(*args, **kwargs)
        carried = _carried(func, args, kwargs, self._flow)
        if carried is None:
            for tensor in read:
                self._close(tensor)
        out = func(*args, **kwargs)
        if carried is not None:
            still = {name: gain for name, gain in carried.gains.items() if name in self._open}
            self._hold(out if isinstance(out, Tensor) else out[0], replace(carried, gains=still))
        return out

    def _flow(self, tensor: Tensor) -> _Flow | None:
        entry = self._flows.get(id(tensor))
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def _hold(self, tensor: Tensor, flow: _Flow) -> None:
        self._flows[id(tensor)] = (weakref.ref(tensor), flow)
        for name in flow.gains:
            self._open[name] = tensor

    def _close_open(self, names: list[str]) -> None:
        for name in names:
            if name in self._open:
                self._close(self._open[name])

    def _close(self, tensor: Tensor) -> None:
        """Count a tensor as the state of every output in it that has no state yet."""
        flow = self._flow(tensor)
        waiting = [name for name in (flow.gains if flow else ()) if name in self._open]
        if flow is None or not waiting:
            return
        values = tensor.detach().movedim(flow.dim, -1)
        index = positions_read(values.shape[1:-1]).to(values.device)
        values = values.reshape(values.shape[0] if values.dim() > 1 else 1, -1, values.shape[-1])
        if len(index) < values.shape[1]:
            values = values.index_select(1, index)
        rows = values.to(self._device).to(torch.float64, copy=True).flatten(0, 1).T[:, :, None, None]
        for name in waiting:
            del self._open[name]
            self.gains.setdefault(name, flow.gains[name])
            if rows.shape[1]:
                self.gathered[name].add(rows.clone())

    def gather(self) -> None:
        """Let every process have the moments and gains of all."""
        for name, gathering in self.gathered.items():
            seen = add_up(torch.tensor([float(name in self.gains)], dtype=torch.float64))
            own = self.gains.get(name, torch.zeros(len(gathering.mean), dtype=torch.float64))
            gain = add_up(own.clone())
            if float(seen) > 0:
                self.gains[name] = gain / float(seen)
            gather_all(gathering)

    def result(self) -> dict[str, State]:
        """What was found of every layer that has run.

        Returns:
            States by layer.
        """
        return {
            name: State(self.gains[name], moments.covariance[:, 0, 0].cpu())
            for name, moments in ((name, each.result()) for name, each in self.gathered.items())
            if name in self.gains
        }


def _carried(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], flow_of: _FlowOf) -> _Flow | None:
    """The flow of an operation's result, or None where the operation is a reader."""
    full = str(func._schema.name).split("::")[-1]
    name = full if full.startswith("_") else full.rstrip("_")
    flow = flow_of(args[0]) if isinstance(args[0], Tensor) else None
    if name in _SAME:
        return flow
    if name in _MOVED and flow is not None:
        return _reordered(name, args, flow)
    if "batch_norm" in name and flow is not None:
        return _normalised(func, args, kwargs, flow)
    if name in _SUMS:
        return _summed(args, kwargs, flow_of)
    if name in _SCALED:
        return _scaled(name, args, flow_of)
    return None


def _reordered(name: str, args: Sequence[Any], flow: _Flow) -> _Flow:
    rank = args[0].dim()
    order = list(range(rank))
    if name == "permute":
        order = [d % rank for d in args[1]]
    else:
        a, b = (0, rank - 1) if name == "t" else (args[1] % rank, args[2] % rank)
        order[a], order[b] = order[b], order[a]
    return replace(flow, dim=order.index(flow.dim))


def _normalised(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], flow: _Flow) -> _Flow | None:
    given = {
        argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)
    } | dict(kwargs)
    weight, variance = given.get("weight"), given.get("running_var")
    if given.get("training") or variance is None or flow.dim != 1:
        return None
    gain = (variance.double() + given.get("eps", given.get("epsilon", 0.0))).rsqrt()
    return _times(flow, gain if weight is None else gain * weight.detach().double())


def _summed(args: Sequence[Any], kwargs: Mapping[str, Any], flow_of: _FlowOf) -> _Flow | None:
    terms = [value for value in args[:2] if isinstance(value, Tensor)]
    shape = torch.broadcast_shapes(*(term.shape for term in terms))
    gains: dict[str, Tensor] = {}
    dims = set()
    for term in terms:
        flow = flow_of(term)
        if flow is None:
            continue
        if term.shape != shape:
            return None
        dims.add(flow.dim)
        alpha = float(kwargs.get("alpha", 1)) if term is args[1] else 1.0
        for name, gain in flow.gains.items():
            gains[name] = gains[name] + alpha * gain if name in gains else alpha * gain
    return _Flow(dims.pop(), gains) if len(dims) == 1 else None


def _scaled(name: str, args: Sequence[Any], flow_of: _FlowOf) -> _Flow | None:
    source, factor = args[:2]
    if name == "mul" and (not isinstance(source, Tensor) or flow_of(source) is None):
        source, factor = factor, source
    flow = flow_of(source) if isinstance(source, Tensor) else None
    if flow is None:
        return None
    if isinstance(factor, int | float):
        return _times(flow, torch.tensor(1 / factor if name == "div" else float(factor), dtype=torch.float64))
    if not isinstance(factor, nn.Parameter) or factor.dim() > source.dim():
        return None
    shape = [1] * (source.dim() - factor.dim()) + list(factor.shape)
    if any(size != 1 for dim, size in enumerate(shape) if dim != flow.dim):
        return None
    values = factor.detach().double().flatten()
    return _times(flow, 1 / values if name == "div" else values)


def _times(flow: _Flow, factor: Tensor) -> _Flow:
    return replace(flow, gains={name: gain * factor.to(gain.device) for name, gain in flow.gains.items()})
