"""Run a network once and label its channels: what is remembered of every tensor.

`channel_labels` says what a label is, `operation_rules` what operations do with labels, `layer_rules` what layers do.
Operations are seen below autograd (aten), so that Python code of any shape is followed: functions, methods,
operators and in-place forms arrive alike.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from causal_prune.network.operation_costs import count_operation
from causal_prune.tracing.channel_labels import FIXED, Labels, LabelSets, Regions, compact, varying_dims
from causal_prune.tracing.channel_statistics import Calls, Place

PRODUCTS: dict[str, tuple[int, int, int | None]] = {
    "mm": (0, 1, None), "bmm": (0, 1, None), "addmm": (1, 2, 0), "baddbmm": (1, 2, 0), "mv": (0, 1, None),
    "addmv": (1, 2, 0), "matmul": (0, 1, None), "dot": (0, 1, None),
}  # fmt: skip
"""Products of matrices: where their operands stand among the arguments, and what is added."""

LARGEST_PARAMETER = 4_000_000
"""Parameters used outside a known layer are labelled element by element up to this size."""


@dataclass(frozen=True)
class Crossing:
    """A tensor with channels that enters or leaves a module: a place where channels can be picked or put back.

    Attributes:
        module: Name of the module.
        side: Whether it is an argument ("in") or a result ("out").
        leaf: Its position among the leaves of the arguments or results.
        before: Region that the tensor comes from.
        after: Region that it goes to.
        dim: Dimension of the channels.
        labels: Label of every channel.
    """

    module: str
    side: Literal["in", "out"]
    leaf: int
    before: int
    after: int
    dim: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class TracingForm:
    """How functions that count channels by position are treated.

    Attributes:
        rigid: Modules whose functions get all channels, so that constants in their code stay right.
        shares: Whether parts of equal size are cut alike, for code that splits by share (`chunk`); else the parts keep
            all channels, and what was cut is put back in front of them.
    """

    rigid: frozenset[str] = frozenset()
    shares: bool = False


class ChannelTracer(TorchDispatchMode):
    """Dispatch mode that keeps a label tensor beside every activation.

    Args:
        names: Names of the model's parameters and buffers by `id()`.
        rule_of: Gives the rule of an operation.
        form: How functions that count channels by position are treated.
    """

    def __init__(
        self, names: Mapping[int, str], rule_of: Callable[[Any], "Rule"], *, form: "TracingForm | None" = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sets = LabelSets()
        self.regions = Regions()
        self.parameters: dict[str, Labels] = {}
        self.crossings: list[Crossing] = []
        self.stack: list[str] = []
        self.branching: set[str] = set()
        self.inside_layer = 0
        self.counting = True
        self.macs: dict[str, int] = {}
        self.uncounted: dict[tuple[str, str], None] = {}
        self.reading: set[str] = set()
        self.approximate: set[int] = set()
        self._charged = ("", 0)
        self.statistics: set[Place] = set()
        self.alike: set[str] = set()
        self.calls = Calls()
        self.place: Place = ("", "", 0)
        self.form = form or TracingForm()
        self._names = names
        self._rule_of = rule_of
        self._labels: dict[int, tuple[weakref.ref[Tensor], Labels]] = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._labels.clear()
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def labels(self, tensor: Tensor) -> Labels:
        """What is known of `tensor`; a parameter or buffer outside a known layer is labelled on first sight.

        Args:
            tensor: Any tensor.

        Returns:
            Its labels; nothing but FIXED where it is unknown.
        """
        entry = self._labels.get(id(tensor))
        if entry is not None and entry[0]() is tensor:
            return entry[1]
        name = self._names.get(id(tensor))
        if name is None or not 1 < tensor.numel() <= LARGEST_PARAMETER:
            return Labels()
        if name not in self.parameters:
            ids = self.sets.fresh(tensor.numel()).reshape(tensor.shape)
            self.parameters[name] = Labels(ids, region=self.regions.fresh())
        return self.parameters[name]

    def parameter_of(self, tensor: Tensor) -> str | None:
        """The parameter that a tensor is, or is a view of.

        Args:
            tensor: Any tensor.

        Returns:
            Its name; None where it is another tensor, or computed from several.
        """
        known = self.labels(tensor)
        if known.ids is None or known.data:
            return None
        low, high = int(known.ids.min()), int(known.ids.max())
        for name, each in self.parameters.items():
            if each.ids is not None and int(each.ids.min()) <= low and high <= int(each.ids.max()):
                return name
        return None

    def charge(self, name: str) -> None:
        """Let a parameter that channels are summed over with stand for what the operation costs.

        Args:
            name: The parameter.
        """
        self.reading.add(name)
        module, count = self._charged
        if self.counting and count:
            self.macs[module] -= count
            self.macs[name] = self.macs.get(name, 0) + count

    def note(self, tensor: Tensor, labels: Labels) -> None:
        """Remember the labels of `tensor` for as long as it lives.

        Args:
            tensor: A tensor that the network has made.
            labels: Its labels.
        """
        self._labels[id(tensor)] = (weakref.ref(tensor), labels)

    def freeze(self, ids: Tensor | None, what: str) -> None:
        """Freeze all labels of a tensor.

        Args:
            ids: Canonical labels or None.
            what: What happens to the channels; the module is added.
        """
        if ids is not None:
            self.sets.freeze(torch.unique(compact(ids)).tolist(), f"{what}{self.where()}")

    def where(self) -> str:
        """The module that runs, as the end of a sentence.

        Returns:
            " in `name`", or an empty string at the top level.
        """
        return f" in {self.stack[-1]}" if self.stack and self.stack[-1] else ""

    def is_parameter(self, ids: Tensor) -> bool:
        """Whether labels were handed out to a parameter rather than to a layer's filters.

        Args:
            ids: Canonical labels.

        Returns:
            True for the labels of a parameter, or of something computed from parameters alone.
        """
        values = torch.unique(compact(ids)).tolist()
        spans = [
            (int(known.ids.flatten()[0]), int(known.ids.flatten()[-1]))
            for known in self.parameters.values()
            if known.ids is not None
        ]
        return all(any(low <= value <= high for low, high in spans) for value in values if value != FIXED)

    def cross(self, side: Literal["in", "out"], module: str, leaf: int, tensor: Tensor) -> None:
        """Let a tensor pass a border of a module: it may have another form behind it.

        Args:
            side: Whether it enters or leaves.
            module: Name of the module.
            leaf: Position of the tensor among the leaves of the arguments or results.
            tensor: The tensor.
        """
        known = self.labels(tensor)
        if known.ids is None or known.region is None:
            return
        dims = varying_dims(known.ids)
        if len(dims) != 1:  # channels along one dimension alone can be picked
            return
        after = self.regions.fresh()
        labels = tuple(compact(known.ids).flatten().tolist())
        self.crossings.append(Crossing(module, side, leaf, known.region, after, dims[0], labels))
        self.note(tensor, replace(known, region=after))

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        module = self.stack[-1] if self.stack else ""
        if self.counting:
            count = count_operation(self.macs, self.uncounted, module, func, args, kwargs, out)
            self._charged = (module, count)
        if not self.inside_layer:
            operation = Operation(self, func, args, kwargs, out)
            self.place = self.calls.next(module, func)
            read = [
                self.labels(tensor) for tensor in operation.inputs
            ]  # an operation may write into what it reads
            rigid = self._rule_of(func)(operation)
            self._join_regions(operation, read, rigid=bool(rigid) or module in self.form.rigid)
            self._carry_data(operation, read)
        return out

    def _carry_data(self, operation: "Operation", read: Sequence[Labels]) -> None:
        """What is computed from the network's input depends on it; a number read from it may steer the code."""
        if not any(known.data for known in read):
            return
        if operation.name == "local_scalar_dense" and self.stack:
            self.branching.add(self.stack[-1])
        for tensor in tensors(operation.out):
            self.note(tensor, replace(self.labels(tensor), data=True))

    def _join_regions(self, operation: "Operation", read: Sequence[Labels], *, rigid: bool) -> None:
        """What goes into a function and what comes out of it has one form."""
        touched = [known for known in map(self.labels, operation.inputs) if known.ids is not None]
        touched += [known for known in read if known.ids is not None]
        results = [(tensor, self.labels(tensor)) for tensor in tensors(operation.out)]
        results = [(tensor, known) for tensor, known in results if known.ids is not None]
        regions = [known.region for known in touched if known.region is not None]
        if not regions and not results:
            return
        region = regions[0] if regions else self.regions.fresh()
        for other in regions[1:]:
            self.regions.unite(region, other)
        for tensor, known in results:
            self.note(tensor, replace(known, region=region))
        if rigid:
            self.regions.widen(region)


