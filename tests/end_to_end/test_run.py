"""`causal-prune run`: what it writes, what it prints, and that what it prints is true."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import causal_prune as cp
from causal_prune.compensation.compensation import repair
from causal_prune.measure.latency import Latency
from causal_prune.report.bundle import verify

ROOT = Path(__file__).parents[2]
FILES = {
    "model.onnx",
    "model.safetensors",
    "plan.json",
    "config.toml",
    "report.json",
    "report.md",
    "report.html",
    "latency.json",
    "environment.json",
    "SHA256SUMS",
}
CONTRACT = {
    "": "schema_version command seed target split parity dense arms comparison layers agreement",
    "target": "kind requested achieved",
    "split": "train validation calibration test",
    "parity": "max_abs tolerance passed",
    "dense": "name importance seed accuracy_after_cut accuracy_after_compensation accuracy correct total ci95 macs "
    "params onnx_bytes latency_ms speedup predictions_sha256",
    "comparison": "arm versus mean_difference ci95 mcnemar_p wins_of",
}
LATENCY = "median iqr p90 p99 threads batch"


def factory_of(world, name: str = "net"):
    spec = importlib.util.spec_from_file_location("user_nets", world.factories)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


# --- what is in the bundle ---


def test_bundle_is_whole(bundle: Path) -> None:
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    figures = {name for name in files if name.startswith("figures/")}
    assert files - figures == FILES
    assert len(figures) == 6 and all(name.endswith(".png") for name in figures)
    verify(bundle)
    assert not [path for path in bundle.parent.iterdir() if path != bundle]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sums_are_read_by_sha256sum(bundle: Path) -> None:
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_report_has_every_key_of_the_contract(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    for place, keys in CONTRACT.items():
        assert set(keys.split()) <= set(report[place] if place else report), place
    for arm in (report["dense"], *report["arms"]):
        assert set(CONTRACT["dense"].split()) <= set(arm)
    assert set(LATENCY.split()) <= set(report["arms"][0]["latency_ms"])
    assert all(
        set(layer) == {"name", "filters_before", "filters_after", "frozen", "shrinkage"}
        for layer in report["layers"]
    )
    assert [arm["name"] for arm in report["arms"]] == ["causal", "random", "random", "magnitude"]
    assert [arm["seed"] for arm in report["arms"]] == [None, 0, 1, None]


def test_numbers_of_the_report_fit_together(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    dense, causal = report["dense"], report["arms"][0]
    assert report["split"] == {"train": 180, "validation": 20, "calibration": 180, "test": 100}
    assert dense["correct"] > 90, "the network of these tests has learned its images"
    assert causal["macs"] / dense["macs"] == pytest.approx(report["target"]["achieved"], abs=1e-9)
    assert 0.3 < report["target"]["achieved"] <= 0.5
    assert {arm["macs"] for arm in report["arms"]} == {causal["macs"]}
    assert causal["onnx_bytes"] == (bundle / "model.onnx").stat().st_size
    assert causal["speedup"] == dense["latency_ms"]["median"] / causal["latency_ms"]["median"]
    assert report["parity"]["passed"] and report["parity"]["max_abs"] <= report["parity"]["tolerance"]
    samples = json.loads((bundle / "latency.json").read_text(encoding="utf-8"))["samples"]
    assert np.median(samples["causal"]) == pytest.approx(causal["latency_ms"]["median"])


def test_command_in_the_report_is_the_one_that_was_typed(bundle: Path, world) -> None:
    command = json.loads((bundle / "report.json").read_text(encoding="utf-8"))["command"]
    typed = shlex.split(command)
    assert typed[:2] == ["causal-prune", "run"]
    assert typed[typed.index("--out") + 1] == str(bundle)
    assert typed[2:4] == list(world.model[:2])


def test_load_computes_what_the_onnx_file_computes(bundle: Path, world) -> None:
    model = cp.load(bundle, factory_of(world))
    images = np.random.default_rng(4).normal(0.5, 0.3, (5, 1, 8, 8)).astype(np.float32)
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: images})
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(images)).numpy()
    assert expected.shape == (5, 3) and expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) < sum(
        p.numel() for p in factory_of(world)().parameters()
    )


# --- what is printed ---


@pytest.fixture
def short(world) -> tuple[str, ...]:
    return (*world.run, "--epochs", "0")


def test_last_lines_name_the_report_and_two_commands_that_work(cli, short, no_export, tmp_path: Path) -> None:
    done = cli(*short, "--out", "made/net")
    assert (done.code, done.err) == (0, "")
    *_, report, first, second = done.out.splitlines()
    assert (tmp_path / report.removeprefix("report: ")).is_file()
    commands = [shlex.split(first.removeprefix("next:")), shlex.split(second)]
    assert [command[:2] for command in commands] == [["causal-prune", "gate"], ["causal-prune", "bench"]]
    verdict = cli(*commands[0][1:])
    assert verdict.code == 0 and "passed" in verdict.out
    timed = cli(*commands[1][1:], "--seconds", "0.05")
    assert timed.code == 0 and "median ms" in timed.out


def test_commands_that_are_printed_are_quoted(cli, short, no_export) -> None:
    done = cli(*short, "--out", "my nets/a net")
    *_, first, second = done.out.splitlines()
    assert shlex.split(first.removeprefix("next:"))[2] == "my nets/a net"
    assert shlex.split(second)[2] == "my nets/a net/model.onnx"


def test_json_is_all_that_is_printed(cli, short, no_export, tmp_path: Path) -> None:
    done = cli(*short, "--out", "net", "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out) == json.loads((tmp_path / "net" / "report.json").read_text(encoding="utf-8"))


def test_default_folder_is_named_after_the_model(cli, short, no_export, tmp_path: Path) -> None:
    assert cli(*short).code == 0
    verify(tmp_path / "export" / "net")


READERS = ("pipeline.steps", "comparison.agreement")


def test_the_memory_limit_reaches_the_statistics_and_the_repair(
    cli, short, brief_timing, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, object]] = []

    def note(room: str, verb: str, limit: Callable[..., object]) -> None:
        module = importlib.import_module(f"causal_prune.{room}")
        original = getattr(module, verb)

        def noted(*args, **options):
            given.append((room, limit(*args, **options)))
            return original(*args, **options)

        monkeypatch.setattr(module, verb, noted)

    for room in READERS:
        note(room, "observe", lambda *args, max_memory, **_: max_memory)
    note("comparison.arms", "repair", lambda pruned, dense, images, repair, **_: repair.max_memory)
    assert cli(*short, "--max-memory", "1GB", "--dry-run").code == 0
    assert given == [("pipeline.steps", 10**9)]
    assert cli(*short, "--max-memory", "1GB", "--arms", "causal").code == 0
    assert set(given) == {(room, 10**9) for room in (*READERS, "comparison.arms")}


def test_views_reach_the_repair_of_every_arm_and_nothing_else(
    cli, short, brief_timing, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[int, int]] = []
    module = importlib.import_module("causal_prune.comparison.arms")
    original = module.repair

    def noted(pruned, dense, images, *args, views, **options):
        given.append((views, sum(len(batch) for batch, _ in images)))
        return original(pruned, dense, images, *args, views=views, **options)

    monkeypatch.setattr(module, "repair", noted)
    size = ("--calibration-images", "40", "--arms", "causal")
    assert cli(*short, *size).code == 0
    assert cli(*short, *size, "--views", "3").code == 0
    assert given == [(1, 40), (3, 120)], "digits are no photographs: their views are asked for"
    assert cli(*short, "--views", "0").code == 2


def test_the_form_of_the_files_is_obeyed_and_refused_before_anything_long(
    cli, short, brief_timing, files, tmp_path: Path
) -> None:
    out = tmp_path / "formed"
    done = cli(*short, "--opset", "18", "--dynamic-size", "--arms", "causal", "--out", str(out))
    assert done.code == 0, done.err
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert entry.shape[2:] == ["height", "width"]
    assert len(session.run(None, {entry.name: np.zeros((2, 1, 12, 9), np.float32)})[0]) == 2
    assert cli("bench", str(out / "model.onnx"), "--seconds", "0.05").code == 0
    before = files(tmp_path)
    refused = cli(*short, "--opset", "999", "--out", str(tmp_path / "none"))
    assert refused.code == 2 and "opset: 999 is not a whole number from 17 to" in refused.err.replace(
        "--", ""
    )
    assert files(tmp_path) == before


def test_silent_filters_are_listed_and_removed_without_a_trace(
    cli, world, short, brief_timing, tmp_path: Path
) -> None:
    folder = tmp_path / "masks"
    folder.mkdir()
    (folder / "masked.py").write_text(
        "import torch\nfrom torch import nn\nfrom torch.nn.utils import prune\n"
        "def net():\n"
        "    torch.manual_seed(0)\n"
        "    made = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 8, 3), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))\n"
        "    prune.ln_structured(made[0], 'weight', amount=0.5, n=2, dim=0)\n"
        "    return made\n"
    )
    model = ("--model", f"{folder / 'masked.py'}:net")
    seen = cli("inspect", *model, "--input-shape", "1,8,8")
    assert seen.code == 0 and "6 of 12" in seen.out and "What is silent already" in seen.out
    out = tmp_path / "silent"
    done = cli(
        "run", *model, "--remove-silent", "--arms", "causal,random", "--random-seeds", "1", "--out", str(out)
    )
    assert done.code == 0, done.err
    report = json.loads((out / "report.json").read_text())
    assert report["target"] == {"kind": "remove_silent", "requested": 0.3, "achieved": 0.3}
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert arms["causal"]["accuracy_after_cut"] == report["dense"]["accuracy"]
    assert "silent" in (out / "report.md").read_text()
    refused = cli("run", *model, "--remove-silent", "--keep-macs", "0.5", "--out", str(tmp_path / "none"))
    assert refused.code == 2 and "are two targets; give one" in refused.err
    refused = cli("run", *model, "--remove-silent", "--mode", "zero", "--out", str(tmp_path / "none"))
    assert refused.code == 2 and "silent already" in refused.err


def test_dry_run_writes_nothing_and_says_what_would_go(cli, short, files, tmp_path: Path) -> None:
    done = cli(*short, "--dry-run")
    assert (done.code, done.err) == (0, "")
    *layers, target = done.out.splitlines()
    named = [line.split(":")[0] for line in layers]
    assert named and set(named) <= {"0", "3"}
    assert re.match(r"keep_macs: requested 0.500, planned 0.(4|500).*nothing was written", target)
    as_json = json.loads(cli(*short, "--dry-run", "--json").out)
    assert as_json["target"]["kind"] == "keep_macs"
    before, after = (
        {layer["name"]: layer[f"filters_{when}"] for layer in as_json["layers"]}
        for when in ("before", "after")
    )
    assert before["0"] == 8 and {name for name in before if after[name] < before[name]} == set(named)
    assert files(tmp_path) == {}


def test_target_out_of_reach_exits_3_and_names_the_range(cli, short, files, tmp_path: Path) -> None:
    done = cli(*short, "--keep-macs", "0.001", "--out", "net")
    assert done.code == 3
    assert "keep_macs=0.001 is out of reach" in done.error and "and 1" in done.error
    assert files(tmp_path) == {}


def test_nothing_left_to_prune_exits_3(cli, short, files, tmp_path: Path) -> None:
    done = cli(*short, "--freeze", "0,3", "--out", "net")
    assert done.code == 3
    assert "prun" in done.error
    assert files(tmp_path) == {}


def test_missing_device_is_told_in_one_line(cli, short) -> None:
    device = "mps" if torch.cuda.is_available() else "cuda"
    done = cli(*short, "--device", device)
    assert done.code == 2
    assert f"--device: {device} cannot be used on this machine" in done.error


# --- what the options do ---


def test_zeroed_and_removed_stand_side_by_side(cli, world, brief_timing, tmp_path: Path) -> None:
    zero = ("--mode", "zero", "--importance", "documented")
    assert cli(*world.run, *zero, "--epochs", "0", "--out", "net").code == 0
    report = json.loads((tmp_path / "net" / "report.json").read_text(encoding="utf-8"))
    assert (report["mode"], report["importance"], report["parents"]) == ("zero", "documented", "chain")
    dense, zeroed, removed = report["dense"], *report["arms"]
    assert [zeroed["name"], removed["name"]] == ["causal", "causal-removed"]
    assert zeroed["macs"] == dense["macs"] and zeroed["params"] == dense["params"]
    assert removed["macs"] < 0.51 * dense["macs"]
    assert removed["onnx_bytes"] < zeroed["onnx_bytes"]
    text = (tmp_path / "net" / "report.md").read_text(encoding="utf-8")
    assert "zeroed" in text and "causal-removed" in text


def test_parents_are_the_users_choice(cli, world, no_export, tmp_path: Path) -> None:
    zero = ("--mode", "zero", "--importance", "documented", "--parents", "graph")
    assert cli(*world.run, *zero, "--out", "net").code == 0
    assert json.loads((tmp_path / "net" / "report.json").read_text(encoding="utf-8"))["parents"] == "graph"


def timed_by_size(files, **_):
    """Latencies that follow the sizes of the files."""
    return {name: Latency((path.stat().st_size / 1000,) * 3, 1, 1) for name, path in files.items()}


def test_latency_target(cli, short, brief_timing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a network of this size runs in microseconds: its latency is stood in for by the size of its file
    monkeypatch.setattr("causal_prune.planning.latency_target.measure_latency", timed_by_size)
    monkeypatch.setattr("causal_prune.planning.latency_target.STEPS", 3)
    done = cli(*short, "--keep-latency", "0.7", "--out", "net")
    assert done.code == 0, done.err
    target = json.loads((tmp_path / "net" / "report.json").read_text(encoding="utf-8"))["target"]
    assert target["kind"] == "keep_latency" and target["requested"] == 0.7
    assert 0.3 < target["achieved"] <= 0.7


def test_configuration_file_and_flags_that_win(cli, short, world, no_export, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('keep-params = 0.6\nseed = 9\nout = "a"\n', encoding="utf-8")
    assert cli(*short, "--config", "run.toml", "--seed", "3").code == 0
    report = json.loads((tmp_path / "a" / "report.json").read_text(encoding="utf-8"))
    assert report["target"]["kind"] == "keep_params" and report["seed"] == 3


def test_second_run_replaces_the_bundle_and_keeps_what_is_not_its_own(
    cli, short, no_export, tmp_path: Path
) -> None:
    assert cli(*short, "--out", "net").code == 0
    (tmp_path / "net" / "baseline.json").write_text("mine", encoding="utf-8")
    assert cli(*short, "--keep-macs", "0.8", "--out", "net").code == 0
    report = json.loads((tmp_path / "net" / "report.json").read_text(encoding="utf-8"))
    assert report["target"]["requested"] == 0.8
    assert (tmp_path / "net" / "baseline.json").read_text(encoding="utf-8") == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_force_replaces_what_is_no_bundle(cli, short, no_export, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "old.txt").write_text("old", encoding="utf-8")
    assert cli(*short, "--out", "net").code == 2
    assert cli(*short, "--out", "net", "--force").code == 0
    verify(tmp_path / "net")
    assert not (tmp_path / "net" / "old.txt").exists()


def test_same_seed_gives_the_same_report(cli, world, no_export, tmp_path: Path) -> None:
    model = ("--model", f"{world.factories}:net")  # its untrained weights follow the seed too
    options = (
        "--arms",
        "causal,random",
        "--random-seeds",
        "1",
        "--align",
        "1",
        "--epochs",
        "1",
        "--out",
        "net",
    )
    reports = []
    for seed in ("0", "0", "1"):
        assert cli("run", *model, *world.data, *options, "--seed", seed).code == 0
        reports.append(json.loads((tmp_path / "net" / "report.json").read_text(encoding="utf-8")))
    for report in reports:
        del report["created"]
        for arm in (report["dense"], *report["arms"]):
            del arm["latency_ms"], arm["speedup"]
    assert reports[0] == reports[1]
    assert reports[0]["importances"] != reports[2]["importances"]


# --- other people's things ---


@pytest.mark.parametrize(
    ("model", "more"),
    [
        # 4,608 inputs per filter make least squares slow, however few the images are
        ("resnet18", ("--importance", "magnitude", "--compensate", "batchnorm", "--arms", "causal,random")),
        pytest.param("resnet18", (), marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_small", ("--arms", "causal"), marks=pytest.mark.slow),
    ],
)
def test_torchvision_model_and_a_folder_of_images(
    cli, brief_timing, tmp_path: Path, model: str, more: tuple[str, ...]
) -> None:
    generator = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for label, name in enumerate(("cat", "dog", "owl")):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(60 * label, 60 * label + 120, (40, 36, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "photos" / split / name / f"{number}.png")
    done = cli(
        *("run", "--model", f"torchvision:{model}", "--model-arg", "num_classes=3", *more),
        *("--data", "imagefolder:photos", "--input-shape", "3,32,32", "--keep-macs", "0.5", "--epochs", "0"),
        *("--random-seeds", "2", "--calibration-images", "8"),
    )
    assert done.code == 0, done.err
    bundle = tmp_path / "export" / model
    verify(bundle)
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    assert report["classes"] == 3 and report["split"]["calibration"] == 8
    assert report["target"]["achieved"] == pytest.approx(0.5, abs=0.05)
    assert report["parity"]["passed"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_public_resnet20_as_in_the_readme(tmp_path: Path) -> None:
    if not (ROOT.parent / "shared" / "models" / "cifar10_resnet20.safetensors").is_file():
        pytest.skip("the public weights and CIFAR-10 are not at ../shared")
    command = (
        "run --model examples/cifar_resnet.py:resnet20 --weights ../shared/models/cifar10_resnet20.safetensors "
        "--data npz:../shared/data/cifar10.npz --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 "
        f"--keep-macs 0.5 --epochs 0 --out {tmp_path / 'resnet20'}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "causal_prune", *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    verify(tmp_path / "resnet20")
    report = json.loads((tmp_path / "resnet20" / "report.json").read_text(encoding="utf-8"))
    assert report["dense"]["correct"] == 9173
    assert report["parity"]["passed"]
    assert 0.49 < report["target"]["achieved"] <= 0.5
    assert report["comparison"]["mean_difference"] > 0
    assert report["arms"][0]["accuracy"] >= 0.865
    assert [layer["name"] for layer in report["layers"] if layer["frozen"]] == ["linear"]


def test_what_the_repair_warns_of_is_one_line_on_stderr(
    cli, world, brief_timing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def louder(*args, **options):
        warnings.warn("of a library", UserWarning, stacklevel=1)
        return repair(*args, **options)

    monkeypatch.setattr("causal_prune.comparison.arms.repair", louder)
    done = cli(*world.run, "--epochs", "0", "--calibration-images", "1", "--out", "net")
    assert done.code == 0, done.err
    lines = [line for line in done.err.splitlines() if line.startswith("causal-prune: warning: compensate: ")]
    assert any("1 image cannot judge a fit" in line for line in lines), done.err
    assert len(lines) == len(set(lines)), done.err
    assert "of a library" not in done.err


def test_both_graphs_make_the_same_network(cli, world, no_export, tmp_path: Path) -> None:
    options = ("--arms", "causal", "--align", "1", "--epochs", "0")
    for graph in ("labels", "torch-pruning"):
        done = cli("run", *world.model, *world.data, *options, "--dependencies", graph, "--out", graph)
        assert (done.code, done.err) == (0, "")
    weights = [load_file(tmp_path / graph / "model.safetensors") for graph in ("labels", "torch-pruning")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    plan = json.loads((tmp_path / "torch-pruning" / "plan.json").read_text())
    assert plan["dependencies"] == "torch-pruning" and plan["cuts"]["roots"]
    assert "dependencies" not in json.loads((tmp_path / "labels" / "plan.json").read_text())
    again = cli("run", "--from", "torch-pruning", *options, "--out", "again")
    assert again.code == 0, "its bundle is one like any other"
