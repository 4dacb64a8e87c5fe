"""Errors: what each means for a shell, one line of any exception, and warnings that point at the caller."""

import inspect
import linecache
from typing import Any

import pytest

from causal_prune import errors
from causal_prune.errors import (
    LONGEST_CAUSE,
    CausalPruneError,
    CausalPruneWarning,
    InputError,
    ParityError,
    StoppedError,
    TargetError,
    first_line,
    nearest,
    one_line,
    warn,
)

CODES = {CausalPruneError: 2, InputError: 2, TargetError: 3, ParityError: 1, StoppedError: 130}


@pytest.mark.parametrize(("kind", "code"), CODES.items())
def test_every_kind_has_its_exit_code_and_one_base(kind: type[CausalPruneError], code: int) -> None:
    error = kind("keep_macs: 2 is not between 0 and 1")
    assert (error.exit_code, str(error)) == (code, "keep_macs: 2 is not between 0 and 1")
    assert isinstance(error, CausalPruneError) and not isinstance(error, ValueError)


def test_no_kind_of_error_is_without_a_code_of_its_own() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
    assert {kind for kind in kinds if not issubclass(kind, Warning)} == set(CODES)
    assert all("exit_code" in vars(kind) for kind in CODES)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (ValueError("plain"), "ValueError: plain"),
        (KeyError("x"), "KeyError: 'x'"),
        (RuntimeError("\n  \n  first \nsecond"), "RuntimeError: first"),
        (OSError(), "OSError"),
        (ValueError("  \n "), "ValueError"),
        (ValueError("a" * LONGEST_CAUSE), "ValueError: " + "a" * 240),
        (ValueError("a" * (LONGEST_CAUSE + 1)), "ValueError: " + "a" * 240 + "..."),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_any_exception_is_told_in_one_line_with_its_kind(cause: BaseException, expected: str) -> None:
    assert one_line(cause) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n one \ntwo"), "one "),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("  "), "ValueError"),
    ],
)
def test_the_first_line_of_an_empty_message_is_the_class(error: BaseException, expected: str) -> None:
    assert first_line(error) == expected


def test_a_warning_points_at_the_line_outside_the_package_that_led_to_it() -> None:
    room: dict[str, Any] = {"__name__": "causal_prune.wing.room", "warn": warn}
    exec("def deep():\n    warn('poorer')\n\ndef face():\n    deep()\n", room)
    with pytest.warns(CausalPruneWarning, match="^poorer$") as caught:
        room["face"]()
    line = linecache.getline(caught[0].filename, caught[0].lineno)
    assert caught[0].filename == __file__ and line.strip() == 'room["face"]()'


def test_a_package_of_a_similar_name_is_outside() -> None:
    other: dict[str, Any] = {"__name__": "causal_pruner", "warn": warn}
    exec(compile("def call():\n    warn('poorer')\n", "other.py", "exec"), other)
    with pytest.warns(CausalPruneWarning, match="^poorer$") as caught:
        other["call"]()
    assert (caught[0].filename, caught[0].lineno) == ("other.py", 2)


def test_the_nearest_name_is_suggested_or_none() -> None:
    assert nearest("resnet19", ["vgg11", "resnet18"]) == "; did you mean 'resnet18'?"
    assert nearest("resnet19", {"resnet18": 1}) == "; did you mean 'resnet18'?"
    assert nearest("resnet19", ["vgg11"]) == nearest("x", []) == ""
