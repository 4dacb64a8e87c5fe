"""What came out of a comparison, as the report and the files of a bundle."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from torch import nn

from causal_prune.comparison import ArmResult, Exported
from causal_prune.importance import FilterScores
from causal_prune.machine import environment
from causal_prune.measure import Latency, mcnemar_exact, paired_difference, speedup
from causal_prune.progress import status
from causal_prune.report import (
    AgreementSummary,
    Arm,
    Comparison,
    Curve,
    LatencySummary,
    Layer,
    ParitySummary,
    Report,
    hits_to_text,
    render,
)
from causal_prune.surgery import PruningPlan, bundle_weights
from causal_prune.tracing import FilterGraph


def assemble(
    results: Sequence[ArmResult],
    exports: Mapping[int, Exported],
    graph: FilterGraph,
    planned: PruningPlan,
    scores: FilterScores,
    *,
    curve: Curve,
    agreement: AgreementSummary | None,
    asked: Mapping[str, Any],
    read: Mapping[str, Any],
    notes: tuple[str, ...],
    threads: int,
) -> Report:
    """Put the report together.

    Args:
        results: The arms, dense first, causal second.
        exports: By position in `results` what was exported.
        graph: From `trace`.
        planned: The causal arm's plan.
        scores: The causal arm's scores.
        curve: Accuracy against the share removed.
        agreement: Of the causal arm's scores with ablation.
        asked: The report's keys that say what was asked for.
        read: The report's keys that say what data were read.
        notes: Sentences for the report.
        threads: Of ONNX Runtime.

    Returns:
        The report.
    """
    entries, parity, target = arm_entries(results, exports), exports[1].parity, planned.target
    return Report.model_validate(
        {
            **asked,
            **read,
            "schema_version": 1,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "target": vars(target),
            "parity": ParitySummary(max_abs=parity.max_abs, tolerance=parity.tolerance, passed=parity.passed),
            "dense": entries[0],
            "arms": tuple(entries[1:]),
            "comparison": compared(results),
            "layers": tuple(layer_entries(graph, planned)),
            "agreement": agreement,
            "curve": curve,
            "importances": _importances(scores),
            "importance_unit": scores.unit,
            "notes": notes,
            "environment": environment(threads),
        }
    )


def write_bundle(
    folder: Path,
    model: nn.Module,
    planned: PruningPlan,
    report: Report,
    results: Sequence[ArmResult],
    exports: Mapping[int, Exported],
) -> None:
    """Write what the export has not written: plan, weights, raw latencies, environment, report and pictures.

    Args:
        folder: The bundle.
        model: The causal arm's network.
        planned: Its plan.
        report: The report.
        results: The arms.
        exports: By position in `results` what was exported.
    """
    planned.save(folder / "plan.json")
    bundle_weights(model, folder / "model.safetensors")
    samples = {results[place].name: list(exported.latency.samples_ms) for place, exported in exports.items()}
    (folder / "latency.json").write_text(json.dumps({"unit": "ms", "samples": samples}) + "\n")
    (folder / "environment.json").write_text(json.dumps(report.environment, indent=2) + "\n")
    report.save(folder / "report.json")
    with status("render the report"):
        render(folder)


def arm_entries(results: Sequence[ArmResult], exports: Mapping[int, Exported]) -> list[Arm]:
    """The arms as the report holds them.

    Args:
        results: The arms, dense first, causal second.
        exports: From `export_arms`.

    Returns:
        One entry per arm.
    """
    reference, causal = exports[0].latency, results[1].stages["end"]
    entries = []
    for position, result in enumerate(results):
        end, exported = result.stages["end"], exports.get(position)
        stages = {name: stage.value for name, stage in result.stages.items()}
        latency = exported.latency if exported else None
        entries.append(
            Arm(
                name=result.name,
                importance=result.importance,
                seed=result.seed,
                accuracy_after_cut=stages.get("cut"),
                accuracy_after_batchnorm=stages.get("batchnorm"),
                accuracy_after_compensation=stages.get("compensation"),
                accuracy=end.value,
                correct=end.correct,
                total=end.total,
                ci95=end.ci95,
                macs=result.cost.macs,
                params=result.cost.params,
                onnx_bytes=exported.size if exported else None,
                latency_ms=_summary(latency) if latency else None,
                speedup=speedup(reference, latency) if latency else None,
                predictions_sha256=end.predictions_sha256,
                hits=hits_to_text(end.hits),
                mcnemar_p=None if position == 1 else mcnemar_exact(causal.hits, end.hits),
            )
        )
    return entries


def _summary(latency: Latency) -> LatencySummary:
    return LatencySummary(
        median=latency.median,
        p90=latency.p90,
        p99=latency.p99,
        iqr=latency.iqr,
        threads=latency.threads,
        batch=latency.batch,
    )


def compared(results: Sequence[ArmResult]) -> Comparison | None:
    """The causal arm against the random arms, paired by the test images and over the seeds.

    Args:
        results: The arms, causal second.

    Returns:
        The comparison; None without random arms.
    """
    causal = results[1].stages["end"]
    random = [result.stages["end"] for result in results if result.name == "random"]
    if not random:
        return None
    difference = paired_difference([causal.value - other.value for other in random])
    middle = min(random, key=lambda other: abs(other.value - median(each.value for each in random)))
    return Comparison(
        arm="causal",
        versus="random",
        mean_difference=difference.mean,
        ci95=difference.ci95,
        mcnemar_p=mcnemar_exact(causal.hits, middle.hits),
        wins_of=(difference.wins, difference.of),
    )


def layer_entries(graph: FilterGraph, planned: PruningPlan) -> list[Layer]:
    """Widths before and after, of convolutions and linear layers.

    Args:
        graph: From `trace`.
        planned: The causal arm's plan.

    Returns:
        One entry per layer in order of execution, layers that never ran last.
    """
    entries = []
    for name, layer in graph.layers.items():
        if layer.inputs:
            entry = planned.layers.get(name)
            kept = entry.keep_filters if entry else None
            entries.append(
                Layer(
                    name=name,
                    filters_before=layer.filters,
                    frozen=graph.frozen.get(name),
                    filters_after=layer.filters if kept is None else len(kept),
                )
            )
    return entries


def _importances(scores: FilterScores) -> dict[str, tuple[float, ...]]:
    finite = {name: values[values.isfinite()].tolist() for name, values in scores.layers.items()}
    return {name: tuple(values) for name, values in finite.items() if values}
