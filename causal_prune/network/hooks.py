"""Hooks that see or change what layers read and return, and that are gone at the end of a block."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

See: TypeAlias = Callable[[str, nn.Module, Tensor, Any], object]
"""Is called with a layer's name, the layer, what it read and what it returned; what it returns, unless None, replaces
the latter."""


def source_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """What a layer reads, from the arguments of its call.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        The input.
    """
    source = args[0] if args else kwargs["input"]
    assert isinstance(source, Tensor)
    return source


def hooked(stack: ExitStack, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Let a function change what a layer reads, until `stack` is closed.

    Args:
        stack: Takes the hook off when it is closed.
        module: The layer.
        change: From the input to what is read instead.
    """

    def hook(_: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        read = change(source_of(args, kwargs))
        return ((read, *args[1:]), kwargs) if args else (args, {**kwargs, "input": read})

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    stack.callback(handle.remove)


@dataclass(frozen=True)
class Further:
    """What a layer was given besides its input, such as the `output_size` of a transposed convolution.

    Attributes:
        args: Further positional arguments.
        kwargs: Keyword arguments, without the input.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.args or self.kwargs)


def further_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Further:
    """What a layer was given besides its input.

    Args:
        args: Positional arguments of its call.
        kwargs: Keyword arguments of its call.

    Returns:
        The rest.
    """
    return Further(tuple(args[1:]), kwargs if args else {k: v for k, v in kwargs.items() if k != "input"})


@contextmanager
def calls_seen(
    layers: Mapping[str, nn.Module],
    see: See,
    *,
    first: bool = False,
    further: Callable[[str, Further], object] | None = None,
) -> Iterator[None]:
    """Show every call of some layers, inside the block.

    Args:
        layers: The layers by name.
        see: Is shown each call.
        first: Whether it comes before the hooks that are there already.
        further: Is called before `see` with the name and what the layer was given besides its input.

    Yields:
        Nothing; the hooks are taken off at the end, also after an error.
    """

    def hook(name: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> object:
        if further is not None:
            further(name, further_of(args, kwargs))
        return see(name, module, source_of(args, kwargs), out)

    with ExitStack() as stack:
        for name, layer in layers.items():
            handle = layer.register_forward_hook(partial(hook, name), with_kwargs=True, prepend=first)
            stack.callback(handle.remove)
        yield


@contextmanager
def outputs_of(
    layers: Mapping[str, nn.Module], see: Callable[[str, nn.Module, Tensor], object]
) -> Iterator[None]:
    """Show what layers return, inside the block.

    Args:
        layers: Any modules by name.
        see: Is called with the name, the layer and its output; what it returns, unless None, replaces the output.

    Yields:
        Nothing; the hooks are taken off at the end, also after an error.
    """

    def hook(name: str, module: nn.Module, _: Any, out: Tensor) -> object:
        return see(name, module, out)

    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(hook, name)).remove)
        yield
