"""Run a network once and label its channels: what is remembered of every tensor.

`channel_labels` says what a label is, `operation_rules` what operations do with labels, `layer_rules` what layers do.
Operations are seen below autograd (aten), so that Python code of any shape is followed: functions, methods,
operators and in-place forms arrive alike.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from causal_prune.channel_labels import FIXED, Labels, LabelSets, compact

LARGEST_PARAMETER = 4_000_000
"""Parameters used outside a known layer are labelled element by element up to this size."""

Rule = Callable[["ChannelTracer", Any, Sequence[Any], Mapping[str, Any], Any], None]


class ChannelTracer(TorchDispatchMode):
    """Dispatch mode that keeps a label tensor beside every activation.

    Args:
        names: Names of the model's parameters and buffers by `id()`.
        rule_of: Gives the rule of an operation.
    """

    def __init__(self, names: Mapping[int, str], rule_of: Callable[[Any], Rule]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sets = LabelSets()
        self.parameters: dict[str, Tensor] = {}
        self.stack: list[str] = []
        self.inside_layer = 0
        self._names = names
        self._rule_of = rule_of
        self._labels: dict[int, tuple[weakref.ref[Tensor], Labels]] = {}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
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
            self.parameters[name] = self.sets.fresh(tensor.numel()).reshape(tensor.shape)
        return Labels(self.parameters[name])

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
        owned = {int(known.reshape(-1)[0]) for known in self.parameters.values()}
        ends = {int(known.reshape(-1)[-1]) for known in self.parameters.values()}
        spans = list(zip(sorted(owned), sorted(ends), strict=True))
        values = torch.unique(compact(ids)).tolist()
        return all(any(low <= value <= high for low, high in spans) for value in values if value != FIXED)

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not self.inside_layer:
            self._rule_of(func)(self, func, args, kwargs, out)
        return out


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
