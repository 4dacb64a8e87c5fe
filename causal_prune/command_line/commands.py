"""The commands: parse, call, print. Everything heavy is imported inside the command that needs it."""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from causal_prune.errors import StoppedError
from causal_prune.progress import log

if TYPE_CHECKING:
    from causal_prune.command_line.settings import RunSettings
    from causal_prune.pipeline import Compressed


SILENT: ContextVar[bool] = ContextVar("causal_prune_silent", default=False)
"""Whether tables and sentences are not printed."""
Config = Annotated[
    Path | None, typer.Option(help="TOML file of these options; flags win.", rich_help_panel="Output")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]


def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version, and those of the libraries it stands on.", metavar=""
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print warnings, errors and JSON alone.", metavar="")
    ] = False,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log", help="Append what is printed, and every step with its time, to a file.", metavar="FILE"
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show a traceback with an error.", metavar="")
    ] = False,
) -> None:
    # the docstring would replace the help text of the whole program; `main` takes these flags before or after a command
    del version, quiet, log, debug


def run(ctx: typer.Context, config: Config = None) -> int:
    """The whole flow into a bundle. With no arguments: scikit-learn's digits and a small CNN trained on the spot."""
    settings = _settings(ctx, config)  # before the imports: a wrong option is told at once
    from causal_prune.command_line.jobs import dry_run_job, run_job
    from causal_prune.command_line.standard_output import left_to_json
    from causal_prune.command_line.tables import dry_run_lines

    if settings.dry_run:
        with left_to_json(settings.print_json):
            target, layers = dry_run_job(settings)
        if settings.print_json:
            widths = [layer.model_dump() for layer in layers]
            _print_json({"target": vars(target), "layers": widths})
        else:
            _print_lines(dry_run_lines(target, layers))
        return 0
    with left_to_json(settings.print_json), _told_when_stopped():
        result = run_job(settings, command=_typed(ctx))
    if settings.print_json:
        typer.echo(result.report.model_dump_json(indent=2))
    else:
        _print_summary(result)
    return 0


def frontier(
    ctx: typer.Context,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE,SHARE",
            help="Shares of the MACs that stay, one for each size. [dim]\\[default: 0.9,0.7,0.5,0.35,0.25,0.15][/]",
            rich_help_panel="How small",
        ),
    ] = None,
    config: Config = None,
) -> int:
    """How small it may get: sizes side by side without training, and the one that one would take."""
    settings = _settings(ctx, config)
    from causal_prune.pipeline import Sizes

    sizes = Sizes() if keep is None else Sizes.model_validate({"keep": keep})
    from causal_prune.command_line.jobs import frontier_job
    from causal_prune.command_line.standard_output import left_to_json
    from causal_prune.report import frontier_lines, frontier_table

    with left_to_json(settings.print_json):
        found, out = frontier_job(settings, sizes.keep, command=_typed(ctx))
    if settings.print_json:
        typer.echo(found.model_dump_json(indent=2))
        return 0
    _print_tables(frontier_table(found))
    _print_lines([*frontier_lines(found), "", f"picture: {out}/frontier.png"])
    return 0


def inspect(ctx: typer.Context, config: Config = None) -> int:
    """Groups, widths, parents, what is frozen and why; changes nothing. `--dependencies both` compares two graphs."""
    from causal_prune.command_line.flags import typed
    from causal_prune.command_line.settings import load_settings

    given = typed(ctx)
    both = given.get("dependencies") == "both"
    settings = load_settings(config, {**given, "dependencies": "labels"} if both else given)
    from causal_prune.command_line.jobs import inspect_both_job, inspect_job
    from causal_prune.command_line.standard_output import left_to_json
    from causal_prune.command_line.tables import differences_table
    from causal_prune.tracing import differences, inspection_tables

    with left_to_json(settings.print_json):
        graphs = inspect_both_job(settings) if both else (inspect_job(settings),)
    if not both and settings.print_json:
        typer.echo(json.dumps(graphs[0].to_json(), indent=1))
    elif not both:
        _print_tables(*inspection_tables(graphs[0]))
    elif settings.print_json:
        told: dict[str, Any] = {graph.dependencies: graph.to_json() for graph in graphs}
        _print_json({**told, "differences": [vars(each) for each in differences(*graphs)]})
    else:
        _print_tables(*inspection_tables(graphs[0]), differences_table(differences(*graphs)))
    return 0


