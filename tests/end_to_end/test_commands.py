"""The commands beside `run`: what they print, and their exit codes."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from causal_prune.onnx_files.export import export_onnx
from causal_prune.report.bundle import write_sums
from causal_prune.report.report import Report, hits_to_text
from causal_prune.sources.models import load_model

COMMANDS = ("run", "inspect", "gate", "bench", "compare", "explain")


# --- help ---


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_help_takes_less_than_a_second() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = python("-m", "causal_prune", "--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert all(command in done.stdout for command in COMMANDS)
    assert statistics.median(seconds) < 1


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["gate", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = {"torch", "torchvision", "torch_pruning", "onnx", "onnxruntime", "sklearn", "matplotlib", "scipy"}
    imported = f"sorted({heavy} & set(sys.modules))"
    code = (
        f"import sys; from causal_prune.command_line.entry import main; main({arguments}); print({imported})"
    )
    assert python("-c", code).stdout.splitlines()[-1] == "[]"


# --- inspect ---


def test_inspect_prints_groups_layers_and_what_is_frozen(cli, world, files, tmp_path: Path) -> None:
    done = cli("inspect", *world.model, "--input-shape", "1,8,8")
    assert (done.code, done.err) == (0, "")
    for text in (
        "What is cut together",
        "Layers",
        "What is not cut",
        "producers",
        "consumers",
        "parents",
        "the input",
    ):
        assert text in done.out
    assert "produces an output of the network" in done.out
    assert files(tmp_path) == {}


def test_inspect_as_json(cli, world) -> None:
    done = cli("inspect", *world.model, *world.data, "--json")
    assert (done.code, done.err) == (0, "")
    graph = json.loads(done.out)
    layers = graph["layers"]
    assert layers["3"]["parents"] == ["0"] and layers["3"]["filters"] == 16
    assert graph["frozen"] == {"8": "produces an output of the network"}
    assert [group["size"] for group in graph["groups"] if group["frozen"] is None] == [8, 16]


def test_inspect_without_a_model_shows_the_embedded_one(cli) -> None:
    done = cli("inspect")
    assert done.code == 0
    assert "layer3.downsample.0" in done.out


def test_inspect_shows_what_the_user_freezes(cli, world) -> None:
    done = cli("inspect", *world.model, "--input-shape", "1,8,8", "--freeze", "3")
    assert done.code == 0
    assert "frozen by the caller" in done.out.partition("What is not cut")[2]


def test_inspect_tells_two_graphs_apart(cli, world, tmp_path: Path) -> None:
    asked = ("--input-shape", "1,8,8", "--dependencies", "both")
    done = cli("inspect", *world.model, *asked)
    assert (done.code, done.err) == (0, "") and "the two graphs agree" in done.out
    (tmp_path / "flip.py").write_text(
        "from torch import nn\n\n\nclass Flip(nn.Module):\n    def forward(self, x):\n        return x.flip(1)\n\n\n"
        "def net():\n    return nn.Sequential(nn.Conv2d(1, 8, 3), Flip(), nn.Conv2d(8, 4, 3), nn.Flatten(),"
        " nn.Linear(64, 3))\n"
    )
    done = cli("inspect", "--model", "flip.py:net", *asked, "--json")
    told = json.loads(done.out)
    assert told["labels"]["dependencies"] == "labels" and told["torch-pruning"]["groups"]
    (found,) = [each for each in told["differences"] if each["layer"] == "0"]
    assert found["labels"] == "can be cut: the trial cut is right"
    assert "where channel 7 reads filter 0" in found["torch_pruning"]
    refused = cli("run", *world.model, *world.data, "--dependencies", "both")
    assert refused.code == 2 and "--dependencies: both is not 'labels' or 'torch-pruning'" in refused.err


@pytest.mark.parametrize("option", [[], ["--dependencies", "torch-pruning"]])
def test_inspect_tells_who_found_the_groups(cli, world, option: list[str]) -> None:
    done = cli("inspect", *world.model, "--input-shape", "1,8,8", "--json", *option)
    told = json.loads(done.out)
    assert told["dependencies"] == ("torch-pruning" if option else "labels")
    assert [group["name"] for group in told["groups"] if group["frozen"] is None] == ["0", "3"]


# --- gate ---


@pytest.fixture
def net(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that the test may change; the working folder holds it as `net`."""
    return Path(shutil.copytree(bundle, tmp_path / "net"))


def rewrite(net: Path, *, correct: int | None = None, **changes: object) -> None:
    """Change what the causal arm of a bundle says, and its sums."""
    report = json.loads((net / "report.json").read_text(encoding="utf-8"))
    causal = report["arms"][0]
    if correct is not None:
        total = causal["total"]
        share = correct / total
        changes |= {
            "correct": correct,
            "accuracy": share,
            "ci95": [max(share - 0.05, 0), min(share + 0.05, 1)],
            "hits": hits_to_text([k < correct for k in range(total)]),
        }
    causal.update(changes)
    (net / "report.json").write_text(json.dumps(report), encoding="utf-8")
    Report.load(net / "report.json")
    write_sums(net)


def baseline(net: Path, **changes: object) -> str:
    """A baseline that asks for something else than the bundle gives."""
    report = Report.load(net / "report.json")
    from causal_prune.report.gating import baseline_of

    path = net.parent / "baseline.json"
    baseline_of(report).model_copy(update=changes).save(path)
    return str(path)


