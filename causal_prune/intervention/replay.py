"""Interventions on what layers read: a network is recorded once and run again only behind the change."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from causal_prune.network.hooks import hooked
from causal_prune.network.layer_matrices import channel_dim
from causal_prune.network.running import Inputs, call
from causal_prune.network.tensor_trees import tensors_in

TOLERANCE = 1e-4
"""Largest difference of a recording's outputs from the network's, relative to the largest output."""


@dataclass(frozen=True)
class Constant:
    """do(channels = values) at the input of one layer.

    Attributes:
        positions: Input channels, shape (channels,).
        values: What they are set to, of the same shape; the same at every position and for every image.
    """

    positions: Tensor
    values: Tensor


Intervention: TypeAlias = Mapping[str, Constant]
"""By layer what its input is set to; a layer that is called more than once is changed every time."""


class Subject(Protocol):
    """A network with one batch of inputs, whose layers' inputs can be set."""

    @property
    def dense(self) -> Tensor:
        """The first output without any intervention."""
        ...

    def under(self, intervention: Intervention) -> Tensor:
        """The first output under an intervention."""
        ...


class Recorder:
    """Makes subjects of batches; batches of the same shapes share one recording.

    Args:
        model: A copy of the network that is its own, in eval mode and without gradients.
        readers: Names of the layers whose inputs may be set.
    """

    def __init__(self, model: nn.Module, readers: Sequence[str]) -> None:
        self._model = model
        self._readers = tuple(readers)
        self._known: dict[Any, _Program | None] = {}

    def subject(self, inputs: Inputs) -> Subject:
        """Run a batch once.

        The network is recorded as functional operations (torch's `make_fx`). Where that is not possible, or the
        recording computes something else (a branch that depends on the values), every intervention is a full forward
        pass with hooks.

        Args:
            inputs: Of the network; tensors, nested or not.

        Returns:
            The subject.

        Cost: one or two forward passes, and memory for all activations of the batch.
        """
        leaves, _ = pytree.tree_flatten(inputs)
        key = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        if key not in self._known:
            self._known[key] = _recorded(self._model, self._readers, inputs)
        program, whole = self._known[key], Rerun(self._model, inputs)
        if program is not None:
            replay = Replay(
                program, leaves, {name: self._model.get_submodule(name) for name in self._readers}
            )
            scale = whole.dense.abs().max().clamp_min(1e-30)
            if bool((replay.dense - whole.dense).abs().max() <= TOLERANCE * scale):
                return replay
        return whole


class Rerun:
    """A subject that runs the whole network for every intervention.

    Args:
        model: In eval mode.
        inputs: One batch.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._model = model
        self._inputs = inputs
        self.dense = tensors_in(call(model, inputs))[0]

    def under(self, intervention: Intervention) -> Tensor:
        """The first output under an intervention.

        Args:
            intervention: What is set.

        Returns:
            The output.
        """
        with ExitStack() as stack:
            for name, constant in intervention.items():
                module = self._model.get_submodule(name)
                hooked(stack, module, partial(_set, module, constant))
            return tensors_in(call(self._model, self._inputs))[0]


@dataclass(frozen=True)
class _Program:
    """Operations in order, and where the readers' inputs appear in them."""

    nodes: tuple[fx.Node, ...]
    constants: Mapping[fx.Node, Tensor]
    leaves: tuple[fx.Node, ...]
    points: Mapping[fx.Node, str]
    output: fx.Node


def _recorded(model: nn.Module, readers: Sequence[str], inputs: Inputs) -> _Program | None:
    leaves, form = pytree.tree_flatten(inputs)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    marks = [torch.zeros((), device=tensors[0].device) for _ in readers]

    def run(given: list[Tensor], zeros: list[Tensor]) -> Tensor:
        rest = iter(given)
        filled = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        with ExitStack() as stack:
            for name, zero in zip(readers, zeros, strict=True):
                # an addition of its own marks the place where the layer reads
                hooked(stack, model.get_submodule(name), partial(torch.add, zero))
            return tensors_in(call(model, pytree.tree_unflatten(filled, form)))[0]

    try:
        traced = make_fx(functionalize(run))(tensors, marks)
    except Exception:  # noqa: BLE001 - whatever cannot be recorded is run as a whole
        return None
    traced.graph.eliminate_dead_code()
    nodes = tuple(traced.graph.nodes)
    placeholders = [node for node in nodes if node.op == "placeholder"]
    inlets, zeros = placeholders[: len(tensors)], placeholders[len(tensors) :]
    points = {user: name for name, zero in zip(readers, zeros, strict=True) for user in zero.users}
    (output,) = (node for node in nodes if node.op == "output")
    constants = {node: getattr(traced, str(node.target)) for node in nodes if node.op == "get_attr"}
    steps = tuple(node for node in nodes if node.op == "call_function")
    if not all(zero.users for zero in zeros):
        return None  # a layer that did not run here
    (result,) = output.all_input_nodes
    return _Program(steps, constants, tuple(inlets), points, result)


