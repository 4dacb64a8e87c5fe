"""The entry: exit codes, errors and warnings as one line, Ctrl-C, `--debug`."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from causal_prune.command_line import jobs
from causal_prune.command_line.entry import INTERRUPTED, STOPPED, entry_point, main
from causal_prune.errors import (
    CausalPruneError,
    CausalPruneNote,
    CausalPruneWarning,
    InputError,
    ParityError,
    TargetError,
    warn,
)
from causal_prune.tracing.filter_graph import FilterGraph
from tests.unit.command_line.disk import Disk

EMPTY = FilterGraph({}, (), {}, {})


@dataclass(frozen=True)
class Done:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str


Cli = Callable[..., Done]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)  # a command that should have been refused writes nowhere else

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def during(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Done]:
    """Call `inspect` while its work does something else; further arguments go before the command."""

    def call(work: Callable[[], object], *before: str) -> Done:
        def stand_in(_: object) -> FilterGraph:
            work()
            return EMPTY

        monkeypatch.setattr(jobs, "inspect_job", stand_in)
        return cli(*before, "inspect", "--json")

    return call


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background deaf to Ctrl-C, and so would be what is started from here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def raising(error: BaseException) -> Callable[[], object]:
    def work() -> object:
        raise error

    return work


# --- exit codes ---


def test_what_a_command_returns_is_the_exit_code(cli: Cli, write_onnx: Callable[..., Path]) -> None:
    first, second = write_onnx("a.onnx", scale=0.25), write_onnx("b.onnx", scale=0.5)
    same, other = cli("compare", first, first), cli("compare", first, second)
    assert (same.code, same.err, other.code, other.err) == (0, "", 1, "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["inspect", "--help"], ["gate", "--help"]]
)
def test_help_is_no_error(cli: Cli, arguments: list[str]) -> None:
    done = cli(*arguments)
    assert (done.code, done.err) == (0, "") and "Usage: causal-prune" in done.out


def test_a_bare_call_prints_the_help(cli: Cli) -> None:
    done = cli()
    assert (done.code, done.err) == (2, "")
    assert all(command in done.out for command in ("run", "inspect", "gate", "bench", "compare"))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (InputError("model: there is no file a.py"), 2, "--model: there is no file a.py"),
        (TargetError("keep_macs=0.1 is out of reach"), 3, "keep_macs=0.1 is out of reach"),
        (ParityError("output: differs by 0.5"), 1, "output: differs by 0.5"),
        (CausalPruneError("nothing was written"), 2, "nothing was written"),
        (InputError("two\n  lines\n\nand more"), 2, "two lines and more"),
        (InputError("give `keep_macs` or `compensation`"), 2, "give --keep-macs or --compensate"),
        (InputError("max_drop: of gate; see `max_bytes`"), 2, "--max-drop: of gate; see --max-bytes"),
        (OSError(errno.ENOSPC, "No space left on device", "net/a"), 2, "net/a: No space left on device"),
        (OSError(errno.EIO, "Input/output error"), 2, "file system: Input/output error"),
        (OSError("odd"), 2, "file system: odd"),
        (
            ZeroDivisionError("division\nby zero"),
            2,
            "internal error, ZeroDivisionError: division by zero; --debug shows where",
        ),
        (KeyError("x"), 2, "internal error, KeyError: 'x'; --debug shows where"),
        (MemoryError(), 2, "internal error, MemoryError: ; --debug shows where"),
    ],
)
def test_every_error_is_one_line_and_has_its_code(
    during: Callable[..., Done], error: Exception, code: int, text: str
) -> None:
    assert during(raising(error)) == Done(code, "", f"causal-prune: {text}\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["prune"], "No such command 'prune'"),
        (["run", "--keep-mac", "0.5"], "No such option: --keep-mac"),
        (["run", "here"], "Got unexpected extra argument"),
        (["gate", "here"], "Missing option '--baseline'"),
        (["gate", "here", "--baseline", "b", "--max-drop", "x"], "Invalid value for '--max-drop'"),
        (["bench", "a.onnx", "--threads", "0"], "Invalid value for '--threads'"),
        (["run", "--epochs", "few"], "--epochs: few is not a whole number of at least 0"),
        (
            ["run", "--dry-run", "--keep-latency", "0.5"],
            "--dry-run: cannot tell --keep-latency without exporting",
        ),
        (
            ["run", "--compensate", "--no-compensate"],
            "--compensate and --no-compensate contradict each other",
        ),
        (["run", "--compensate", "maybe"], "--compensate: maybe is not least-squares, batchnorm or none"),
    ],
)
def test_wrong_usage_is_one_line_and_2(cli: Cli, arguments: list[str], text: str) -> None:
    done = cli(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"causal-prune: {text}") and done.err.count("\n") == 1


def test_a_flag_that_stands_alone_means_its_default(cli: Cli, disk: Disk) -> None:
    done = cli("run", *disk.flags, "--align", "1", "--importance", "magnitude", "--dry-run", "--compensate")
    assert done.code == 0 and "nothing was written" in done.out


# --- Ctrl-C ---


def stopped() -> Done:
    return Done(INTERRUPTED, "", f"causal-prune: {STOPPED}\n")


def signalled() -> None:
    signal.raise_signal(signal.SIGINT)


def hidden_behind() -> None:
    try:
        raise KeyboardInterrupt
    finally:
        raise RuntimeError("the stack of modes is not empty")  # as torch does when it is cut short


def wrapped() -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
        raise InputError("the model raised KeyboardInterrupt") from error


@pytest.mark.parametrize(
    "work", [signalled, hidden_behind, wrapped, raising(KeyboardInterrupt()), raising(typer.Abort())]
)
def test_an_interrupt_is_130_however_it_comes(
    during: Callable[..., Done], work: Callable[[], object]
) -> None:
    assert INTERRUPTED == 130
    assert during(work) == stopped()


def test_an_interrupt_that_hits_a_finaliser_is_not_lost(during: Callable[..., Done]) -> None:
    class Finalised:
        def __del__(self) -> None:
            raise KeyboardInterrupt

    def work() -> None:
        Finalised()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.01)
        raise AssertionError("the interrupt was lost")

    assert during(work) == stopped()


def test_other_errors_in_finalisers_go_where_they_went_before(
    during: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(unraisable.exc_type))

    class Finalised:
        def __del__(self) -> None:
            raise ValueError("late")

    assert during(Finalised).code == 0
    assert seen == [ValueError]


# --- warnings, --debug and what is left behind ---


def test_warnings_of_the_package_are_one_line_each_and_those_of_libraries_silent(
    during: Callable[..., Done],
) -> None:
    def work() -> None:
        for text in ("poorer", "poorer", "poorest"):
            warn(text)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warnings.warn("odd", UserWarning, stacklevel=1)

    done = during(work)
    assert done.code == 0
    assert done.err == "causal-prune: warning: poorer\ncausal-prune: warning: poorest\n"


def test_notes_are_told_as_notes_in_the_flags_of_the_command(during: Callable[..., Done]) -> None:
    done = during(lambda: warn("weights: net.pt: took 'net'", CausalPruneNote))
    assert done.err == "causal-prune: note: --weights: net.pt: took 'net'\n"


def test_somebody_elses_code_that_ends_the_program_is_named(during: Callable[..., Done]) -> None:
    done = during(lambda: sys.exit(0))
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "causal-prune: the code of the model or of its data ended the program (sys.exit(0)) in the middle of the work; "
        "--debug shows where\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: there is no file {}/a b/x.npz", "--data: there is no file a b/x.npz"),
        ("`out` {}/thesis: is ({}/x, '{}/y')", "--out thesis: is (x, 'y')"),
        ("data: /else{}/x", "--data: /else{}/x"),
        ("`out` {}: is the current folder", "--out {}: is the current folder"),
    ],
)
def test_paths_are_told_from_the_folder_of_the_start(
    during: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)

    def work() -> None:
        os.chdir("/")  # as somebody else's code may
        raise InputError(text.replace("{}", str(tmp_path)))

    assert during(work).err == f"causal-prune: {expected.replace('{}', str(tmp_path))}\n"


def test_a_second_command_warns_again(during: Callable[..., Done]) -> None:
    first, second = (during(lambda: warn("poorer")) for _ in range(2))
    assert first == second and first.err == "causal-prune: warning: poorer\n"


@pytest.mark.parametrize(
    ("error", "code", "last"),
    [
        (InputError("model: is missing"), 2, "causal-prune: --model: is missing"),
        (
            ZeroDivisionError("by zero"),
            2,
            "causal-prune: internal error, ZeroDivisionError: by zero; --debug shows where",
        ),
        (KeyboardInterrupt(), 130, f"causal-prune: {STOPPED}"),
    ],
)
def test_debug_shows_a_traceback_before_the_line(
    during: Callable[..., Done], error: BaseException, code: int, last: str
) -> None:
    plain, full = during(raising(error)), during(raising(error), "--debug")
    assert plain.code == full.code == code
    assert "Traceback" not in plain.err and plain.err == f"{last}\n"
    assert full.err.startswith("Traceback (most recent call last)") and full.err.splitlines()[-1] == last
    assert ", in stand_in" in full.err or isinstance(error, KeyboardInterrupt)


def test_debug_changes_nothing_where_nothing_fails(during: Callable[..., Done]) -> None:
    assert during(lambda: None, "--debug") == during(lambda: None) and during(lambda: None).code == 0


@pytest.mark.parametrize("work", [lambda: None, raising(InputError("x")), raising(KeyboardInterrupt())])
def test_hooks_and_filters_are_put_back(during: Callable[..., Done], work: Callable[[], object]) -> None:
    before = sys.unraisablehook, warnings.showwarning, list(warnings.filters)
    during(work)
    assert (sys.unraisablehook, warnings.showwarning, list(warnings.filters)) == before
    with pytest.warns(CausalPruneWarning, match="^heard$"):
        warn("heard")


@pytest.mark.parametrize(("arguments", "code"), [(["gate", "--help"], 0), (["prune"], 2)])
def test_the_process_exits_with_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["causal-prune", *arguments])
    with pytest.raises(SystemExit, match=f"^{code}$"):
        entry_point()
    assert ("Usage" in capsys.readouterr().out) is (code == 0)


@pytest.mark.parametrize(
    "arguments", [("--version",), ("run", "--version"), ("--version", "gate", "nowhere")]
)
def test_the_version_is_told_wherever_it_is_asked_for(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    first, second = done.out.splitlines()
    assert done.code == 0 and done.err == "" and first.startswith("causal-prune ")
    assert all(name in second for name in ("torch ", "torch-pruning ", "onnx ", "onnxruntime "))


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_leaves_the_exit_code_errors_and_json(
    cli: Cli, write_onnx: Callable[..., Path], place: str
) -> None:
    file = write_onnx("a.onnx")

    def quiet(*arguments: str | Path) -> Done:
        return cli("--quiet", *arguments) if place == "before" else cli(*arguments, "--quiet")

    assert quiet("compare", file, file) == Done(0, "", "")
    assert "compare" not in quiet("compare", file, file, "--json").err
    assert quiet("compare", file, file, "--json").out.startswith("{")
    failed = quiet("compare", file, "nothing.onnx")
    assert failed.code == 2 and failed.out == "" and failed.err.startswith("causal-prune: nothing.onnx")


@pytest.mark.parametrize("form", [["--log", "told.log"], ["--log=told.log"]])
def test_a_log_has_what_was_printed_and_is_added_to(
    cli: Cli, write_onnx: Callable[..., Path], form: list[str], tmp_path: Path
) -> None:
    file = write_onnx("a.onnx")
    printed = cli(*form, "compare", file, file).out.splitlines()
    failed = cli("compare", file, "nothing.onnx", *form)
    lines = (tmp_path / "told.log").read_text(encoding="utf-8").splitlines()
    told = [line.split(" ", 2)[2] for line in lines]
    assert told[0].startswith("causal-prune --log") and "compare" in told[0]
    assert told[1 : 1 + len(printed)] == printed
    assert told[-1] == failed.err.strip().replace("causal-prune: ", "error: ")
    assert all(line.startswith("20") and "\x1b" not in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--log"], "--log: names no file; give the path of one"),
        (["--log", "--json"], "--log: names no file; give the path of one"),
        (
            ["--log", "no/folder/x.log"],
            "--log: no/folder/x.log cannot be written (No such file or directory); name",
        ),
    ],
)
def test_a_log_that_cannot_be_written_is_told_at_once(cli: Cli, arguments: list[str], text: str) -> None:
    done = cli("compare", "a.onnx", "b.onnx", *arguments)
    assert done.code == 2 and done.out == "" and done.err.startswith(f"causal-prune: {text}")


def test_what_is_wrong_with_flags_is_told_before_torch_is_there(tmp_path: Path) -> None:
    wrong = [
        ["run", "--keep-macs", "2"], ["run", "--keep-mac", "0.5"], ["run", "--config", "none.toml"],
        ["run", "--keep-macs", "0.5", "--keep-params", "0.5"], ["run", "--plan", "a", "--keep-macs", "0.5"],
        ["frontier", "--keep", "2"], ["frontier", "--keep-macs", "0.5"], ["frontier", "--help"], ["run", "--help"],
        ["nothing"], ["gate"], ["bench", "--threads", "0", "a.onnx"], ["--help"], ["--version"],
        ["run", "--from", "nowhere"], ["explain", "x", "--images"], ["run", "--arms", "random"],
        ["run", "--dry-run", "--max-drop", "0.01"], ["run", "--evidence", "some"],
        *(["run", f"--{name}", "wrong"] for name in (
            "seed", "threads", "device", "mode", "align", "epochs", "lr", "views", "opset", "max-memory", "confidence",
            "max-drop", "parents", "importance", "dependencies", "random-seeds", "compensate", "explain", "mean", "std",
            "input-shape", "calibration-images", "model-arg",
        )),
    ]  # fmt: skip
    script = (
        "import sys, json\n"
        "from causal_prune.command_line.entry import main\n"
        "for arguments in json.loads(sys.argv[1]):\n"
        "    code = main(arguments)\n"
        "    helped = any(each in arguments for each in ('--help', '--version'))\n"
        "    assert code == (0 if helped else 2), (arguments, code)\n"
        "    heavy = [name for name in ('torch', 'onnx', 'matplotlib', 'scipy') if name in sys.modules]\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(wrong)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
