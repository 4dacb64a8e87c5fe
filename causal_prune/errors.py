"""The errors of the package: one base class and the kinds that the exit codes tell apart; and the warnings."""

import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches


class CausalPruneError(Exception):
    """Something that the caller can mend; `str(error)` is one line that names the argument and the fix."""

    exit_code = 2


class InputError(CausalPruneError):
    """Wrong usage, configuration or input: a file, a flag, a model or data that cannot be used."""

    exit_code = 2


class TargetError(CausalPruneError):
    """The target cannot be met, or nothing was pruned; the message states the reachable range."""

    exit_code = 3


class ParityError(CausalPruneError):
    """An exported network does not compute what the network that it came from computes."""

    exit_code = 1


class StoppedError(CausalPruneError):
    """A command that was interrupted; the message says what it has left."""

    exit_code = 130


class CausalPruneWarning(UserWarning):
    """A result that is right but poorer than it could be; the text names what was missing."""


class CausalPruneNote(CausalPruneWarning):
    """Something that was understood or passed over without being asked for; nothing is poorer for it."""


def warn(text: str, kind: type[CausalPruneWarning] = CausalPruneWarning) -> None:
    """Warn at the line outside this package that led here.

    Args:
        text: What is the matter.
        kind: A warning, or a note.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("causal_prune."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, kind, stacklevel=level)


LONGEST_CAUSE = 240


def one_line(cause: BaseException) -> str:
    """Tell an exception in one line.

    Args:
        cause: What was raised.

    Returns:
        Its kind and the first line of its text, shortened to 240 characters.
    """
    text = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    if len(text) > LONGEST_CAUSE:
        text = text[:LONGEST_CAUSE] + "..."
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class where it has none.

    Args:
        error: The exception.

    Returns:
        One line.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest what a misspelt name may have meant.

    Args:
        name: The name that is not known.
        known: The names that are.

    Returns:
        `; did you mean 'x'?`, or an empty text where nothing is near.
    """
    close = get_close_matches(name, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
