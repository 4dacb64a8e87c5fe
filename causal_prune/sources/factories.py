"""Calling a function that the user names as `path/file.py:factory` or `package.module:factory`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from causal_prune.errors import InputError, nearest, one_line
from causal_prune.sources.siblings import run_file, seen_from

BEHIND = "put it behind `if __name__ == '__main__'`"


def anchored(path: Path | str, within: Path | None) -> Path:
    """A path that means the same wherever the working folder is moved to.

    Args:
        path: As it was given; a tilde is the home folder.
        within: The folder from which it counts where it is relative; None leaves it as it is.

    Returns:
        The path.
    """
    place = Path(path).expanduser()
    return place if within is None else within / place


def call_factory(
    spec: str, arguments: Mapping[str, object], *, option: str, within: Path | None = None
) -> object:
    """Import a module or run a file, and call the function that it holds.

    The code sees the modules beside it, not those of another file's folder (see `siblings`), and a command line that is
    empty. A file that has not changed since is run once, however often it is named.

    Args:
        spec: `path/file.py:factory` or `package.module:factory`; a file's folder (for a module `within`) comes first in
            the import path meanwhile.
        arguments: Keyword arguments of the call.
        option: The option that named it, for the messages.
        within: The folder from which a relative path counts; None for the working folder.

    Returns:
        What the function returned.

    Raises:
        InputError: If the file, the module or the function does not exist, is no function, or raises, or if the code
            ends the program or reads its command line.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name or name.endswith(".py"):
        raise InputError(
            f"{option}: '{spec}' names no function; write path/file.py:factory or package.module:factory"
        )
    is_file = source.endswith(".py")
    path = anchored(source, within)
    if is_file and not path.is_file():
        raise InputError(f"{option}: there is no file {source}")
    path = path.resolve()
    place = path.parent if is_file else (within or Path.cwd()).resolve()
    with seen_from(place, anew=True) as folder, _empty_command_line(path):
        with _told(f"{option}: {source}", "cannot be imported:", f" while it was imported; {BEHIND}"):
            module = run_file(path, folder) if is_file else importlib.import_module(source)
        factory = _function(vars(module), name, f"{option}: {source}")
        takes = (
            "give it arguments with `model_arg`" if option == "model" else "it is called without arguments"
        )
        with _told(f"{option}: {spec}", "raised", f"; a factory returns what it made, and {takes}"):
            return factory(**arguments)


def _function(found: Mapping[str, object], name: str, place: str) -> Callable[..., object]:
    if name not in found:
        callables = [key for key, value in found.items() if callable(value) and not key.startswith("__")]
        raise InputError(f"{place} has no '{name}'{nearest(name, callables)}")
    factory = found[name]
    # a network is callable, but calling it runs it
    if not callable(factory) or isinstance(factory, nn.Module):
        kind = type(factory).__name__
        raise InputError(f"{place}:{name} is a {kind}, not a function; name a function that returns it")
    return factory


class _CommandLineRead(SystemExit):
    """Somebody else's code asked what was typed, which was not meant for it."""


class _Arguments(list[str]):
    """Arguments of a program that know where they come from, parts of them too."""

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Arguments(found) if isinstance(place, slice) else found


@contextmanager
def _empty_command_line(path: Path) -> Iterator[None]:
    """Let code that reads the command line find an empty one, and argparse stop there."""
    arguments, parse = sys.argv, argparse.ArgumentParser.parse_known_args

    def guarded(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        if args is None or isinstance(args, _Arguments):
            raise _CommandLineRead
        return parse(self, args, namespace)

    sys.argv = _Arguments([str(path)])
    argparse.ArgumentParser.parse_known_args = guarded  # type: ignore[method-assign]
    try:
        yield
    finally:
        sys.argv, argparse.ArgumentParser.parse_known_args = arguments, parse  # type: ignore[method-assign]


@contextmanager
def _told(who: str, failed: str, mend: str) -> Iterator[None]:
    """Tell in one line what somebody else's code did instead of what it was called for."""
    try:
        yield
    except _CommandLineRead as cause:
        raise InputError(f"{who} read the command line (parse_args){mend}") from cause
    except SystemExit as cause:
        code = "" if cause.code is None else one_line(RuntimeError(repr(cause.code))).partition(": ")[2]
        raise InputError(f"{who} ended the program (sys.exit({code})){mend}") from cause
    except KeyboardInterrupt:
        raise
    except BaseException as cause:  # a user's code may raise anything
        raise InputError(f"{who} {failed} {one_line(cause)}") from cause
