"""The commands: what each takes, prints and exits with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

from causal_prune.command_line import jobs
from causal_prune.command_line.commands import COMMANDS, app_for, named
from causal_prune.command_line.settings import RunSettings
from causal_prune.errors import InputError
from causal_prune.pipeline.flow import Compressed
from causal_prune.report.bundle import write_sums
from causal_prune.report.report import Report
from causal_prune.report.summary import summary_lines
from causal_prune.report.target import Target
from causal_prune.sources.models import load_model
from causal_prune.surgery.cuts import Cuts
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.tracing.network_trace import trace
from tests.unit.command_line.disk import Disk

Call = Callable[..., tuple[int, str]]
NAMES = ("run", "inspect", "gate", "bench", "compare", "explain")
GOLDEN = Path(__file__).parents[1] / "report" / "golden" / "remove.json"

# a few images do not determine patches, and `observe` says so
pytestmark = pytest.mark.filterwarnings("ignore::causal_prune.errors.CausalPruneWarning")


def flags(command: str, *arguments: str) -> list[str]:
    """The flags that a command has in the program for some arguments."""
    program: Any = typer.main.get_command(app_for(arguments))
    return [option.opts[0] for option in program.commands[command].params if option.opts[0].startswith("--")]


# --- the program ---


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run", "--keep-macs", "0.5"], {"run"}),
        (["--debug", "inspect"], {"inspect"}),
        (["gate", "here"], set()),
        ([], set()),
        (["bench", "run"], {"run"}),  # a file of that name costs time and changes nothing
    ],
)
def test_commands_that_need_flags_are_found_among_the_arguments(
    arguments: list[str], expected: set[str]
) -> None:
    assert named(arguments) == expected


def test_flags_are_made_only_for_the_command_that_is_named() -> None:
    assert flags("run", "gate") == flags("inspect", "gate") == flags("inspect", "run") == ["--config"]
    assert len(flags("run", "run")) > 30


def test_inspect_has_flags_of_the_network_alone() -> None:
    assert flags("inspect", "inspect") == [
        "--model", "--model-arg", "--weights", "--data", "--input-shape", "--dependencies", "--freeze", "--json",
        "--no-json", "--config",
    ]  # fmt: skip
    options = next(options for command, options, _ in COMMANDS if command.__name__ == "inspect")
    assert options is not None and set(options) < RunSettings.model_fields.keys()


def test_every_command_is_in_the_help_of_the_program(call: Call) -> None:
    assert tuple(command.__name__ for command, _, _ in COMMANDS) == NAMES
    _, out = call("--help")
    assert all(f"│ {name} " in out for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_help_of_every_command_has_an_example(call: Call, name: str) -> None:
    code, out = call(name, "--help")
    assert code == 0
    assert f"Example: causal-prune {name} " in " ".join(out.split())


# --- run and inspect ---


def test_a_dry_run_prints_the_widths_and_writes_nothing(call: Call, disk: Disk) -> None:
    dry = ("run", *disk.flags, "--remove-filters", "0.5", "--align", "1", "--dry-run")
    code, out = call(*dry)
    *cuts, last = out.splitlines()
    assert code == 0
    assert last == "remove_filters: requested 0.500, planned 0.500; nothing was written"
    assert all(line.split(":")[0] in ("0", "2") and line.endswith(" filters") for line in cuts) and cuts
    code, out = call(*dry, "--json")
    content = json.loads(out)
    assert code == 0 and content["target"] == {"kind": "remove_filters", "requested": 0.5, "achieved": 0.5}
    assert [layer["name"] for layer in content["layers"]] == ["0", "2", "5"]
    changed = [layer for layer in content["layers"] if layer["filters_after"] < layer["filters_before"]]
    assert cuts == [
        f"{layer['name']}: {layer['filters_before']} -> {layer['filters_after']} filters" for layer in changed
    ]
    assert not list(Path.cwd().iterdir())


def test_a_file_of_options_is_read_and_flags_win(call: Call, disk: Disk) -> None:
    text = f"model = '{disk.model}'\ndata = '{disk.data}'\nkeep-macs = 0.9\ndry-run = true\nalign = 1\n"
    Path("run.toml").write_text(text, encoding="utf-8")
    _, out = call("run", "--config", "run.toml", "--remove-filters", "0.5")
    assert out.splitlines()[-1].startswith("remove_filters: requested 0.500")


def test_a_wrong_option_is_told_before_anything_is_loaded(call: Call) -> None:
    with pytest.raises(InputError, match="^--epochs: few is not a whole number of at least 0$"):
        call("run", "--model", "no/such.py:net", "--epochs", "few")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[RunSettings, str]]:
    """What `run_job` was given; it answers with a report that was made before."""
    seen: list[tuple[RunSettings, str]] = []

    def stand_in(settings: RunSettings, *, command: str) -> Compressed:
        seen.append((settings, command))
        plan = PruningPlan(Target("keep_macs", 0.5, 0.5), {}, Cuts({}, {}, ()))
        return Compressed(nn.Identity(), plan, Report.load(GOLDEN), Path("my nets/net"))

    monkeypatch.setattr(jobs, "run_job", stand_in)
    return seen


def test_a_run_prints_its_summary_and_what_may_come_next(
    call: Call, ran: list[tuple[RunSettings, str]]
) -> None:
    code, out = call("run", "--model-arg", "name=a b", "--compensate", "none")
    assert code == 0
    report = Report.load(GOLDEN)
    text = " ".join(out.split())
    assert report.title in text and all(line in text for line in summary_lines(report))
    assert out.splitlines()[-3:] == [
        "report: my nets/net/report.html",
        "next: causal-prune gate 'my nets/net' --baseline 'my nets/net'/report.json",
        "      causal-prune bench 'my nets/net'/model.onnx",
    ]
    ((settings, command),) = ran
    assert (settings.model_arg, settings.compensation) == ({"name": "a b"}, "none")
    assert command == "causal-prune run --model-arg 'name=a b' --compensate none"


def test_a_run_as_json_prints_the_report_alone(call: Call, ran: list[tuple[RunSettings, str]]) -> None:
    code, out = call("run", "--json")
    assert code == 0 and Report.model_validate_json(out) == Report.load(GOLDEN)


def test_inspect_prints_three_tables_or_the_graph_as_json(call: Call, disk: Disk) -> None:
    arguments = ("inspect", *disk.flags, "--freeze", "2")
    code, out = call(*arguments)
    assert code == 0
    places = [out.index(title) for title in ("What is cut together", "Layers", "What is not cut")]
    assert places == sorted(places) and "frozen by the caller" in out[places[2] :]
    code, out = call(*arguments, "--json")
    expected = trace(load_model(disk.model), torch.rand(1, 1, 6, 6), freeze=("2",)).to_json()
    assert code == 0 and json.loads(out) == json.loads(json.dumps(expected))


# --- gate ---


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A report, and its sums."""
    folder = tmp_path / "net"
    folder.mkdir()
    shutil.copy(GOLDEN, folder / "report.json")
    write_sums(folder)
    return folder