def gate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle to check.")],
    baseline: Annotated[Path, typer.Option(help="A report.json, or a baseline made from one.")],
    max_drop: Annotated[
        float,
        typer.Option(
            min=0, help="Largest loss of quality: 0.01 for one point of accuracy, or errors in their unit."
        ),
    ] = 0.01,
    min_speedup: Annotated[
        float | None, typer.Option(min=0, help="Least speed-up over the dense network.")
    ] = None,
    max_bytes: Annotated[int | None, typer.Option(min=1, help="Largest size of the ONNX file.")] = None,
    beat_random: Annotated[bool, typer.Option("--beat-random", help="Random pruning must be worse.")] = False,
    print_json: Json = False,
) -> int:
    """The CI check: exits 0 passed, 1 failed, 4 inconclusive, and says which number decided."""
    from causal_prune.report import Limits, Report, load_baseline, verify
    from causal_prune.report import gate as judge

    verify(folder)
    limits = Limits(max_drop=max_drop, min_speedup=min_speedup, max_bytes=max_bytes, beat_random=beat_random)
    verdict = judge(Report.load(folder / "report.json"), load_baseline(baseline), limits)
    if print_json:
        _print_json({"exit_code": verdict.exit_code, "lines": verdict.lines})
    else:
        _print_lines(verdict.lines)
    return verdict.exit_code


def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx|DIR", help="The file to time, or a bundle.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER.onnx|DIR", help="Timed side by side.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of ONNX Runtime.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Images per run.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.01, help="Time for each file.")] = 2.0,
    print_json: Json = False,
) -> int:
    """Latency of an ONNX file; of two files, interleaved, with the ratio."""
    from causal_prune.command_line.tables import bench_entries, bench_table
    from causal_prune.measure import measure_latency

    timed = {str(_file(path)): _file(path) for path in (model, other) if path is not None}
    latencies = measure_latency(timed, threads=threads, batch=batch, seconds=seconds)
    if print_json:
        _print_json({"threads": threads, "batch": batch, "files": bench_entries(latencies)})
    else:
        from rich.console import Console

        table, files = bench_table(latencies, threads=threads, batch=batch, width=Console().width)
        _print_lines([*files, ""] if files else [])
        _print_tables(table)
    return 0


def compare(
    first: Annotated[Path, typer.Argument(metavar="A.onnx|DIR", help="The reference.")],
    second: Annotated[Path, typer.Argument(metavar="B.onnx|DIR", help="Another file, or a bundle.")],
    tolerance: Annotated[float, typer.Option(min=1e-12, help="Largest difference that passes.")] = 1e-4,
    seed: Annotated[int, typer.Option(min=0, help="Of the random inputs.")] = 0,
    print_json: Json = False,
) -> int:
    """Output parity of two ONNX files, per output; exits 1 where they differ."""
    from causal_prune.onnx_files import compare_onnx

    parity = compare_onnx(_file(first), _file(second), tolerance=tolerance, seed=seed)
    if print_json:
        worst = {"max_abs": parity.max_abs, **parity.outputs}
        finite = {
            name: error if isfinite(error) else None for name, error in worst.items()
        }  # JSON knows no infinity
        _print_json({**vars(parity), "max_abs": finite.pop("max_abs"), "outputs": finite})
        return 0 if parity.passed else 1
    verdict = "within" if parity.passed else "ABOVE"
    _print_lines([f"{name}: largest difference {error:.3g}" for name, error in parity.outputs.items()])
    _print_lines([f"largest difference {parity.max_abs:.3g}, {verdict} the tolerance {parity.tolerance:.3g}"])
    return 0 if parity.passed else 1


