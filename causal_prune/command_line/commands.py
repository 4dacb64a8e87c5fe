"""The commands: parse, call, print. Everything heavy is imported inside the command that needs it."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causal_prune.errors import InputError

if TYPE_CHECKING:
    from causal_prune.pipeline import Compressed


app = typer.Typer(
    name="causal-prune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Make a trained convolutional network physically smaller, and prove what that cost.",
)


def _option(text: str, default: str | None = None, *names: str) -> Any:
    return typer.Option(
        *names, help=text if default is None else f"{text} [dim]\\[default: {default}][/]", show_default=False
    )


Model = Annotated[
    str | None,
    _option(
        "torchvision:NAME, timm:NAME, path/file.py:factory or package.module:factory.",
        "a small residual CNN, trained on the spot",
    ),
]
ModelArg = Annotated[list[str] | None, _option("Argument of the factory, as k=v; may be repeated.")]
Weights = Annotated[str | None, _option(".safetensors, or a checkpoint that loads with weights_only=True.")]
DataSource = Annotated[
    str | None,
    _option("digits, imagefolder:DIR, npz:FILE, torchvision:NAME:ROOT or path/file.py:factory.", "digits"),
]
Mean = Annotated[str | None, _option("Subtracted from images in [0, 1]; one number per channel.")]
Std = Annotated[str | None, _option("Images are divided by it; one number per channel.")]
InputShape = Annotated[str | None, _option("channels,height,width that images are resized to.")]
Freeze = Annotated[list[str] | None, _option("Layer or module that must not be cut; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")] = False,
) -> None:
    # the docstring would replace the help text of the whole program; `main` reads --debug itself
    del debug


@app.command(
    epilog="Example: causal-prune run --model torchvision:resnet18 --model-arg num_classes=10 "
    "--weights net.safetensors --data imagefolder:photos --keep-macs 0.5 --out export/net"
)
def run(
    ctx: typer.Context,
    model: Model = None,
    model_arg: ModelArg = None,
    weights: Weights = None,
    data: DataSource = None,
    mean: Mean = None,
    std: Std = None,
    input_shape: InputShape = None,
    importance: Annotated[
        str | None,
        _option(
            "structural, documented, magnitude, magnitude_l2, taylor, geometric_median, "
            "batchnorm_scale, ablation, pcace, iba or random.",
            "structural",
        ),
    ] = None,
    parents: Annotated[
        str | None,
        _option("Parents for the documented score: chain or graph.", "chain with --mode zero, else graph"),
    ] = None,
    mode: Annotated[
        str | None,
        _option("remove makes the network smaller; zero silences filters, as documented.", "remove"),
    ] = None,
    keep_macs: Annotated[
        str | None, _option("Target: share of the multiply-accumulates that stays.", "0.5")
    ] = None,
    keep_params: Annotated[str | None, _option("Target: share of the parameters that stays.")] = None,
    keep_latency: Annotated[
        str | None, _option("Target: share of the ONNX Runtime latency that stays.")
    ] = None,
    remove_filters: Annotated[str | None, _option("Target: share of the filters that goes.")] = None,
    align: Annotated[
        str | None, _option("Widths are multiples of this; auto reads the machine.", "auto")
    ] = None,
    freeze: Freeze = None,
    compensate: Annotated[
        str | None,
        typer.Option(
            metavar="[HOW]",
            show_default=False,
            help="Repair the cut network without training: least-squares (the default), batchnorm or none.",
        ),
    ] = None,
    no_compensate: Annotated[
        bool | None,
        typer.Option("--no-compensate", show_default=False, help="The same as --compensate none."),
    ] = None,
    calibration_images: Annotated[
        str | None, _option("Training images that statistics are estimated on.", "2048")
    ] = None,
    max_memory: Annotated[
        str | None, _option("What statistics and the repair may take, such as 4GB.", "half of what is free")
    ] = None,
    epochs: Annotated[
        str | None, _option("Epochs of fine-tuning after the cut.", "3 for the embedded model, else 0")
    ] = None,
    distill: Annotated[
        bool | None,
        typer.Option(
            "--distill/--no-distill",
            show_default=False,
            help="Fine-tune with the dense network as the teacher.",
        ),
    ] = None,
    arms: Annotated[str | None, _option("What is compared.", "causal,random,magnitude")] = None,
    random_seeds: Annotated[str | None, _option("Number of random arms.", "5")] = None,
    seed: Annotated[str | None, _option("Seed of all that is random.", "0")] = None,
    threads: Annotated[str | None, _option("Threads of ONNX Runtime when timed.", "1")] = None,
    device: Annotated[str | None, _option("Where torch computes: cpu, cuda, cuda:1.", "cpu")] = None,
    out: Annotated[str | None, _option("Folder of the bundle.", "export/<model>")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of these options; flags win.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --out even if it is no bundle.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan and print the widths; write nothing.")
    ] = False,
    json: Json = False,
) -> int:
    """The whole flow into a bundle. With no arguments: scikit-learn's digits and a small CNN trained on the spot."""
    import json as encoder

    from causal_prune.command_line.jobs import dry_run_job, run_job
    from causal_prune.command_line.settings import load_settings
    from causal_prune.command_line.tables import dry_run_lines

    settings = load_settings(config, _given(ctx, leave_out=("config", "force")))
    if settings.dry_run:
        target, layers = dry_run_job(settings)
        if settings.print_json:
            widths = [layer.model_dump() for layer in layers]
            typer.echo(encoder.dumps({"target": vars(target), "layers": widths}, indent=2))
        else:
            _print_lines(dry_run_lines(target, layers))
        return 0
    result = run_job(settings, force=force, command=_typed(ctx))
    if settings.print_json:
        typer.echo(result.report.model_dump_json(indent=2))
    else:
        _print_summary(result)
    return 0


