"""The files around the package agree with it and with one another."""

import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared() -> set[str]:
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    return {Requirement(line).name for line in wanted}


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: requirement for requirement in found}


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_every_direct_dependency_is_constrained_and_nothing_else() -> None:
    assert set(constraints()) == declared()


@pytest.mark.parametrize("line", [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]])
def test_constraints_lie_within_what_the_package_accepts(line: str) -> None:
    accepted = Requirement(line)
    pinned = next(iter(constraints()[accepted.name].specifier)).version.removesuffix(".*")
    assert accepted.specifier.contains(pinned)


def test_version_of_the_metadata_is_that_of_pyproject() -> None:
    assert importlib.metadata.version("causal-prune") == PROJECT["version"]


def test_command_is_importable() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="causal-prune")
    assert callable(command.load())


@pytest.mark.parametrize(
    "module",
    [
        "",
        ".command_line.entry",
        ".command_line.settings",
        ".report.report",
        ".report.rendering",
        ".report.gating",
    ],
)
def test_import_needs_no_torch(module: str) -> None:
    heavy = "{'torch', 'torchvision', 'torch_pruning', 'onnx', 'onnxruntime', 'sklearn'}"
    code = f"import sys, causal_prune{module}; print(sorted({heavy} & set(sys.modules)))"
    assert run(sys.executable, "-c", code).stdout == "[]\n"


def test_hooks_are_local_and_run_what_the_checks_run() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repository,) = config["repos"]
    assert repository["repo"] == "local"
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in repository["hooks"]}
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition(".PHONY")[0]
    assert tools == set(re.findall(r"@\$\(BIN\)/([\w-]+)", lint))
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@needs_make
def test_make_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    listed = [line.split()[1] for line in run("make").stdout.splitlines()]
    assert listed == targets
    assert {"venv", "demo", "test", "test-slow", "goldens", "build", "clean"} <= set(listed)


@needs_make
@pytest.mark.parametrize("python", ["false", "/no/such/python"])
def test_make_refuses_an_old_or_missing_python_in_one_line(tmp_path: Path, python: str) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = run("make", "venv", f"PYTHON={python}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        f"make: '{python}' is no Python >= 3.11: give one with PYTHON=/path/to/it"
    )
    assert not (tmp_path / ".venv").exists()


def test_ci_script_is_executable_and_well_formed() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert run("bash", "-n", str(script)).returncode == 0