@pytest.mark.parametrize(
    ("limits", "quality", "code", "line"),
    [
        ((), 0.0, 0, ": passed"),
        (("--max-drop", "0"), 0.0, 0, ": passed"),
        ((), 0.02, 4, ": INCONCLUSIVE"),
        ((), 0.03, 1, ": FAILED"),
        (("--max-drop", "0.05"), 0.03, 0, ": passed"),
        (("--min-speedup", "1.5"), 0.0, 0, "limit at least 1.500x: passed"),
        (("--min-speedup", "9"), 0.0, 1, "limit at least 9.000x: FAILED"),
        (("--max-bytes", "1000000"), 0.0, 0, "limit at most 1,000,000 bytes: passed"),
        (("--max-bytes", "1"), 0.0, 1, "limit at most 1 bytes: FAILED"),
        (("--beat-random",), 0.0, 4, "limit: an interval over images and seeds above 0: INCONCLUSIVE"),
    ],
)
def test_the_gate_takes_its_limits_and_exits_with_the_verdict(
    call: Call, bundle: Path, tmp_path: Path, limits: tuple[str, ...], quality: float, code: int, line: str
) -> None:
    content = json.loads(GOLDEN.read_text(encoding="utf-8"))
    causal = next(arm for arm in content["arms"] if arm["name"] == "causal")
    keys = ("correct", "total", "macs", "params", "onnx_bytes", "speedup", "predictions_sha256")
    asked = {
        "schema_version": 1,
        "accuracy": causal["accuracy"] + quality,
        **{key: causal[key] for key in keys},
    }
    (tmp_path / "baseline.json").write_text(json.dumps(asked), encoding="utf-8")
    found, out = call("gate", bundle, "--baseline", tmp_path / "baseline.json", *limits)
    assert found == code
    assert out.startswith("accuracy ") and out.splitlines()[-1].endswith(line)


def test_the_gate_takes_a_report_as_its_baseline_and_refuses_a_damaged_bundle(
    call: Call, bundle: Path
) -> None:
    assert call("gate", bundle, "--baseline", GOLDEN)[0] == 0
    (bundle / "report.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"report\.json: is damaged"):
        call("gate", bundle, "--baseline", GOLDEN)


# --- bench and compare ---


@pytest.mark.parametrize("by_folder", [True, False])
def test_bench_times_a_file_or_that_of_a_bundle(
    call: Call, write_onnx: Callable[..., Path], by_folder: bool
) -> None:
    file = write_onnx("model.onnx")
    flags = ("--threads", "2", "--batch", "3", "--seconds", "0.02")
    code, out = call("bench", file.parent if by_folder else file, *flags)
    assert code == 0 and "2 thread(s), batch 3, interleaved" in out and "1.00x as fast" in out


def test_bench_of_two_files_has_a_row_for_each(call: Call, write_onnx: Callable[..., Path]) -> None:
    code, out = call("bench", write_onnx("a.onnx"), write_onnx("b.onnx"), "--seconds", "0.02")
    assert code == 0 and out.count("x as fast") == 2


def test_compare_prints_every_output_and_exits_1_above_the_tolerance(
    call: Call, write_onnx: Callable[..., Path]
) -> None:
    first, second = write_onnx("model.onnx", scale=0.25), write_onnx("b.onnx", scale=0.5)
    same = "output: largest difference 0\nlargest difference 0, within the tolerance 0.0001\n"
    assert call("compare", first, first) == call("compare", first.parent, first) == (0, same)
    code, out = call("compare", first, second)
    output, whole = out.splitlines()
    assert code == 1 and output.startswith("output: largest difference 0.")
    assert whole.startswith("largest difference 0.") and whole.endswith(", ABOVE the tolerance 0.0001")
    assert call("compare", first, second, "--tolerance", "9")[0] == 0
    assert call("compare", first, second, "--seed", "1")[1] != out
