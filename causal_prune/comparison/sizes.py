"""One network at several sizes: each cut and repaired from the same statistics, and judged on the validation split."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from causal_prune.comparison.arms import Recipe, make_arm, measured
from causal_prune.comparison.rivals import Rival
from causal_prune.comparison.size_search import judged_against
from causal_prune.errors import TargetError
from causal_prune.measure import Cost, Measured, count_cost
from causal_prune.planning import Goal, plan_like
from causal_prune.progress import track
from causal_prune.report import FrontierArm, FrontierSize
from causal_prune.surgery import PruningPlan
from causal_prune.tracing import FilterGraph


@dataclass(frozen=True)
class SizedNetwork:
    """A network of one size.

    Attributes:
        told: Its entry in the report, without speed.
        plan: Its plan; None where the size cannot be reached.
        network: The causal arm; None where the size cannot be reached.
    """

    told: FrontierSize
    plan: PruningPlan | None = None
    network: nn.Module | None = None


def sizes_of(
    recipe: Recipe,
    graph: FilterGraph,
    goal: Goal,
    keep: Sequence[float],
    plan_for: Callable[[float], PruningPlan],
    rivals: Sequence[Rival],
) -> tuple[SizedNetwork, list[SizedNetwork]]:
    """Cut and repair a network at several sizes.

    Args:
        recipe: What all arms share; nothing is fine-tuned. Of its data the validation split is read, the test split is
            not.
        graph: From `trace`.
        goal: With `max_drop` and the confidence.
        keep: Shares of the multiply-accumulates that stay.
        plan_for: Makes the plan that keeps a share; raises a TargetError where none does.
        rivals: Other ways of choosing units, which take the same widths.

    Returns:
        The dense network, and the sizes, in the order of `keep`.

    Cost: a repair and a pass over the validation images for every arm of every size.
    """
    dense = measured(recipe, {"dense": recipe.dense}, recipe.data.validation, "dense: validation")["dense"]
    cost = count_cost(recipe.dense, recipe.example)
    whole = SizedNetwork(_told(1.0, cost, (_arm("causal", None, dense),)), None, recipe.dense)
    found = []
    for share in track(keep, "sizes", unit="size"):
        try:
            plan = plan_for(share)
        except TargetError as error:
            found.append(SizedNetwork(FrontierSize(keep=share, unreached=str(error))))
            continue
        found.append(_size(recipe, graph, goal, share, plan, rivals, dense))
    return whole, found


def _size(
    recipe: Recipe,
    graph: FilterGraph,
    goal: Goal,
    share: float,
    plan: PruningPlan,
    rivals: Sequence[Rival],
    dense: Measured,
) -> SizedNetwork:
    plans: list[tuple[str, int | None, PruningPlan]] = [("causal", None, plan)]
    plans += [(rival.name, rival.seed, plan_like(graph, rival.scores, plan)) for rival in rivals]
    networks: dict[str, nn.Module] = {}
    for name, seed, theirs in plans:
        label = f"{share:g} of the MACs, {name}" if seed is None else f"{share:g} of the MACs, {name} {seed}"
        networks[f"{name} {seed}"] = make_arm(recipe, theirs, label=label, mode=recipe.mode).end
    judged = measured(recipe, networks, recipe.data.validation, f"{share:g} of the MACs: validation")
    arms = tuple(_arm(name, seed, judged[f"{name} {seed}"]) for name, seed, _ in plans)
    causal = networks["causal None"]
    cost = count_cost(causal, recipe.example)
    loss = judged_against(recipe, goal, dense, judged["causal None"], plan.target.achieved)
    told = _told(share, cost, arms)
    told = told.model_copy(update={"drop": loss.drop, "at_most": loss.at_most, "within": loss.within})
    return SizedNetwork(told, plan, causal)


def _arm(name: str, seed: int | None, found: Measured) -> FrontierArm:
    return FrontierArm(name=name, seed=seed, quality=found.value, ci95=found.ci95)


def _told(keep: float, cost: Cost, arms: tuple[FrontierArm, ...]) -> FrontierSize:
    return FrontierSize(keep=keep, macs=cost.macs, params=cost.params, arms=arms)
