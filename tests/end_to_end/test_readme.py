"""The README: its Python runs, its commands work, and its table is that of the reference bundle."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from causal_prune.command_line.entry import main
from causal_prune.report.gating import load_baseline
from causal_prune.sources.models import load_model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every call of the command line, of the shell blocks and of the table of commands."""
    shell = "".join(blocks("sh")).replace("\\\n", " ")
    lines = re.findall(r"^causal-prune .*$", shell, flags=re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines + re.findall(r"\| `(causal-prune [^`]+)` \|", README)]


def test_python_blocks_run_in_their_order(
    no_export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    assert len(blocks("python")) == 3
    for code in blocks("python"):
        exec(compile(code, "README.md", "exec"), names)
    before, after = (float(number) for number in capsys.readouterr().out.split(" -> "))
    assert before > 0.8 and after > 0.3
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "export"}
    assert names["told"]["images"] == names["floor"]["images"] == 64
    assert names["before"].shape == names["after"].shape == (64, 8, 8)
    assert sum(p.numel() for p in names["small"].parameters()) < sum(
        p.numel() for p in names["model"].parameters()
    )


@pytest.fixture
def clone(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the README's commands name."""
    shutil.copytree(bundle, tmp_path / "export" / "digits")
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("cat", "dog", "owl"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(3):
                pixels = generator.integers(0, 255, (40, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    photos = load_model("torchvision:mobilenet_v3_small", {"num_classes": 3})
    save_file(photos.state_dict(), tmp_path / "photos.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commands_work(
    clone: Path,
    files,
    capsys: pytest.CaptureFixture[str],
    brief_training,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    aside = tmp_path_factory.mktemp("frontier") / "sizes"
    before = files(clone)
    called = commands()
    assert {command[0] for command in called} == {
        "run",
        "frontier",
        "inspect",
        "gate",
        "bench",
        "compare",
        "explain",
    }
    for command in called:
        # whole runs are tested elsewhere
        planned = ["--dry-run"] if command[0] == "run" and "--dry-run" not in command else []
        # the tiny bundle that stands for the digits is no faster than its dense network
        lenient = ["--min-speedup", "0.01"] if "--min-speedup" in command else []
        small = ["--evidence", "none", "--out", str(aside)] if command[0] == "frontier" else []
        assert main([*command, *planned, *lenient, *small]) == 0, (command, capsys.readouterr().err)
        assert capsys.readouterr().err == ""
    shutil.rmtree(clone / "export" / "digits" / "explanation")
    assert files(clone) == before


@pytest.fixture
def brief_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causal_prune.command_line.jobs.TRAINING_EPOCHS", 1)


def test_options_that_the_text_names_exist(cli) -> None:
    helped = "".join(
        cli(command, "--help").out
        for command in ("run", "frontier", "inspect", "gate", "bench", "compare", "explain")
    )
    named = set(re.findall(r"--[a-z][a-z-]+", README)) - {"--help", "--debug", "--log", "--quiet"}
    assert named <= set(re.findall(r"--[a-z][a-z-]+", helped))


def test_table_of_the_digits_is_that_of_the_reference_bundle() -> None:
    made = load_baseline(ROOT / "export" / "digits" / "report.json")
    row = re.search(r"^ causal +([\d.]+) % +([\d.]+) M +(\d+) k ", blocks("text")[0], flags=re.MULTILINE)
    assert row is not None
    assert float(row[1]) == round(100 * made.quality, 2)
    assert float(row[2]) == round(made.macs / 1e6, 2)
    assert int(row[3]) == round(made.params / 1e3)


def test_files_of_a_bundle_are_those_that_are_written(bundle: Path) -> None:
    table = README.partition("## The bundle")[2].partition("\n## ")[0]
    rows = "".join(re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE))
    assert set(re.findall(r"`([\w./]+?)/?`", rows)) == {path.name for path in bundle.iterdir()}
    assert json.loads((bundle / "report.json").read_text(encoding="utf-8"))["schema_version"] == 1
    assert "(`schema_version` 1)" in table


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    assert all((ROOT / target).exists() for target in targets)
