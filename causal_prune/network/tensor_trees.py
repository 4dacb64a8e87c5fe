"""Tensors in whatever a network takes and returns: containers, dataclasses, objects of the user's own."""

import copy
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn

from causal_prune.errors import InputError

_CLOSED = (nn.Module, type, FunctionType, BuiltinFunctionType, MethodType, ModuleType)
"""What may hold tensors that are none of a network's inputs or outputs."""


class ImageList(list[Any]):
    """A list of images that a network takes as one argument: its entries are the rows of the batch."""


def parts_of(value: Any) -> list[tuple[str, Any]]:
    """The entries of a container or an object, each with its key, position or name.

    Args:
        value: A mapping, a tuple, a list, or an object with attributes: a dataclass, a named tuple or a class of the
            user's own.

    Returns:
        The entries in order; none for tensors, numbers, texts, modules and functions.
    """
    if isinstance(value, Mapping):
        return [(str(key), entry) for key, entry in value.items()]
    if isinstance(value, tuple | list | deque):
        return [(str(place), entry) for place, entry in enumerate(value)]
    if isinstance(value, (Tensor, *_CLOSED)):
        return []
    slots = [name for kind in type(value).__mro__ for name in _names(kind)]
    names = [*dict.fromkeys((*slots, *getattr(value, "__dict__", ())))]
    return [(name, getattr(value, name)) for name in names if hasattr(value, name)]


def _names(kind: type) -> tuple[str, ...]:
    found = kind.__dict__.get("__slots__", ())
    names = (found,) if isinstance(found, str) else tuple(found)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def named_tensors(value: Any, name: str = "", first: str = "") -> list[tuple[str, Tensor]]:
    """Every tensor inside nested containers and objects, in order, with its place.

    Args:
        value: A network's inputs or outputs.
        name: Of the value itself.
        first: What stands in front of a position at the top.

    Returns:
        Pairs of a name (keys, positions and attributes joined by "_") and a tensor, which is not copied.
    """
    return list(_walk(value, name, first, ()))


def _walk(value: Any, name: str, first: str, above: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name or first, value
        return
    if id(value) in above:
        return  # it holds itself
    by_place = isinstance(value, tuple | list | deque)
    front = name or (first if by_place else "")
    for key, entry in parts_of(value):
        yield from _walk(entry, f"{front}_{key}" if front else key, first, (*above, id(value)))


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor inside nested tuples, lists, mappings, dataclasses and objects, in order.

    Args:
        value: A network's inputs or outputs; entries that are no tensors are passed over.

    Returns:
        The tensors, not copied.
    """
    return [tensor for _, tensor in named_tensors(value)]


def outputs_in(returned: Any, who: str = "the model") -> list[Tensor]:
    """The tensors that a network returned.

    Args:
        returned: What it returned.
        who: Of whom the error speaks.

    Returns:
        At least one tensor.

    Raises:
        InputError: If there is none.
    """
    found = tensors_in(returned)
    if not found:
        raise InputError(
            f"{who} returns {_described(returned)} in which no tensor is found: "
            "return tensors, or containers or dataclasses of tensors"
        )
    return found


def _described(value: Any) -> str:
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1] in 'AEIOaeio' else 'a'} {name}"


def mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """The same structure with other tensors.

    Args:
        change: From a tensor to what takes its place.
        value: A network's inputs.

    Returns:
        New containers and objects of the same types; what holds no tensor is not copied.
    """
    return _mapped(change, value, {})


def _mapped(change: Callable[[Tensor], Any], value: Any, known: dict[int, Any]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if id(value) in known:
        return known[id(value)]  # it holds itself
    if type(value) is dict:
        return {key: _mapped(change, entry, known) for key, entry in value.items()}
    if isinstance(value, tuple | list | deque):
        entries: Any = [_mapped(change, entry, known) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    if not tensors_in(value):
        return value
    other = known[id(value)] = copy.copy(value)
    for key, entry in list(parts_of(value)):
        if not tensors_in(entry):
            continue
        if isinstance(value, Mapping):
            other[key] = _mapped(change, entry, known)
        else:
            object.__setattr__(other, key, _mapped(change, entry, known))  # also into frozen dataclasses
    return other


def own(value: Any) -> Any:
    """Inputs that a network may write into.

    Args:
        value: A network's inputs.

    Returns:
        The same structure with copies of all tensors, plain ones where they were of a class of the user's own.
    """
    return mapped(_own, value)


def _own(tensor: Tensor) -> Tensor:
    copied = tensor.clone()
    return copied if type(copied) is Tensor else copied.as_subclass(Tensor)