@app.command(epilog="Example: causal-prune inspect --model torchvision:resnet18 --input-shape 3,224,224")
def inspect(
    ctx: typer.Context,
    model: Model = None,
    model_arg: ModelArg = None,
    weights: Weights = None,
    data: DataSource = None,
    input_shape: InputShape = None,
    freeze: Freeze = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of the options of run.")] = None,
    json: Json = False,
) -> int:
    """Groups, widths, parents, what is frozen and why; changes nothing."""
    import json as encoder

    from causal_prune.command_line.jobs import inspect_job
    from causal_prune.command_line.settings import load_settings
    from causal_prune.command_line.tables import inspection_tables

    settings = load_settings(config, _given(ctx, leave_out=("config",)))
    graph = inspect_job(settings)
    if settings.print_json:
        typer.echo(encoder.dumps(graph.to_json(), indent=1))
    else:
        _print_tables(*inspection_tables(graph))
    return 0


@app.command(
    epilog="Example: causal-prune gate export/digits --baseline export/digits/baseline.json --max-drop 0.02"
)
def gate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle to check.")],
    baseline: Annotated[Path, typer.Option(help="A report.json, or a baseline made from one.")],
    max_drop: Annotated[
        float, typer.Option(min=0, max=1, help="Largest loss of accuracy, 0.01 for one point.")
    ] = 0.01,
    min_speedup: Annotated[
        float | None, typer.Option(min=0, help="Least speed-up over the dense network.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Largest size of the ONNX file.")] = None,
    beat_random: Annotated[bool, typer.Option("--beat-random", help="Random pruning must be worse.")] = False,
) -> int:
    """The CI check: exits 0 passed, 1 failed, 4 inconclusive, and says which number decided."""
    from causal_prune.report import Limits, Report, load_baseline, verify
    from causal_prune.report import gate as judge

    verify(folder)
    limits = Limits(max_drop=max_drop, min_speedup=min_speedup, max_bytes=max_bytes, beat_random=beat_random)
    verdict = judge(Report.load(folder / "report.json"), load_baseline(baseline), limits)
    _print_lines(verdict.lines)
    return verdict.exit_code


@app.command(epilog="Example: causal-prune bench dense.onnx small.onnx --threads 2")
def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|DIR", help="The file to time, or a bundle.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER.onnx|DIR", help="Timed side by side.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images per run.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time for each file.")] = 2.0,
) -> int:
    """Latency of an ONNX file; of two files, interleaved, with the ratio."""
    from causal_prune.command_line.tables import bench_table

    files = _file(model), None if other is None else _file(other)
    _print_tables(bench_table(*files, threads=threads, batch=batch, seconds=seconds))
    return 0


@app.command(epilog="Example: causal-prune compare before.onnx export/digits")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A.onnx|DIR", help="The reference.")],
    second: Annotated[Path, typer.Argument(metavar="B.onnx|DIR", help="Another file, or a bundle.")],
    tolerance: Annotated[float, typer.Option(min=1e-12, help="Largest difference that passes.")] = 1e-4,
    seed: Annotated[int, typer.Option(min=0, help="Of the random inputs.")] = 0,
) -> int:
    """Output parity of two ONNX files, per output; exits 1 where they differ."""
    from causal_prune.onnx_files import compare_onnx

    parity = compare_onnx(_file(first), _file(second), tolerance=tolerance, seed=seed)
    verdict = "within" if parity.passed else "ABOVE"
    _print_lines([f"{name}: largest difference {error:.3g}" for name, error in parity.outputs.items()])
    _print_lines([f"largest difference {parity.max_abs:.3g}, {verdict} the tolerance {parity.tolerance:.3g}"])
    return 0 if parity.passed else 1


def _file(path: Path) -> Path:
    """An ONNX file, or that of a bundle."""
    return path / "model.onnx" if path.is_dir() else path


def _given(ctx: typer.Context, leave_out: Sequence[str]) -> dict[str, object]:
    """The flags that the user typed; what was not typed is None or False and counts as not given."""
    typed = {name: value for name, value in ctx.params.items() if name not in leave_out}
    if typed.pop("no_compensate", None):
        if typed["compensate"] is not None:
            raise InputError("--compensate and --no-compensate contradict each other; give one")
        typed["compensate"] = False
    switches = ("json", "dry_run")
    return {name: (value or None) if name in switches else value for name, value in typed.items()}


def _typed(ctx: typer.Context) -> str:
    root = ctx.find_root()
    return shlex.join(("causal-prune", *root.obj)) if root.obj else "causal-prune run"


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)


def _print_tables(*tables: Any) -> None:
    from rich.console import Console

    console = Console()
    for table in tables:
        console.print(table)


def _print_summary(result: "Compressed") -> None:
    from causal_prune.report import summary_lines, summary_table

    _print_tables(summary_table(result.report))
    _print_lines(summary_lines(result.report))
    bundle = shlex.quote(str(result.bundle))
    _print_lines(
        [
            "",
            f"report: {result.bundle}/report.html",
            f"next: causal-prune gate {bundle} --baseline {bundle}/report.json",
            f"      causal-prune bench {bundle}/model.onnx",
        ]
    )
