"""Ctrl-C and a full disk, at any step: the old bundle whole or none, one line, and the exit code."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from causal_prune.report.bundle import verify

STEPS = {
    "train the dense network": "causal_prune.command_line.jobs.fine_tune",
    "check the model": "causal_prune.command_line.jobs.check_fits",
    "observe": "causal_prune.pipeline.steps.observe",
    "score": "causal_prune.pipeline.steps.score",
    "compensate": "causal_prune.comparison.arms.repair",
    "fine-tune": "causal_prune.comparison.arms.fine_tune",
    "test": "causal_prune.comparison.arms.evaluate",
    "export": "causal_prune.comparison.exports.export_onnx",
    "latency": "causal_prune.comparison.exports.measure_latency",
    "weights": "causal_prune.pipeline.findings.bundle_weights",
    "render": "causal_prune.pipeline.findings.render",
    "sums": "causal_prune.report.bundle.write_sums",
    "carry over": "causal_prune.report.bundle._carry_over",
}
MESSAGE = "causal-prune: interrupted; nothing was changed, run the same command to start again"


def raising(error: BaseException) -> Callable[..., object]:
    def stop(*_: object, **__: object) -> object:
        raise error

    return stop


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background deaf to Ctrl-C, and so would be what is started from here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(params=["no bundle before", "a bundle before"])
def before(request: pytest.FixtureRequest, tmp_path: Path, bundle: Path, files) -> dict[str, str]:
    """What is in the working folder, in both cases."""
    if request.param == "a bundle before":
        shutil.copytree(bundle, tmp_path / "net")
        (tmp_path / "net" / "baseline.json").write_text("mine", encoding="utf-8")
    return files(tmp_path)


def command(world, step: str) -> tuple[str, ...]:
    if step == "train the dense network":  # only the embedded network is trained before it is pruned
        return ("run", "--out", "net")
    return (*world.run, "--epochs", "1", "--out", "net")


@pytest.mark.parametrize("step", STEPS)
def test_interrupt_leaves_the_old_bundle_or_none(
    cli, world, no_export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files, before, step: str
) -> None:
    if step == "carry over" and not before:
        pytest.skip("only an old bundle has files to carry over")
    monkeypatch.setattr(STEPS[step], raising(KeyboardInterrupt()))
    done = cli(*command(world, step))
    assert done.code == 130
    assert done.err.strip() == MESSAGE
    assert files(tmp_path) == before
    if before:
        verify(tmp_path / "net")


@pytest.mark.parametrize("when", ["before the last rename", "after the last rename"])
def test_interrupt_between_the_renames(
    cli, world, no_export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files, before, when: str
) -> None:
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if ".partial-" in self.name:
            if when == "after the last rename":
                rename(self, target)
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    assert cli(*command(world, "")).code == 130
    assert files(tmp_path) == before


@pytest.mark.parametrize("step", ["export", "weights", "render", "sums"])
def test_full_disk_leaves_the_old_bundle_or_none(
    cli, world, no_export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files, before, step: str
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "net/model.onnx")
    monkeypatch.setattr(STEPS[step], raising(full))
    done = cli(*command(world, step))
    assert done.code == 2
    assert done.error == "causal-prune: net/model.onnx: No space left on device"
    assert files(tmp_path) == before


def test_parity_that_fails_leaves_no_bundle(
    cli, world, no_export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files, before
) -> None:
    from causal_prune.errors import ParityError

    monkeypatch.setattr(STEPS["export"], raising(ParityError("output: differs by 0.5")))
    done = cli(*command(world, "export"))
    assert done.code == 1
    assert done.error == "causal-prune: output: differs by 0.5"
    assert files(tmp_path) == before


def test_error_that_nobody_expected_is_one_line_too(
    cli, world, no_export, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files, before
) -> None:
    monkeypatch.setattr(STEPS["score"], raising(ZeroDivisionError("division\nby zero")))
    done = cli(*command(world, "score"))
    assert done.code == 2
    assert "internal error, ZeroDivisionError: division by zero; --debug shows where" in done.error
    assert files(tmp_path) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_signal_to_a_running_process(world, tmp_path: Path, bundle: Path, files) -> None:
    shutil.copytree(bundle, tmp_path / "net")
    before = files(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "causal_prune", *command(world, "")],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # it is at work as soon as its own folder stands beside the bundle
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".net.partial-*")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    # Python dies of the signal where it met code that was made by exec; a shell calls both 130
    assert process.returncode in (130, -signal.SIGINT)
    assert (out, err.strip()) == ("", MESSAGE)
    assert files(tmp_path) == before
    verify(tmp_path / "net")
