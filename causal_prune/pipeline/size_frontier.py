"""How small a network may get: one pass of statistics, several sizes, no training, and the size that one would take."""

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from torch import nn

from causal_prune.comparison import Recipe, Rivals, SizedNetwork, rivals_of, sizes_of
from causal_prune.compensation import REPAIRS
from causal_prune.data import Data
from causal_prune.machine import environment
from causal_prune.measure import measure_latency, speedup
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.onnx_files import export_onnx
from causal_prune.pipeline.findings import as_toml, steps_taken
from causal_prune.pipeline.forecast import (
    EXPORT,
    SIZES,
    WRITE,
    seconds_per_image,
    sizes_forecast,
)
from causal_prune.pipeline.keywords import keywords_of
from causal_prune.pipeline.options import MAX_DROP, FrontierOptions
from causal_prune.pipeline.steps import recipe_of, study
from causal_prune.planning import SETTLED, Goal
from causal_prune.progress import StepList, listed, status, step
from causal_prune.report import Frontier, FrontierSize, draw_frontier, frontier_markdown, staged


@undisturbed
@keywords_of(FrontierOptions)
def frontier(model: nn.Module, data: Data, options: FrontierOptions) -> Frontier:
    """Cut and repair a trained network at several sizes, and say which one to take.

    Statistics and elimination curves are computed once. Of the data the validation split is read, the test split is
    not.

    Args:
        model: The trained network; it is not changed.
        data: Its images.
        options: One value of `FrontierOptions`, or its fields as keywords. With `out` a folder is written, with the
            picture and the plan of every size.

    Returns:
        The sizes, with what each keeps, how fast it is, and what it loses.

    Raises:
        InputError: If an option, the model or the data cannot be used.
        TargetError: If nothing can be pruned.

    Cost: the statistics, then a repair for every arm of every size, and a few seconds of timing for each size.

    Example:
        ``print(cp.frontier(model, data, keep=(0.7, 0.5, 0.35), arms=("causal",)))``
    """
    recipe = recipe_of(model, data, options)
    rivals = _rivals(options)
    image = seconds_per_image(recipe)
    with (
        listed(sizes_forecast(recipe, image, len(options.keep) * (1 + _count(rivals)))) as steps,
        _folder(options) as folder,
    ):
        known = study(recipe, options)
        notes = (*known.doubts, *known.moments.notes)
        goal = options.part(Goal).model_copy(update={"max_drop": options.max_drop or MAX_DROP})
        with step(SIZES):
            others = rivals_of(known.graph, known.moments, rivals, options.seed)
            dense, sizes = sizes_of(
                recipe, known.graph, goal, options.keep, lambda share: known.plan_for(share, options), others
            )
        with step(EXPORT):
            whole, told = _timed(recipe, dense, sizes, options)
        with step(WRITE):
            found = _assembled(recipe, options, whole, told, notes, steps)
            _write(folder, found, sizes, options)
    return found


def _rivals(options: FrontierOptions) -> Rivals:
    """One random arm is a point of the picture; five are for who asks for all evidence."""
    seeds = options.random_seeds or (5 if options.evidence == "full" else 1)
    arms = ("causal",) if options.evidence == "none" else options.arms
    return Rivals(
        arms=arms, random_seeds=None if options.evidence == "none" else seeds, evidence=options.evidence
    )


def _count(rivals: Rivals) -> int:
    return ("random" in rivals.arms) * rivals.seeds + ("magnitude" in rivals.arms)


def _timed(
    recipe: Recipe, dense: SizedNetwork, sizes: list[SizedNetwork], options: FrontierOptions
) -> tuple[FrontierSize, list[FrontierSize]]:
    """All sizes as ONNX files, timed side by side."""
    networks = {"dense": dense.network} | {
        str(place): each.network for place, each in enumerate(sizes) if each.network is not None
    }
    with tempfile.TemporaryDirectory() as place:
        files = {name: Path(place) / f"{name}.onnx" for name in networks}
        for name, network in networks.items():
            with status(f"export size {name}"):
                assert network is not None, "a size that was reached has a network"
                export_onnx(
                    network,
                    files[name],
                    recipe.example,
                    dynamic_size=recipe.form.dynamic_size,
                    opset=recipe.form.opset,
                )
        latencies = measure_latency(
            files, threads=options.threads, seed=options.seed, label="latency, all sizes interleaved"
        )
        bytes_ = {name: file.stat().st_size for name, file in files.items()}

    def with_speed(name: str, told: FrontierSize) -> FrontierSize:
        if name not in latencies:
            return told
        fast = speedup(latencies["dense"], latencies[name])
        update = {"onnx_bytes": bytes_[name], "median_ms": latencies[name].median, "speedup": fast}
        return told.model_copy(update=update)

    return with_speed("dense", dense.told), [
        with_speed(str(place), each.told) for place, each in enumerate(sizes)
    ]


def _assembled(
    recipe: Recipe,
    options: FrontierOptions,
    dense: FrontierSize,
    sizes: list[FrontierSize],
    notes: tuple[str, ...],
    steps: StepList,
) -> Frontier:
    data, out = recipe.data, options.out
    files = [f"plans/keep-{size.keep:g}.json" if size.unreached is None else None for size in sizes]
    told = tuple(size.model_copy(update={"plan": file}) for size, file in zip(sizes, files, strict=True))
    within = [place for place, size in enumerate(told) if size.within]
    taken = min(within, key=lambda place: told[place].macs or 0, default=None)
    makes = None
    if taken is not None and out is not None:
        file = out / str(told[taken].plan)
        makes = f'cp.compress(model, data, plan="{file}")'
        if options.in_force is not None:
            config = shlex.quote(str(out / "config.toml"))
            makes = f"causal-prune run --config {config} --plan {shlex.quote(str(file))}"
    return Frontier(
        schema_version=1,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        title=options.title or type(recipe.dense).__name__,
        command=options.command,
        data=data.name,
        images=data.split["validation"],
        calibration=data.split["calibration"],
        compensation=REPAIRS[options.compensation],
        importance=options.importance,
        yardstick=data.task.yardstick,
        max_drop=options.max_drop or MAX_DROP,
        confidence=options.confidence,
        threads=options.threads,
        dense=dense,
        sizes=told,
        taken=taken,
        makes=makes,
        notes=(f"calibration: {data.calibration_source}", *notes),
        environment=environment(options.threads),
        steps=steps_taken(steps),
    )


def _write(folder: Path | None, found: Frontier, sizes: list[SizedNetwork], options: FrontierOptions) -> None:
    if folder is None:
        return
    (folder / "plans").mkdir()
    for told, size in zip(found.sizes, sizes, strict=True):
        if told.plan is not None and size.plan is not None:
            size.plan.save(folder / told.plan)
    found.save(folder / "frontier.json")
    draw_frontier(found, folder / "frontier.png")
    (folder / "frontier.md").write_text(frontier_markdown(found), encoding="utf-8", newline="\n")
    if options.in_force is not None:
        kept = {
            key: value for key, value in options.in_force.items() if key not in (*SETTLED, "out", "force")
        }
        (folder / "config.toml").write_text(as_toml(kept), encoding="utf-8", newline="\n")


@contextmanager
def _folder(options: FrontierOptions) -> Iterator[Path | None]:
    if options.out is None:
        yield None
        return
    with staged(options.out, force=options.force) as place:
        yield place