def test_gate_passes_against_its_own_baseline(cli, net: Path) -> None:
    for path in (baseline(net), "net/report.json"):
        done = cli("gate", "net", "--baseline", path)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("accuracy ") and done.out.rstrip().endswith(": passed")


def test_gate_fails_and_names_the_number(cli, net: Path) -> None:
    asked = baseline(net, quality=0.95)
    rewrite(net, correct=80)
    done = cli("gate", "net", "--baseline", asked)
    assert done.code == 1
    assert "accuracy 0.8000" in done.out and "limit 0.9400 = baseline 0.9500" in done.out
    assert "FAILED" in done.out


def test_gate_is_inconclusive_where_the_interval_crosses_the_limit(cli, net: Path) -> None:
    asked = baseline(net, quality=0.95)
    rewrite(net, correct=92)
    done = cli("gate", "net", "--baseline", asked)
    assert done.code == 4
    assert "INCONCLUSIVE" in done.out
    assert cli("gate", "net", "--baseline", asked, "--max-drop", "0.03").code == 0


def test_gate_holds_speed_and_size(cli, net: Path) -> None:
    asked = baseline(net)
    size = (net / "model.onnx").stat().st_size
    rewrite(net, speedup=1.5)
    passed = ("--min-speedup", "1.5", "--max-bytes", str(size))
    assert cli("gate", "net", "--baseline", asked, *passed).code == 0
    slow = cli("gate", "net", "--baseline", asked, "--min-speedup", "1.6")
    assert slow.code == 1 and "speed-up 1.500x" in slow.out and "limit at least 1.600x" in slow.out
    large = cli("gate", "net", "--baseline", asked, "--max-bytes", str(size - 1))
    assert large.code == 1 and f"{size:,} bytes" in large.out


@pytest.mark.parametrize(("ci95", "code"), [([0.01, 0.05], 0), ([-0.01, 0.05], 4), ([-0.05, -0.01], 1)])
def test_gate_asks_whether_random_was_beaten(cli, net: Path, ci95: list[float], code: int) -> None:
    asked = baseline(net)
    report = json.loads((net / "report.json").read_text(encoding="utf-8"))
    report["comparison"] |= {"mean_difference": sum(ci95) / 2, "ci95": ci95}
    (net / "report.json").write_text(json.dumps(report), encoding="utf-8")
    write_sums(net)
    done = cli("gate", "net", "--baseline", asked, "--beat-random")
    assert done.code == code
    assert "causal - random" in done.out


def test_gate_refuses_a_damaged_bundle(cli, net: Path) -> None:
    asked = baseline(net)
    with (net / "model.onnx").open("ab") as file:
        file.write(b"!")
    done = cli("gate", "net", "--baseline", asked)
    assert done.code == 2
    assert "net/model.onnx: is damaged" in done.error


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--max-drop", "2"], "--max-drop"),
        (["--max-drop", "half"], "--max-drop"),
        (["--min-speedup", "0"], "--min-speedup 0.0: must be above 0"),
        (["--max-bytes", "0"], "--max-bytes"),
        (["--baseline", "none.json"], "none.json: cannot be read"),
    ],
)
def test_gate_refuses_limits_that_are_none(cli, net: Path, flags: list[str], text: str) -> None:
    done = cli("gate", "net", "--baseline", "net/report.json", *flags)
    assert done.code == 2
    assert text in done.error


# --- bench and compare ---


def test_bench_of_one_bundle(cli, net: Path) -> None:
    done = cli("bench", "net", "--seconds", "0.05", "--batch", "2")
    assert (done.code, done.err) == (0, "")
    for text in ("1 thread(s), batch 2", "median ms", "p99 ms", "net/model.onnx"):
        assert text in done.out


def test_bench_of_two_files_has_the_ratio(cli, net: Path, tmp_path: Path, world) -> None:
    torch.manual_seed(1)
    wide = load_model(f"{world.factories}:net", {"width": 96})
    export_onnx(wide, tmp_path / "wide.onnx", torch.rand(2, 1, 8, 8))
    done = cli("bench", "wide.onnx", "net/model.onnx", "--seconds", "0.05")
    assert (done.code, done.err) == (0, "")
    rows = [line.split("│")[1:-1] for line in done.out.splitlines() if ".onnx" in line]
    assert [row[0].strip() for row in rows] == ["wide.onnx", "net/model.onnx"]
    assert rows[0][-1].strip() == "1.00x as fast"
    assert float(rows[1][-1].split("x")[0]) > 1.2


def test_compare_of_equal_and_of_different_files(cli, net: Path, tmp_path: Path, world) -> None:
    assert cli("compare", "net/model.onnx", "net").code == cli("compare", "net", "net/model.onnx").code == 0
    torch.manual_seed(1)
    export_onnx(load_model(f"{world.factories}:net"), tmp_path / "other.onnx", torch.rand(2, 1, 8, 8))
    done = cli("compare", "other.onnx", "net")
    assert done.code == 1
    output, whole = done.out.splitlines()
    assert output.startswith("output: largest difference ")
    assert "ABOVE the tolerance 0.0001" in whole
    assert cli("compare", "other.onnx", "net", "--tolerance", "1e6").code == 0


def test_bench_and_compare_refuse_what_is_no_onnx_file(cli, tmp_path: Path, net: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(3))
    for command in (
        ("bench", "array.npy"),
        ("compare", "net", "array.npy"),
        ("compare", "net/model.onnx", "array.npy"),
    ):
        done = cli(*command)
        assert done.code == 2
        assert "is no ONNX file" in done.error or "does not exist" in done.error
