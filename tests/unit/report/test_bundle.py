"""Bundles: whole or not at all, never over somebody else's files."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from causal_prune.errors import InputError
from causal_prune.report import bundle
from causal_prune.report.bundle import check_out, staged, verify


def _make(out: Path, content: str = "{}", *, force: bool = False, extra: str | None = None) -> None:
    with staged(out, force=force) as folder:
        (folder / "report.json").write_text(content)
        (folder / "figures").mkdir()
        (folder / "figures" / "a.png").write_bytes(b"picture " + content.encode())
        if extra is not None:
            (folder / extra).write_text(extra)


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_bundle_is_written_and_verified(tmp_path: Path) -> None:
    _make(tmp_path / "deep" / "out")
    assert sorted(_tree(tmp_path / "deep" / "out")) == ["SHA256SUMS", "figures/a.png", "report.json"]
    verify(tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_accepts_the_sums(tmp_path: Path) -> None:
    _make(tmp_path / "out")
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "out", check=False, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "figures/a.png: OK\nreport.json: OK\n"


def test_damage_is_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _make(out)
    (out / "figures" / "a.png").write_bytes(b"other")
    with pytest.raises(InputError, match="figures/a.png: is damaged"):
        verify(out)
    (out / "figures" / "a.png").unlink()
    with pytest.raises(InputError, match="figures/a.png: is missing"):
        verify(out)
    (out / "SHA256SUMS").write_text("0" * 64 + "  ../elsewhere\n")
    with pytest.raises(InputError, match="SHA256SUMS: line 1 is damaged"):
        verify(out)
    (out / "SHA256SUMS").write_text("")
    with pytest.raises(InputError, match="does not list report.json"):
        verify(out)
    (out / "SHA256SUMS").unlink()
    with pytest.raises(InputError, match="holds no readable SHA256SUMS"):
        verify(out)


def test_a_rerun_replaces_its_own_output_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _make(out, "old", extra="gone.txt")
    (out / "baseline.json").write_text("kept")
    (out / "figures" / "notes.txt").write_text("kept too")
    (out / "link").symlink_to("baseline.json")
    for content in ("new", "newer"):  # twice: what was carried over once must not become the bundle's own
        _make(out, content)
        assert _tree(out)["report.json"] == content.encode()
        assert (out / "baseline.json").read_text() == "kept"
        assert (out / "figures" / "notes.txt").read_text() == "kept too"
        assert (out / "link").is_symlink()
        assert not (out / "gone.txt").exists()
        verify(out)


def test_what_the_new_bundle_writes_wins(tmp_path: Path) -> None:
    _make(tmp_path / "out")
    (tmp_path / "out" / "plan.txt").write_text("somebody's")
    _make(tmp_path / "out", extra="plan.txt")
    assert (tmp_path / "out" / "plan.txt").read_text() == "plan.txt"


def test_without_readable_sums_nothing_old_is_given_up(tmp_path: Path) -> None:
    _make(tmp_path / "out", "old", extra="model.txt")
    (tmp_path / "out" / "SHA256SUMS").write_text("nonsense\n")
    _make(tmp_path / "out", "new")
    assert (tmp_path / "out" / "model.txt").exists() and (
        tmp_path / "out" / "report.json"
    ).read_text() == "new"
    verify(tmp_path / "out")


def test_a_folder_that_is_no_bundle_is_refused_without_force(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="`out` .*exists and is no bundle; .*`force`"):
        check_out(out, force=False)
    with pytest.raises(InputError, match="exists and is no bundle"):
        _make(out)
    assert _tree(tmp_path) == {"out/thesis.txt": b"years of work"}
    assert check_out(out, force=True) == out
    _make(out, force=True)
    assert "thesis.txt" not in _tree(out)


def test_an_empty_folder_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _make(tmp_path / "out")
    verify(tmp_path / "out")
    assert (tmp_path / "out" / "report.json").is_file()


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match="is a file; name a folder"):
        check_out(tmp_path / "file", force=True)
    with pytest.raises(InputError, match="file is a file; name a folder under a folder"):
        check_out(tmp_path / "file" / "out", force=True)
    with pytest.raises(InputError, match="is or holds the home folder"):
        check_out(tmp_path / "home", force=True)
    monkeypatch.chdir(tmp_path / "home")
    with pytest.raises(InputError, match="is or holds the current folder"):
        check_out(Path(), force=True)
    with pytest.raises(InputError, match="is a mount point"):
        check_out(Path("/"), force=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match="cannot be written; name a folder that can"):
        check_out(tmp_path / "new" / "out", force=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home"]


def test_a_folder_that_cannot_be_made_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match="cannot be written .Read-only file system."):
        _make(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def _stop(out: Path, error: type[BaseException]) -> None:
    with staged(out, force=False) as folder:
        (folder / "report.json").write_text("new")
        raise error("stop")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, SystemExit])
@pytest.mark.parametrize("old", [True, False])
def test_an_interrupt_leaves_the_old_bundle_or_none(
    tmp_path: Path, error: type[BaseException], old: bool
) -> None:
    out = tmp_path / "new" / "out"
    if old:
        _make(out, "old")
    before = _tree(tmp_path)
    with pytest.raises(error, match="stop"):
        _stop(out, error)
    assert _tree(tmp_path) == before
    assert (tmp_path / "new").exists() is old


def _break_rename(monkeypatch: pytest.MonkeyPatch, number: int, *, before: bool) -> None:
    rename: Callable[[Path, Path], Path] = Path.rename
    calls = []

    def broken(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == number and before:
            raise KeyboardInterrupt("stop")
        result = rename(self, target)
        if len(calls) == number:
            raise KeyboardInterrupt("stop")
        return result

    monkeypatch.setattr(Path, "rename", broken)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_between_the_renames_restores_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, before: bool
) -> None:
    out = tmp_path / "out"
    _make(out, "old")
    expected = _tree(tmp_path)
    with monkeypatch.context() as patch:
        _break_rename(patch, number, before=before)
        with pytest.raises(KeyboardInterrupt, match="stop"):
            _make(out, "new")
    assert _tree(tmp_path) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("before", [True, False])
def test_an_interrupt_of_the_only_rename_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    with monkeypatch.context() as patch:
        _break_rename(patch, 1, before=before)
        with pytest.raises(KeyboardInterrupt, match="stop"):
            _make(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def _dead_process() -> int:
    done = subprocess.Popen(["true"])
    done.wait()
    return done.pid


def test_leftovers_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = _dead_process()
    for name in (
        f".out.partial-{dead}",
        f".out.partial-{os.getpid()}",
        f".out.partial-{os.getppid()}",
        f".other.partial-{dead}",
        ".out.partial-notes",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    _make(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["out", f".out.partial-{os.getppid()}", f".other.partial-{dead}", ".out.partial-notes"]
    )


def test_a_bundle_that_a_killed_process_moved_aside_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _make(out, "old")
    (out / "baseline.json").write_text("kept")
    out.rename(tmp_path / f".out.replaced-{_dead_process()}")
    with pytest.raises(KeyboardInterrupt, match="stop"):
        _stop(out, KeyboardInterrupt)
    verify(out)
    assert (out / "report.json").read_text() == "old" and (out / "baseline.json").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    _make(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    _make(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "report.json").read_text() == "new"
    assert not bundle.is_bundle(tmp_path)


def test_maps_of_the_network_that_is_replaced_do_not_outlive_it(tmp_path: Path) -> None:
    out = tmp_path / "net"
    for content in ("old", "new"):
        with staged(out, force=False) as folder:
            (folder / "report.json").write_text(content)
        if content == "old":
            for name in (
                "explanation/drift.json",
                "explanation/cam.png",
                "explanation/in/x.png",
                "notes/a.txt",
            ):
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_text(name)
    assert not (out / "explanation").exists() and (out / "notes" / "a.txt").is_file()
