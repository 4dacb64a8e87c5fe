"""The package as a program."""

import importlib
import runpy
import sys
from importlib.metadata import entry_points

import pytest

from causal_prune.command_line import entry_point


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["prune"], 2)])
def test_the_package_can_be_run_with_the_arguments_and_the_code_of_the_command(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["causal_prune", *arguments])
    monkeypatch.delitem(sys.modules, "causal_prune.__main__", raising=False)
    with pytest.raises(SystemExit, match=f"^{code}$"):
        runpy.run_module("causal_prune", run_name="__main__")
    printed = capsys.readouterr()
    assert "Usage: causal-prune" in printed.out if code == 0 else "No such command 'prune'" in printed.err


def test_importing_it_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert importlib.import_module("causal_prune.__main__").entry_point is entry_point
    assert capsys.readouterr() == ("", "")


def test_the_installed_command_is_the_same_function() -> None:
    (installed,) = entry_points(group="console_scripts", name="causal-prune")
    assert installed.load() is entry_point
