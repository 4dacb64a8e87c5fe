"""The wheel works without the checkout: what is in it, and that it runs from there."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "causal_prune"


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run Python in a folder, with packages of `path` before all others; give what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools leaves a build folder that would hide missing files next time."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", cwd=folder)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--target", folder)
    run("-m", "pip", "install", *options, wheel, cwd=folder)
    return folder


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    source = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
    assert "causal_prune/py.typed" in packed
    assert any(name.startswith("causal_prune/report/templates/") for name in packed)


def test_wheel_carries_licence_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.partition(".dist-info/")[2]: name for name in archive.namelist() if ".dist-info/" in name
        }
        command = archive.read(texts["entry_points.txt"]).decode()
        metadata = archive.read(texts["METADATA"]).decode()
    assert "causal-prune = causal_prune.command_line.entry:entry_point" in command
    assert "License-Expression: MIT" in metadata
    assert "licenses/LICENSE" in texts


def test_imports_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import causal_prune.report.rendering as render; print(render.__file__)"
    printed = run("-c", code, cwd=tmp_path, path=installed).strip()
    assert Path(printed) == installed / "causal_prune" / "report" / "rendering.py"


def test_command_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    printed = run("-m", "causal_prune", "--help", cwd=tmp_path, path=installed)
    for command in ("run", "inspect", "gate"):
        assert command in printed


def test_report_renders_with_the_templates_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    golden = ROOT / "tests" / "unit" / "report" / "golden"
    shutil.copy(golden / "remove.json", tmp_path / "report.json")
    code = "import pathlib, causal_prune.report.rendering as r; r.render(pathlib.Path())"
    run("-c", code, cwd=tmp_path, path=installed)
    assert (tmp_path / "report.md").read_bytes() == (golden / "remove.md").read_bytes()
    assert (tmp_path / "report.html").stat().st_size > 10_000
