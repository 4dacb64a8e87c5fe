"""What of torch's modes surrounds a call, or is switched on inside a network, and must not change what is computed."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_HERE = threading.local()
_GUARD = threading.Lock()
_INSIDE: list[int] = []
_ORIGINAL: dict[tuple[type, str], Any] = {}
_LIFTED = (torch.inference_mode, torch.autocast)


def undisturbed(verb: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute in plain arithmetic with gradients at hand, whatever surrounds its call.

    Inference mode and autocast, around it or inside the code of a network that it runs, are off while it runs: tensors
    of inference mode keep no versions and have no derivatives, and autocast rounds what is compared. What loaders and
    networks draw at random leaves torch's generator of the CPU as it was.

    Args:
        verb: A function of the public contract.

    Returns:
        The same function; modes are as before after it, also when it raises.
    """

    @functools.wraps(verb)
    def plainly(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch.random.fork_rng(devices=[]), plain_modes():
            return verb(*args, **kwargs)

    return plainly


@contextmanager
def plain_modes() -> Iterator[None]:
    """Lift inference mode and autocast inside the block, for this thread alone.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(_lifting())
        yield


@contextmanager
def lifting_here() -> Iterator[None]:
    """Lift the modes in a thread that works for a block of `plain_modes` in another one.

    Yields:
        Nothing.
    """
    _HERE.depth = getattr(_HERE, "depth", 0) + 1
    try:
        yield
    finally:
        _HERE.depth -= 1


@contextmanager
def _lifting() -> Iterator[None]:
    with _GUARD:
        if not _INSIDE:
            _patch()
        _INSIDE.append(threading.get_ident())
    try:
        with lifting_here():
            yield
    finally:
        with _GUARD:
            _INSIDE.remove(threading.get_ident())
            if not _INSIDE:
                for (kind, name), original in _ORIGINAL.items():
                    setattr(kind, name, original)
                _ORIGINAL.clear()


def _patch() -> None:
    """Let the modes do nothing in threads that lift them, for as long as any does."""
    for kind in _LIFTED:
        for name in ("__enter__", "__exit__"):
            original = getattr(kind, name)
            _ORIGINAL[kind, name] = original
            setattr(kind, name, _unless_lifted(original))


def _unless_lifted(original: Callable[..., Any]) -> Callable[..., Any]:
    entering = original.__name__ == "__enter__"

    @functools.wraps(original)
    def method(self: Any, *args: Any) -> Any:
        # a context that was entered as it is must be left as it is
        if entering:
            lifted = getattr(_HERE, "depth", 0) > 0
            vars(self).setdefault("_causal_prune_lifted", []).append(lifted)
        else:
            marks = vars(self).get("_causal_prune_lifted") or [False]
            lifted = marks.pop()
        if not lifted:
            return original(self, *args)
        return self if entering else None

    return method