@dataclass(frozen=True)
class Operation:
    """One call of an aten operation.

    Attributes:
        tracer: Where labels are kept.
        func: The overload.
        args: Positional arguments.
        kwargs: Keyword arguments.
        out: What it returned.
    """

    tracer: ChannelTracer
    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any

    @property
    def name(self) -> str:
        """Name without namespace, overload and the underscore of in-place forms."""
        return str(self.func._schema.name).split("::")[-1].strip("_")

    @property
    def inputs(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return tensors((self.args, self.kwargs))

    @property
    def source(self) -> Labels:
        """Labels of the first argument."""
        return self.tracer.labels(self.args[0])

    @property
    def parents(self) -> frozenset[str]:
        """Parents of all arguments together."""
        known = [self.tracer.labels(tensor).parents for tensor in self.inputs]
        return frozenset().union(*known) if known else frozenset()

    def argument(self, name: str) -> Any:
        """An argument by the name in the operation's schema.

        Args:
            name: The name.

        Returns:
            Its value or default; None where the operation has no such argument.
        """
        for position, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                if position < len(self.args):
                    return self.args[position]
                return self.kwargs.get(name, argument.default_value)
        return None

    def freeze(self, ids: Tensor | None, what: str) -> None:
        """Freeze labels because of this operation.

        Args:
            ids: Canonical labels or None.
            what: What happens to the channels.
        """
        self.tracer.freeze(ids, what)

    def note(self, ids: Tensor | None) -> None:
        """Give labels to those results that have their shape, and nothing but parents to the others.

        Args:
            ids: Canonical labels or None.
        """
        parents = self.parents
        for tensor in tensors(self.out):
            fits = ids is not None and ids.shape == tensor.shape
            self.tracer.note(tensor, Labels(ids if fits else None, parents))


Rule = Callable[[Operation], bool | None]
"""Labels the results; returns True where the operation needs all channels in their places."""


def tensors(tree: Any) -> list[Tensor]:
    """Tensors among the leaves of nested containers.

    Args:
        tree: Any nesting of tuples, lists and dictionaries.

    Returns:
        The tensors in order.
    """
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def tensor_names(model: nn.Module) -> dict[int, str]:
    """Names of a model's parameters and buffers by `id()`.

    Args:
        model: The network.

    Returns:
        The first name of each tensor.
    """
    names: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        names.setdefault(id(tensor), name)
    return names