def explain(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The bundle whose networks are explained.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FOLDER|FILE ...",
            help="Images, as many as you like, after DIR; test images of the bundle's data, if not given.",
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Maps to draw; `--methods all` draws every kind.")
    ] = "grad_cam,integrated_gradients",
    count: Annotated[int, typer.Option(min=1, help="Images at most; the picture shows up to 12.")] = 64,
    out: Annotated[
        Path | None, typer.Option(help="Folder for pictures and table. [dim]\\[default: DIR/explanation][/]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where torch computes: cpu, cuda, cuda:1.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file with model, weights and data, for a bundle made in Python.")
    ] = None,
    print_json: Json = False,
) -> int:
    """Attribution maps of the dense and the compressed network side by side, and their drift."""
    chosen = _methods(methods)
    from causal_prune.command_line.explaining import explain_job
    from causal_prune.command_line.standard_output import left_to_json
    from causal_prune.command_line.tables import drift_lines
    from causal_prune.report import drift_rows_told

    with left_to_json(print_json):
        found = explain_job(
            folder,
            images=images or (),
            methods=chosen,
            all_of_them="all" in methods.split(","),
            count=count,
            out=out,
            config=config,
            device=device,
        )
    if print_json:
        _print_json(found.to_json())
        return 0
    _print_tables(drift_lines(found.drifts))
    _print_lines([drift_rows_told(), ""])
    _print_lines(found.written())
    return 0


def _methods(text: str) -> tuple[str, ...]:
    """Names of maps, each once."""
    from typing import get_args

    from causal_prune.errors import InputError, nearest
    from causal_prune.explanation import MapMethod, methods_in

    known, names = get_args(MapMethod), methods_in(text)
    assert isinstance(names, tuple), "a text is a list of names"
    for name in names:
        if name not in known:
            hint = nearest(name, list(known)) or f"; known are {', '.join(known)} and all"
            raise InputError(f"`methods`: {name} is no kind of map{hint}")
    if not names:
        raise InputError("`methods`: names no map")
    return names