class Replay:
    """A subject that runs only what lies behind an intervention.

    Args:
        program: The recording.
        leaves: The inputs, flat.
        readers: The layers whose inputs may be set.
    """

    def __init__(self, program: _Program, leaves: Sequence[Any], readers: Mapping[str, nn.Module]) -> None:
        self._program = program
        self._readers = readers
        self._plans: dict[tuple[str, ...], tuple[list[fx.Node], list[list[fx.Node]], set[fx.Node]]] = {}
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._values: dict[fx.Node, Any] = {
            **program.constants,
            **dict(zip(program.leaves, tensors, strict=True)),
        }
        for node in program.nodes:
            self._values[node] = (
                self._values[_read_by(node)]
                if node in program.points
                else _run(node, self._values.__getitem__)
            )
        self.dense: Tensor = self._values[program.output]

    @property
    def bytes(self) -> int:
        """Memory of all that is kept, views counted once for each."""
        return sum(t.numel() * t.element_size() for value in self._values.values() for t in tensors_in(value))

    def under(self, intervention: Intervention) -> Tensor:
        """The first output under an intervention.

        Args:
            intervention: What is set.

        Returns:
            The output.

        Cost: the operations behind the layers that read; of the first of them only the changed channels.
        """
        key = tuple(intervention)
        if key not in self._plans:
            self._plans[key] = self._plan(set(key))
        steps, last_uses, first = self._plans[key]
        changed: dict[fx.Node, Any] = {}

        def value(node: fx.Node) -> Any:
            return changed[node] if node in changed else self._values[node]

        for node, done in zip(steps, last_uses, strict=True):
            name = self._program.points.get(node)
            if name is not None:
                source = value(_read_by(node))
                constant = intervention.get(name)
                changed[node] = source if constant is None else _set(self._readers[name], constant, source)
            elif node in first:
                changed[node] = self._corrected(node, intervention[self._program.points[_point(node)]])
            else:
                changed[node] = _run(node, value)
            for other in done:
                changed.pop(other, None)
        output: Tensor = changed.get(self._program.output, self.dense)
        return output

    def _plan(self, names: set[str]) -> tuple[list[fx.Node], list[list[fx.Node]], set[fx.Node]]:
        """The operations behind some readers, after each what is not needed any more, and the first convolutions."""
        behind: dict[fx.Node, None] = {}
        for node in self._program.nodes:
            touched = self._program.points.get(node) in names
            if touched or any(source in behind for source in node.all_input_nodes):
                behind[node] = None
        steps, last = list(behind), {}
        for index, node in enumerate(steps):
            last.update({source: index for source in node.all_input_nodes if source in behind})
        done: list[list[fx.Node]] = [[] for _ in steps]
        for node, index in last.items():
            if node is not self._program.output:
                done[index].append(node)
        first = {node for node in steps if self._is_first(node, names, behind)}
        return steps, done, first

    def _is_first(self, node: fx.Node, names: set[str], behind: Mapping[fx.Node, None]) -> bool:
        """Whether this is a dense convolution that reads an intervention with nothing changed before it."""
        if node.target is not torch.ops.aten.convolution.default or node.args[6] or node.args[8] != 1:
            return False
        point = _point(node)
        if self._program.points.get(point) not in names or _read_by(point) in behind:
            return False
        return not any(source in behind for source in node.all_input_nodes if source is not point)

    def _corrected(self, node: fx.Node, constant: Constant) -> Tensor:
        """Y' = Y + W_j (m_j - x_j): a convolution is linear in what it reads."""
        source = self._values[node.args[0]]  # type: ignore[index]
        weight = self._values[node.args[1]].index_select(1, constant.positions)  # type: ignore[index]
        dim = source.dim() - (weight.dim() - 1)
        kept = source.index_select(dim, constant.positions)
        shape = [1] * kept.dim()
        shape[dim] = -1
        change = constant.values.to(kept.dtype).reshape(shape) - kept
        corrected: Tensor = self._values[node] + torch.ops.aten.convolution.default(
            change, weight, None, *node.args[3:]
        )
        return corrected


def _run(node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    args, kwargs = fx.map_arg((node.args, node.kwargs), value)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _point(convolution: fx.Node) -> fx.Node:
    point = convolution.args[0]
    assert isinstance(point, fx.Node)
    return point


def _read_by(mark: fx.Node) -> fx.Node:
    """What a layer reads at a marked place: the other operand of the marking addition."""
    source = mark.args[1]
    assert isinstance(source, fx.Node)
    return source


def _set(module: nn.Module, constant: Constant, source: Tensor) -> Tensor:
    dim = channel_dim(module, source)
    shape = [1] * source.dim()
    shape[dim] = -1
    target = list(source.shape)
    target[dim] = len(constant.positions)
    values = constant.values.to(source.dtype).reshape(shape).expand(target)
    return source.index_copy(dim, constant.positions, values)
