"""Calling a function that the user names as `path/file.py:factory` or `package.module:factory`."""

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from torch import nn

from causal_prune.errors import InputError, one_line


def nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    """Suggest what a misspelt name may have meant.

    Args:
        name: The name that is not known.
        known: The names that are.

    Returns:
        `; did you mean 'x'?`, or an empty text where nothing is near.
    """
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


@contextmanager
def _importable_from(folder: Path) -> Iterator[None]:
    """Let imports look into a folder first, as Python does for a script, and forget it afterwards."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


def _run_file(path: Path) -> ModuleType:
    name = f"causal_prune_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a class's module up by name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def call_factory(spec: str, arguments: Mapping[str, object], *, option: str) -> object:
    """Import a module or run a file, and call the function that it holds.

    Args:
        spec: `path/file.py:factory` or `package.module:factory`; a file's folder (for a module the
            working folder) comes first in the import path meanwhile.
        arguments: Keyword arguments of the call.
        option: The option that named it, for the messages.

    Returns:
        What the function returned.

    Raises:
        InputError: If the file, the module or the function does not exist, is no function, or raises.
    """
    source, _, name = spec.rpartition(":")
    if not source or not name or name.endswith(".py"):
        raise InputError(
            f"{option}: '{spec}' names no function; write path/file.py:factory or package.module:factory"
        )
    is_file = source.endswith(".py")
    path = Path(source).expanduser()
    if is_file and not path.is_file():
        raise InputError(f"{option}: there is no file {source}")
    with _importable_from(path.resolve().parent if is_file else Path.cwd()):
        try:
            module = _run_file(path.resolve()) if is_file else importlib.import_module(source)
        except Exception as cause:  # a user's module may raise anything
            raise InputError(f"{option}: {source} cannot be imported: {one_line(cause)}") from cause
        found = vars(module)
        if name not in found:
            callables = [key for key, value in found.items() if callable(value)]
            raise InputError(f"{option}: {source} has no '{name}'{nearest(name, callables)}")
        factory = found[name]
        # A network is callable, but calling it runs it.
        if not callable(factory) or isinstance(factory, nn.Module):
            kind = type(factory).__name__
            raise InputError(f"{option}: {spec} is a {kind}, not a function; name a function that returns it")
        try:
            result: object = factory(**arguments)
        except Exception as cause:  # a user's function may raise anything
            raise InputError(f"{option}: {spec} raised {one_line(cause)}") from cause
    return result
