"""The comparison of arms: which ones run, what they export, and what the report says of them."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch.utils.data import Subset

from causal_prune.arms import ArmResult, Mode, Recipe, curve, dense_arm, run_arm
from causal_prune.data.data import Images, held_out, loader
from causal_prune.errors import CausalPruneWarning, InputError
from causal_prune.importance import WITH_LABELS, FilterScores, score
from causal_prune.importance.ablation import ablate, joined
from causal_prune.measure.agreement import agreement, median_agreement, spearman_by_group, spread_units
from causal_prune.measure.latency import Latency, measure_latency
from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.onnx_files.export import export_onnx
from causal_prune.onnx_files.parity import Parity
from causal_prune.planning.unit_choice import plan, plan_like
from causal_prune.progress import status
from causal_prune.report.report import AgreementSummary, Curve
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.tracing.filter_graph import FilterGraph

ARMS = ("causal", "random", "magnitude")
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
JUDGED_UNITS = 16
INTERVENTIONS, MOST_IMAGES = 100_000, 1000


@dataclass(frozen=True)
class Rival:
    """Another way of choosing units.

    Attributes:
        name: Of the arm.
        seed: Of the scores, where they have one.
        scores: What it chooses by.
    """

    name: str
    seed: int | None
    scores: FilterScores


@dataclass(frozen=True)
class Exported:
    """An arm as an ONNX file.

    Attributes:
        parity: With the network that it came from.
        size: In bytes.
        latency: Samples.
    """

    parity: Parity
    size: int
    latency: Latency


def rivals_of(
    graph: FilterGraph, moments: FilterMoments, arms: Sequence[str], random_seeds: int, seed: int
) -> list[Rival]:
    """Scores of the arms beside the causal one.

    Args:
        graph: From `trace`.
        moments: From `observe`.
        arms: Names; "causal" is passed over.
        random_seeds: Number of random arms.
        seed: The first random arm's seed; the others count on.

    Returns:
        The rivals, random ones first.

    Raises:
        InputError: If an arm is unknown, or `random_seeds` is below 1.
    """
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown:
        raise InputError(f"arms: {unknown[0]!r} is not one of {', '.join(ARMS)}")
    if random_seeds < 1:
        raise InputError(f"random_seeds: {random_seeds} is not at least 1")
    rivals = []
    if "random" in arms:
        rivals += [
            Rival("random", k, score(graph, moments, method="random", seed=k))
            for k in range(seed, seed + random_seeds)
        ]
    if "magnitude" in arms:
        rivals.append(Rival("magnitude", None, score(graph, moments, method="magnitude")))
    return rivals


def judge(
    recipe: Recipe,
    graph: FilterGraph,
    scores: FilterScores,
    rescore: Callable[[FilterMoments], FilterScores],
    validation: Images,
) -> AgreementSummary | None:
    """How far the importances rank the units as ablation does, on a sample that costs little beside a run.

    Up to 16 units of every group are ablated, on as many validation images as make 100,000 interventions, but 64 to
    1,000. Two halves of the images are ablated on their own: how far they agree says how much of it is noise.

    Args:
        recipe: The network before, and the calibration images; the importances of two halves of them are compared.
        graph: From `trace`.
        scores: The causal arm's.
        rescore: The same scores from other moments.
        validation: Validation images.

    Returns:
        The agreement; None where ablation itself made the scores, or nothing can be cut.
    """
    units = spread_units({group.name: group.size for group in graph.prunable}, JUDGED_UNITS)
    count = sum(map(len, units.values()))
    if scores.method == "ablation" or not count:
        return None
    images = min(MOST_IMAGES, max(64, INTERVENTIONS // count))
    halves = [
        ablate(recipe.dense, graph, held_out(Subset(validation, part), images // 2), units=units)
        for start in (0, 1)
        if (part := range(start, len(validation), 2))  # type: ignore[arg-type]
    ]
    found = agreement(scores, halves[0] if len(halves) == 1 else joined(*halves))
    reliability = None
    if len(halves) == 2:
        reliability = median_agreement(spearman_by_group(halves[0].rise, halves[1].rise))
    stable = None
    if scores.method not in WITH_LABELS and len(recipe.calibration) >= 4:  # type: ignore[arg-type]
        stable = _stability(recipe, graph, rescore)
    return AgreementSummary(
        method=scores.method,
        versus="ablation",
        spearman_by_group=dict(found.spearman_by_group),
        median=found.median,
        images=found.images,
        units=found.units,
        stability=stable,
        reliability=reliability,
    )


def _stability(
    recipe: Recipe, graph: FilterGraph, rescore: Callable[[FilterMoments], FilterScores]
) -> float | None:
    size = len(recipe.calibration)  # type: ignore[arg-type]
    halves = (Subset(recipe.calibration, range(start, size, 2)) for start in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CausalPruneWarning)  # that images are few was said of the whole
        first, second = (
            rescore(observe(recipe.dense, graph, loader(half), max_memory=recipe.max_memory))
            for half in halves
        )
    return median_agreement(spearman_by_group(first.groups, second.groups))


def run_arms(
    recipe: Recipe,
    graph: FilterGraph,
    planned: PruningPlan,
    importance: str,
    rivals: Sequence[Rival],
    mode: Mode,
) -> list[ArmResult]:
    """Run the dense network, the causal arm and its rivals, all at the same widths.

    Args:
        recipe: What all arms share.
        graph: From `trace`.
        planned: The causal arm's plan, whose widths all take.
        importance: The causal arm's method.
        rivals: The other arms.
        mode: How the units go; with "zero" a further arm removes the causal arm's units.

    Returns:
        The arms, dense first, causal second.
    """
    results = [
        dense_arm(recipe),
        run_arm(recipe, planned, name="causal", importance=importance, seed=None, mode=mode),
    ]
    if mode == "zero":
        results.append(
            run_arm(recipe, planned, name="causal-removed", importance=importance, seed=None, mode="remove")
        )
    for rival in rivals:
        theirs = plan_like(graph, rival.scores, planned)
        results.append(
            run_arm(
                recipe, theirs, name=rival.name, importance=rival.scores.method, seed=rival.seed, mode=mode
            )
        )
    return results


def share_curve(
    recipe: Recipe,
    validation: Images,
    graph: FilterGraph,
    scores: FilterScores,
    rivals: Sequence[Rival],
    mode: Mode,
) -> Curve:
    """Accuracy against the share of units removed, causal and random, without fine-tuning.

    Args:
        recipe: What all arms share.
        validation: Validation images.
        graph: From `trace`.
        scores: The causal arm's.
        rivals: The random ones among them are taken.
        mode: How the units go.

    Returns:
        The curve.
    """
    chosen = {
        "causal": [
            (0, replace(scores, curves={}))
        ],  # the random arms have no curves to spread the removals by
        "random": [(rival.seed or 0, rival.scores) for rival in rivals if rival.name == "random"],
    }
    plans = {
        (share, name, seed): (lambda s=theirs, r=share: plan(graph, s, remove_filters=r))
        for share in SHARES
        for name, entries in chosen.items()
        for seed, theirs in entries
    }
    found = curve(recipe, validation, plans, mode)
    seeds = [seed for seed, _ in chosen["random"]]
    repaired = "no repair" if recipe.compensation == "none" else "batch-norm re-estimation"
    return Curve(
        shares=SHARES,
        causal=tuple(found[share, "causal", 0] for share in SHARES),
        random=tuple(tuple(found[share, "random", seed] for seed in seeds) for share in SHARES),
        split="validation",
        note=f"Every group gives up the same share; {repaired}, no fine-tuning, up to 1,000 validation images.",
    )


def export_arms(
    results: Sequence[ArmResult], recipe: Recipe, folder: Path, *, threads: int, metadata: Mapping[str, str]
) -> dict[int, Exported]:
    """Export and time the first arm of every name; `model.onnx` is the causal one.

    Args:
        results: The arms.
        recipe: What all arms share.
        folder: The bundle; files of other arms are written to it and removed again.
        threads: Of ONNX Runtime.
        metadata: Written into the files.

    Returns:
        By position in `results` what was exported.

    Raises:
        ParityError: If an export computes something else than its network.
    """
    first: dict[str, int] = {}
    for position, result in enumerate(results):
        first.setdefault(result.name, position)
    files = {name: folder / ("model.onnx" if name == "causal" else f".{name}.onnx") for name in first}
    parities = {}
    for name, position in first.items():
        with status(f"{name}: export ONNX and compare with torch"):
            parities[name] = export_onnx(
                results[position].model,
                files[name],
                recipe.example,
                metadata={**metadata, "causal_prune.arm": name},
            )
    latencies = measure_latency(
        files, threads=threads, seed=recipe.seed, label="latency, all arms interleaved"
    )
    sizes = {name: path.stat().st_size for name, path in files.items()}
    for name, path in files.items():
        if name != "causal":
            path.unlink()
    return {
        position: Exported(parities[name], sizes[name], latencies[name]) for name, position in first.items()
    }