@contextmanager
def _told_when_stopped() -> Iterator[None]:
    """Let an interrupt say what is left of the run, where it knows that; typer would drop its words."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if stop.args:
            raise StoppedError(str(stop)) from stop
        raise


def _settings(ctx: typer.Context, config: Path | None) -> "RunSettings":
    from causal_prune.command_line.flags import typed
    from causal_prune.command_line.settings import load_settings

    return load_settings(config, typed(ctx))


def _file(path: Path) -> Path:
    """An ONNX file, or that of a bundle."""
    return path / "model.onnx" if path.is_dir() else path


def _typed(ctx: typer.Context) -> str:
    root = ctx.find_root()
    return shlex.join(("causal-prune", *root.obj)) if root.obj else "causal-prune run"


def _print_json(content: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=2))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        log(line)
        if not SILENT.get():
            typer.echo(line)


def _print_tables(*tables: Any) -> None:
    from rich.console import Console

    from causal_prune.report import tables_as_text

    log(tables_as_text(tables))
    if not SILENT.get():
        console = Console()
        for table in tables:
            console.print(table)


def _print_summary(result: "Compressed") -> None:
    from causal_prune.report import ladder_table, ladder_told, summary_lines, summary_table, time_told

    report = result.report
    _print_tables(summary_table(report))
    _print_lines(summary_lines(report))
    ladder = ladder_table(report)
    if ladder is not None:
        _print_lines([""])
        _print_tables(ladder)
    _print_lines([line for line in (ladder_told(report), time_told(result.steps)) if line])
    bundle = shlex.quote(str(result.bundle))
    _print_lines(
        [
            "",
            f"report: {result.bundle}/report.html",
            f"next: causal-prune gate {bundle} --baseline {bundle}/report.json",
            f"      causal-prune bench {bundle}/model.onnx",
        ]
    )


ALL: tuple[str, ...] = ()
FRONTIER = (
    "from_bundle", "model", "model_arg", "weights", "data", "mean", "std", "input_shape", "calibration_images",
    "max_drop", "confidence", "align", "importance", "parents", "mode", "views", "dependencies", "freeze",
    "compensation", "max_memory", "evidence", "arms", "random_seeds", "seed", "threads", "device", "opset",
    "dynamic_size", "out", "force", "print_json",
)  # fmt: skip
COMMANDS: tuple[tuple[Callable[..., int], tuple[str, ...] | None, str], ...] = (
    (
        run,
        ALL,
        "Example: causal-prune run --model torchvision:resnet18 --weights net.safetensors --data imagefolder:photos",
    ),
    (
        frontier,
        FRONTIER,
        "Example: causal-prune frontier --model torchvision:resnet18 --data imagefolder:photos --keep 0.7,0.5,0.35",
    ),
    (
        inspect,
        (
            "model",
            "model_arg",
            "weights",
            "data",
            "input_shape",
            "freeze",
            "dependencies",
            "print_json",
        ),
        "Example: causal-prune inspect --model torchvision:resnet18 --input-shape 3,224,224",
    ),
    (
        gate,
        None,
        "Example: causal-prune gate export/digits --baseline export/digits/baseline.json --max-drop 0.02",
    ),
    (bench, None, "Example: causal-prune bench dense.onnx small.onnx --threads 2"),
    (compare, None, "Example: causal-prune compare before.onnx export/digits"),
    (
        explain,
        None,
        "Example: causal-prune explain export/digits --images photos cat.jpg --methods grad_cam,saliency",
    ),
)
"""Every command, the options whose flags it has (none named: all; None: those that it declares itself), an example."""


def named(arguments: Sequence[str]) -> set[str]:
    """The commands among some arguments whose flags are made from the options.

    Args:
        arguments: Of the program.

    Returns:
        Their names.
    """
    return {command.__name__ for command, options, _ in COMMANDS if options is not None} & {*arguments}


SEVERAL = ("--images",)
"""Flags that take all that follows, up to the next flag."""


def repeated(arguments: Sequence[str]) -> Iterator[str]:
    """Give every value of a flag that takes several a flag of its own.

    Args:
        arguments: As they were typed.

    Yields:
        The arguments.

    Raises:
        InputError: If such a flag has no value.

    Example:
        >>> list(repeated(["explain", "out", "--images", "a", "b", "--json"]))
        ['explain', 'out', '--images', 'a', '--images', 'b', '--json']
    """
    from causal_prune.errors import InputError

    taking: str | None = None
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=False):
        if argument in SEVERAL and following.startswith("-"):
            raise InputError(f"{argument}: names nothing; give one or more after it")
        if argument in SEVERAL:
            taking, first = argument, True
            yield argument
        elif taking and not argument.startswith("-"):
            if not first:
                yield taking
            first = False
            yield argument
        else:
            taking = None
            yield argument


def app_for(arguments: Sequence[str]) -> typer.Typer:
    """The commands, as a program.

    Args:
        arguments: Of the program; flags are made for the commands that are named among them, which takes a while.

    Returns:
        The program.
    """
    app = typer.Typer(
        name="causal-prune",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        help="Make a trained convolutional network physically smaller, and prove what that cost.",
    )
    app.callback()(_common)
    wanted = named(arguments)
    for command, options, example in COMMANDS:
        ready = command
        if options is not None and command.__name__ in wanted:
            from causal_prune.command_line.flags import with_flags

            ready = with_flags(*options)(command)
        app.command(command.__name__, epilog=example)(ready)
    return app
