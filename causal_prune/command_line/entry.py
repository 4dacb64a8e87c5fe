"""The entry of the command line: warnings, Ctrl-C, errors as one line, exit codes."""

import _thread
import os
import re
import shlex
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import typer
from typer.exceptions import TyperException

from causal_prune.command_line.commands import SILENT, app_for, named, repeated
from causal_prune.errors import (
    CausalPruneError,
    CausalPruneNote,
    CausalPruneWarning,
    InputError,
    StoppedError,
)
from causal_prune.progress import log, logged, shown

INTERRUPTED = 130

STOPPED = "interrupted; nothing was changed, run the same command to start again"


@contextmanager
def _plain_warnings(arguments: list[str], start: str) -> Iterator[None]:
    """Print this package's warnings, each once, as one line; those of libraries are not the user's to mend."""
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, CausalPruneWarning) and str(message) not in said:
            said.add(str(message))
            kind = "note" if issubclass(category, CausalPruneNote) else "warning"
            text = _in_flags(str(message), arguments) if kind == "note" else str(message)
            log(f"{kind}: {_from_start(text, start)}")
            typer.echo(f"causal-prune: {kind}: {_from_start(text, start)}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", CausalPruneWarning)
        warnings.showwarning = show
        yield


@contextmanager
def _no_interrupt_lost() -> Iterator[None]:
    """Repeat a Ctrl-C that hit a finaliser: Python can but report it, and the command would go on."""
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        # from another thread and a moment later: here it would be lost once more
        again = threading.Timer(0.05, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; None takes the process's own.

    Returns:
        The exit code: 0 done or passed, 1 gate or parity failed, 2 wrong usage, configuration or input, 3 the target
        cannot be met, 4 inconclusive, 130 interrupted.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    debug, start = "--debug" in typed, _working_folder()
    try:
        common, arguments = _common_flags(typed)
        if common.version:
            return _print_version()
        with _to_log(common.log, typed):
            return _run(arguments, common, start, debug)
    except CausalPruneError as error:
        return _complain(str(error), error.exit_code, debug)


@dataclass(frozen=True)
class _Common:
    """The flags that every command has, wherever they stand."""

    version: bool = False
    quiet: bool = False
    log: Path | None = None


def _common_flags(arguments: Sequence[str]) -> tuple[_Common, list[str]]:
    """Take the flags of the program out of the arguments."""
    found, left = _Common(), []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if argument == "--":
            left += [argument, *rest]
        elif argument == "--version":
            found = replace(found, version=True)
        elif argument == "--quiet":
            found = replace(found, quiet=True)
        elif name == "--log":
            file = value if equals else next(rest, "")
            if not file or (file.startswith("-") and not equals):
                raise InputError("--log: names no file; give the path of one")
            found = replace(found, log=Path(file).expanduser())
        elif argument != "--debug":
            left.append(argument)
    return found, left


def _print_version() -> int:
    from importlib.metadata import PackageNotFoundError, version

    def told(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} not installed"

    typer.echo(told("causal-prune"))
    typer.echo(", ".join(map(told, ("torch", "torch-pruning", "onnx", "onnxruntime"))))
    return 0


@contextmanager
def _to_log(path: Path | None, typed: Sequence[str]) -> Iterator[None]:
    """Append to a file what happens in the block; a file that cannot be written is said at once."""
    if path is None:
        yield
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--log: {path} cannot be written ({error.strerror}); name another file") from error
    with file, logged(file):
        log(shlex.join(("causal-prune", *typed)))
        yield


@contextmanager
def _as_quiet(quiet: bool) -> Iterator[None]:
    token = SILENT.set(quiet)
    try:
        yield
    finally:
        SILENT.reset(token)


def _run(arguments: list[str], common: _Common, start: str, debug: bool) -> int:
    """Run one command, and tell whatever ends it in one line."""
    live = sys.stderr.isatty()
    steps = shown(not common.quiet and (live or "--json" not in arguments), live=live)
    try:
        with _plain_warnings(arguments, start), _no_interrupt_lost(), _as_quiet(common.quiet), steps:
            given = _with_values([*repeated(arguments)])
            app = app_for(given)
            result = app(args=given, prog_name="causal-prune", standalone_mode=False, obj=given)
            if result == INTERRUPTED:  # typer turns a Ctrl-C into this code, without a word
                raise KeyboardInterrupt
            return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return _complain(STOPPED, INTERRUPTED, debug)
    except TyperException as error:
        return _complain(error.format_message(), error.exit_code, debug)
    except BaseException as error:  # noqa: BLE001 - the last line of defence: one line instead of a traceback
        text, code = _told(error)
        return _complain(_from_start(_in_flags(text, arguments), start), code, debug)


def _working_folder() -> str:
    try:
        return str(Path.cwd())
    except OSError:  # it was removed
        return ""


def _with_values(arguments: list[str]) -> list[str]:
    """Give flags that stand alone the value that they then mean."""
    if not named(arguments):
        return arguments
    from causal_prune.command_line.flags import stand_alone

    return list(stand_alone(arguments))


def _told(error: BaseException) -> tuple[str, int]:
    """What an error is in one line, and its exit code."""
    if not isinstance(error, StoppedError) and _hides_interrupt(error):
        return STOPPED, INTERRUPTED
    if isinstance(error, CausalPruneError):
        return str(error), error.exit_code
    if isinstance(error, SystemExit):
        ended = f"the code of the model or of its data ended the program (sys.exit({error.code!r}))"
        return f"{ended} in the middle of the work; --debug shows where", 2
    if isinstance(error, OSError):
        return f"{error.filename or 'file system'}: {error.strerror or error}", 2
    return f"internal error, {type(error).__name__}: {error}; --debug shows where", 2


def _in_flags(text: str, arguments: list[str]) -> str:
    """An error with the flags of the command instead of the library's arguments."""
    from causal_prune.command_line.settings import in_flags

    commands = typer.main.get_command(app_for(arguments)).commands.values()  # type: ignore[attr-defined]
    options = [option for command in commands for option in command.params]
    return in_flags(text, {each.name: each.opts[0] for each in options if each.opts[0].startswith("--")})


def _from_start(text: str, start: str) -> str:
    """A text whose paths count from the folder in which the command was started, as they were typed."""
    above = re.escape(start.rstrip(os.sep) + os.sep)
    return re.sub(rf"(?<![^\s'\"(=,:`]){above}(?=\S)", "", text) if start else text


def _hides_interrupt(error: BaseException | None) -> bool:
    """Whether a Ctrl-C led to it: libraries that are cut short while they tidy up raise errors of their own."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _complain(message: str, code: int, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    # one line, whatever a library has put into its message
    if message:  # a bare call has printed its help instead
        log(f"error: {' '.join(message.split())}")
        typer.echo(f"causal-prune: {' '.join(message.split())}", err=True)
    return code


def entry_point() -> None:
    """Run the command line of this process and exit with its code."""
    code = main()
    # what is printed on the way out is no result
    sys.stdout.flush()
    sys.stdout = sys.stderr
    sys.exit(code)
