"""The commands called in this process, and a small network with its images on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from causal_prune.command_line.commands import app_for
from tests.unit.command_line.disk import Disk, written


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A network and its images, and an empty working folder beside them."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return written(tmp_path)


Called = tuple[int, str]
Call = Callable[..., Called]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call a command: its exit code and what it printed."""
    # tables are laid out for a terminal of this width, wherever the tests run
    monkeypatch.setenv("COLUMNS", "120")

    def called(*arguments: str | Path) -> Called:
        capsys.readouterr()
        typed = [str(argument) for argument in arguments]
        code = app_for(typed)(args=typed, prog_name="causal-prune", standalone_mode=False, obj=typed)
        printed = capsys.readouterr()
        assert printed.err == ""
        return code, printed.out

    return called
