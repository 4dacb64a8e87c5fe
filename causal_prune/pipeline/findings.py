"""What came out of a comparison, as the report and the files of a bundle."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import numpy as np
import tomli_w
from pydantic import JsonValue

from causal_prune.comparison import ArmResult, Chosen, Judged, Outcome, Recipe
from causal_prune.compensation import REPAIRS
from causal_prune.explanation import save_picture
from causal_prune.importance import FilterScores
from causal_prune.machine import environment
from causal_prune.measure import Latency, change_interval, paired_test, speedup, two_way_difference
from causal_prune.observation import FilterMoments
from causal_prune.pipeline.notes import notes, repairs
from causal_prune.pipeline.options import Options
from causal_prune.progress import StepList, status
from causal_prune.report import (
    Arm,
    Comparison,
    LatencySummary,
    LayerWidths,
    ParitySummary,
    Report,
    Split,
    StepTaken,
    Yardstick,
    hits_to_text,
    numbers_to_text,
    render,
)
from causal_prune.surgery import PruningPlan, bundle_weights
from causal_prune.tracing import FilterGraph

CONFIG_HEADER = """\
# The options of this run: `causal-prune run --config` with this file repeats it, `causal-prune run --from` with its
# folder goes on. Relative paths count from the folder in which the command is started.
"""
PRINTED = ("json", "dry_run")
"""Keys that tell how a run was shown, and do not repeat it."""


def assemble(
    recipe: Recipe,
    options: Options,
    chosen: Chosen,
    outcome: Outcome,
    judged: Judged,
) -> Report:
    """Put the report together.

    Args:
        recipe: What all arms shared.
        options: What was asked for.
        chosen: What was planned, and by which scores.
        outcome: The arms.
        judged: What is told of the choice besides.

    Returns:
        The report.
    """
    data = recipe.data
    return Report(
        schema_version=1,
        command=options.command,
        seed=options.seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        title=options.title or type(recipe.dense).__name__,
        mode=options.mode,
        importance=options.importance,
        parents=options.parents or "graph",
        compensation=REPAIRS[options.compensation],
        epochs=options.epochs,
        target=chosen.plan.target,
        split=Split(**data.split),
        data=data.name,
        classes=len(data.classes),
        yardstick=data.task.yardstick,
        parity=_parity(outcome.causal),
        dense=arm_entry(outcome.dense, outcome),
        arms=tuple(arm_entry(arm, outcome) for arm in (outcome.causal, *outcome.others)),
        comparison=compared(outcome, data.task.yardstick),
        layers=tuple(layer_entries(chosen.graph, chosen.plan, chosen.moments)),
        agreement=judged.agreement,
        curve=judged.curve,
        importances=_importances(chosen.scores),
        importance_unit=chosen.scores.unit,
        notes=(*notes(data, options, chosen, recipe.views), *repairs(outcome.causal), *judged.remarks),
        environment=environment(options.threads),
        options=options.by_key() if options.in_force is None else options.in_force,
        class_names=data.classes,
        harm=judged.harm,
        drifts=judged.drifts,
        pictures=tuple(sheet.told for sheet in judged.sheets),
        search=chosen.search,
        ladder=judged.ladder,
    )


def _parity(arm: ArmResult) -> ParitySummary:
    assert arm.exported is not None, "the causal arm is exported"
    parity = arm.exported.parity
    return ParitySummary(max_abs=parity.max_abs, tolerance=parity.tolerance, passed=parity.passed)


def steps_taken(steps: StepList | None) -> tuple[StepTaken, ...]:
    """Which steps ran, and how long they took.

    Args:
        steps: Of the run; None where they were not counted.

    Returns:
        One entry for each step that ran.
    """
    ran = [] if steps is None else [each for each in steps.steps if each.seconds is not None]
    return tuple(StepTaken(name=each.name, part=each.part, seconds=each.seconds or 0.0) for each in ran)


def write_bundle(
    folder: Path,
    outcome: Outcome,
    planned: PruningPlan,
    report: Report,
    judged: Judged,
    in_force: Mapping[str, JsonValue] | None = None,
    steps: StepList | None = None,
) -> None:
    """Write what the export has not written: plan, weights, raw latencies, environment, report and pictures.

    Args:
        folder: The bundle.
        outcome: The arms; the causal one's network is shipped.
        planned: Its plan.
        report: The report.
        judged: Its pictures.
        in_force: The options of the command that repeats the run; None where no command does.
        steps: What took how long; it stands beside the latencies, as the report is the same whenever it is made.
    """
    planned.save(folder / "plan.json")
    if in_force is not None:
        (folder / "config.toml").write_text(as_toml(in_force), encoding="utf-8", newline="\n")
    bundle_weights(outcome.causal.model, folder / "model.safetensors")
    samples = {arm.name: list(arm.exported.latency.samples_ms) for arm in outcome if arm.exported}
    taken = [each.model_dump() for each in steps_taken(steps)]
    timings = {"unit": "ms", "samples": samples, "steps": taken}
    (folder / "latency.json").write_text(json.dumps(timings) + "\n")
    (folder / "environment.json").write_text(json.dumps(report.environment, indent=2) + "\n")
    report.save(folder / "report.json")
    figures = folder / "figures"
    figures.mkdir()
    for sheet in judged.sheets:
        save_picture(sheet.figure, figures / f"{sheet.told.name}.png")
    with status("render the report"):
        render(folder)


def as_toml(in_force: Mapping[str, JsonValue]) -> str:
    """The options of a command as the file that repeats it.

    Args:
        in_force: Value by key; None means not given.

    Returns:
        TOML for `--config`.
    """
    given = {key: value for key, value in in_force.items() if value is not None and key not in PRINTED}
    written = {key: _as_flags(value) if _holds_null(value) else value for key, value in given.items()}
    return CONFIG_HEADER + tomli_w.dumps(written)


def _holds_null(value: JsonValue) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_null, value.values() if isinstance(value, dict) else value))
    return value is None


def _as_flags(table: JsonValue) -> JsonValue:
    """A table with a null, which TOML does not have, as its flags."""
    assert isinstance(table, dict), "nothing else holds a null"
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]


def arm_entry(arm: ArmResult, outcome: Outcome) -> Arm:
    """An arm as the report holds it.

    Args:
        arm: One of the arms.
        outcome: All of them: speed is told against the dense one, correctness against the causal one.

    Returns:
        Its entry.
    """
    stages, end, causal = arm.stages, arm.stages.end, outcome.causal.stages.end
    latency = arm.exported.latency if arm.exported else None
    reference = outcome.dense.exported.latency if outcome.dense.exported else None
    return Arm(
        name=arm.name,
        importance=arm.importance,
        seed=arm.seed,
        quality_after_cut=None if stages.cut is None else stages.cut.value,
        quality_after_batchnorm=None if stages.batchnorm is None else stages.batchnorm.value,
        quality_after_compensation=None if stages.compensation is None else stages.compensation.value,
        quality=end.value,
        correct=end.correct,
        total=end.total,
        ci95=end.ci95,
        macs=arm.cost.macs,
        params=arm.cost.params,
        onnx_bytes=arm.exported.size if arm.exported else None,
        latency_ms=_summary(latency) if latency else None,
        speedup=speedup(reference, latency) if latency and reference else None,
        predictions_sha256=end.predictions_sha256,
        merits=numbers_to_text(end.merits) if end.correct is None else hits_to_text(end.merits),
        paired_p=None if arm is outcome.causal else paired_test(causal.merits, end.merits),
        change_ci95=None
        if arm is outcome.dense
        else change_interval(end.merits, outcome.dense.stages.end.merits),
    )


def _summary(latency: Latency) -> LatencySummary:
    return LatencySummary(
        median=latency.median,
        p90=latency.p90,
        p99=latency.p99,
        iqr=latency.iqr,
        threads=latency.threads,
        batch=latency.batch,
    )


def compared(outcome: Outcome, yardstick: Yardstick) -> Comparison | None:
    """The causal arm against the random arms, paired by the test images, over images and seeds.

    Args:
        outcome: The arms.
        yardstick: Which direction is better.

    Returns:
        The comparison; None without random arms.
    """
    causal = outcome.causal.stages.end
    random = [arm.stages.end for arm in outcome.others if arm.name == "random"]
    if not random:
        return None
    differences = [causal.value - other.value for other in random]
    difference = two_way_difference(causal.merits, np.stack([other.merits for other in random]))
    middle = min(random, key=lambda other: abs(other.value - median(each.value for each in random)))
    return Comparison(
        arm="causal",
        versus="random",
        mean_difference=difference.mean,
        ci95=difference.ci95,
        paired_p=paired_test(causal.merits, middle.merits),
        wins_of=(sum(yardstick.gain(each) > 0 for each in differences), difference.of),
        ci95_over="images and seeds",
    )


def layer_entries(graph: FilterGraph, planned: PruningPlan, moments: FilterMoments) -> list[LayerWidths]:
    """Widths before and after, of convolutions and linear layers.

    Args:
        graph: From `trace`.
        planned: The causal arm's plan.
        moments: From `observe`.

    Returns:
        One entry per layer in order of execution, layers that never ran last.
    """
    entries = []
    for name, layer in graph.layers.items():
        if layer.inputs:
            entry = planned.layers.get(name)
            kept = entry.keep_filters if entry else None
            entries.append(
                LayerWidths(
                    name=name,
                    filters_before=layer.filters,
                    frozen=graph.frozen.get(name),
                    filters_after=layer.filters if kept is None else len(kept),
                    shrinkage=moments.reads[name].shrinkage if name in moments.reads else None,
                )
            )
    return entries


def _importances(scores: FilterScores) -> dict[str, tuple[float, ...]]:
    finite = {name: values[values.isfinite()].tolist() for name, values in scores.layers.items()}
    return {name: tuple(values) for name, values in finite.items() if values}
