"""Statistics over channels inside functions: normalisations written by hand, squeezes for spatial attention.

A mean, a largest value, a variance or a norm over all channels keeps its meaning when some go, as that of a layer norm
does: its channels may be cut, and the cut is approximate. As a cut network and a silenced one differ there by nature,
such statistics are held at one value in both while they are compared.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

STATISTICS = (
    "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm",
)  # fmt: skip
"""Reductions over channels that normalise or squeeze them."""

HELD_AT = 0.5

Place: TypeAlias = tuple[str, str, int]
"""The module that runs, the operation, and how many such calls of that module came before."""


class Calls:
    """Numbers the calls of operations by the module that makes them."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, str]] = Counter()

    def next(self, module: str, func: Any) -> Place:
        """Number a call.

        Args:
            module: The module that runs.
            func: The overload.

        Returns:
            Its place.
        """
        key = (module, str(func._schema.name))
        self._seen[key] += 1
        return (*key, self._seen[key] - 1)


class StatisticsHeld(TorchDispatchMode):
    """Holds some statistics of a network at one value inside the block.

    Args:
        model: The network.
        places: Which.
    """

    def __init__(self, model: nn.Module, places: frozenset[Place]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._model, self._places = model, places
        self._names = {name for _, name, _ in places}
        self._calls, self._stack = Calls(), [""]
        self._handles: list[Any] = []

    def __enter__(self) -> "StatisticsHeld":
        for name, module in self._model.named_modules() if self._places else ():
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
        out = func(*args, **(kwargs or {}))
        if str(func._schema.name) in self._names and self._calls.next(self._stack[-1], func) in self._places:
            return tree_map(_held, out)
        return out


def _held(value: Any) -> Any:
    return (
        torch.full_like(value, HELD_AT) if isinstance(value, Tensor) and value.is_floating_point() else value
    )
