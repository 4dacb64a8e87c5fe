"""Quality against the share of units removed, causal and random."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch.utils.data import Subset

from causal_prune.comparison.arms import Recipe, measured, normalised, pruned
from causal_prune.comparison.rivals import Rival
from causal_prune.importance import FilterScores
from causal_prune.planning import plan
from causal_prune.progress import track
from causal_prune.report import Curve
from causal_prune.surgery import PruningPlan
from causal_prune.tracing import FilterGraph

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)
QUICK_SHARES = (0.3, 0.5, 0.7)
CURVE_IMAGES = 1000


def curve(
    recipe: Recipe, plans: Mapping[tuple[float, str, int], Callable[[], PruningPlan]]
) -> dict[tuple[float, str, int], float]:
    """Quality on validation images after the cut and re-estimation of batch norm, for many plans.

    Args:
        recipe: What all arms share; the first 1,000 validation images are read.
        plans: By (share removed, arm, seed) what makes the plan.

    Returns:
        Quality by the same keys.
    """
    some = Subset(recipe.data.validation, range(min(CURVE_IMAGES, recipe.data.split["validation"])))
    result = {}
    for key, make in track(
        plans.items(),
        f"{recipe.data.task.yardstick.name} against share removed",
        total=len(plans),
        unit="network",
    ):
        smaller = pruned(recipe.dense, make(), recipe.mode)
        repaired = normalised(recipe, smaller)
        result[key] = measured(recipe, {"it": repaired}, some, "evaluate")["it"].value
    return result


def curve_by_share(
    recipe: Recipe,
    graph: FilterGraph,
    scores: FilterScores,
    rivals: Sequence[Rival],
    shares: Sequence[float] = SHARES,
) -> Curve:
    """Quality against the share of units removed, causal and random, without fine-tuning.

    Args:
        recipe: What all arms share.
        graph: From `trace`.
        scores: The causal arm's.
        rivals: The random ones among them are taken.
        shares: Of the units that go.

    Returns:
        The curve.
    """
    chosen = {
        # the random arms have no curves to spread the removals by
        "causal": [(0, replace(scores, curves={}))],
        "random": [(rival.seed or 0, rival.scores) for rival in rivals if rival.name == "random"],
    }
    plans = {
        (share, name, seed): (lambda s=theirs, r=share: plan(graph, s, remove_filters=r))
        for share in shares
        for name, entries in chosen.items()
        for seed, theirs in entries
    }
    found = curve(recipe, plans)
    seeds = [seed for seed, _ in chosen["random"]]
    repaired = "no repair" if recipe.repair.compensation == "none" else "batch-norm re-estimation"
    return Curve(
        shares=tuple(shares),
        causal=tuple(found[share, "causal", 0] for share in shares),
        random=tuple(tuple(found[share, "random", seed] for seed in seeds) for share in shares),
        split="validation",
        note=f"Every group gives up the same share; {repaired}, no fine-tuning, up to 1,000 validation images.",
    )
