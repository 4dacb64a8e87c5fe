"""One arm of a comparison: cut, repair, fine-tune, measure. All arms share widths, data, budget and schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from causal_prune.comparison.rivals import Rival
from causal_prune.compensation import LayerRepair, Method, reestimate, repair
from causal_prune.data import Images, loader
from causal_prune.fine_tuning import fine_tune
from causal_prune.measure import Accuracy, Cost, count_cost, evaluate
from causal_prune.network.running import Inputs
from causal_prune.planning import plan_like
from causal_prune.surgery import PruningPlan, remove, zero, zero_masks
from causal_prune.tracing import FilterGraph

Mode = Literal["remove", "zero"]


@dataclass(frozen=True)
class Recipe:
    """What all arms of a comparison share.

    Attributes:
        dense: The network before.
        train: Training images.
        calibration: Calibration images.
        test: Test images; read once per arm.
        example: An input for counting and exporting.
        compensation: How the cut network is repaired.
        epochs: Epochs of fine-tuning after it.
        lr: Highest learning rate of the fine-tuning.
        distill: Whether the dense network teaches.
        seed: Of the fine-tuning.
        device: Where to compute.
        max_memory: Bytes that the repair may take; None for half of what is free.
    """

    dense: nn.Module
    train: Images
    calibration: Images
    test: Images
    example: Inputs
    compensation: Method
    epochs: int
    lr: float
    distill: bool
    seed: int
    device: str
    max_memory: int | None = None


@dataclass(frozen=True)
class ArmResult:
    """One arm as it came out.

    Attributes:
        name: "dense", "causal", "random", "magnitude" or "causal-removed".
        importance: The method that chose the units; None for the dense network.
        seed: Of the method, where it has one.
        model: The network at the end.
        stages: Accuracy on the test split after the "cut", after re-estimation of "batchnorm" alone, after
            "compensation" and at the "end", from one pass.
        cost: Multiply-accumulates and parameters.
        repairs: What compensation did to each layer; empty where it went by batch norm alone.
    """

    name: str
    importance: str | None
    seed: int | None
    model: nn.Module
    stages: Mapping[str, Accuracy]
    cost: Cost
    repairs: tuple[LayerRepair, ...] = ()


def cut(dense: nn.Module, plan: PruningPlan, mode: Mode) -> nn.Module:
    """Apply a plan in one of the two modes.

    Args:
        dense: The network before.
        plan: What goes.
        mode: "remove" or "zero".

    Returns:
        A copy.
    """
    return remove(dense, plan) if mode == "remove" else zero(dense, plan)


def run_arm(
    recipe: Recipe, plan: PruningPlan, *, name: str, importance: str, seed: int | None, mode: Mode
) -> ArmResult:
    """Cut, repair and fine-tune one arm, then read the test split once for all stages.

    Args:
        recipe: What all arms share.
        plan: The units that this arm drops.
        name: Of the arm.
        importance: Of the method that chose the units.
        seed: Of the method, or None.
        mode: How the units go.

    Returns:
        The arm.
    """
    label = name if seed is None else f"{name} {seed}"
    after_cut = cut(recipe.dense, plan, mode)
    compensated = repair(
        after_cut,
        recipe.dense,
        loader(recipe.calibration),
        device=recipe.device,
        method=recipe.compensation,
        seed=recipe.seed,
        max_memory=recipe.max_memory,
        label=f"{label}: compensate",
    )
    stations = {"cut": after_cut, "compensation": compensated.model}
    if recipe.compensation == "batchnorm":
        stations["batchnorm"] = compensated.model
    elif recipe.compensation == "least_squares":
        stations["batchnorm"] = _normalised(recipe, after_cut, f"{label}: batch norm")
    tuned = fine_tune(
        compensated.model,
        loader(recipe.train, shuffle=True, seed=recipe.seed),
        epochs=recipe.epochs,
        lr=recipe.lr,
        teacher=recipe.dense if recipe.distill else None,
        seed=recipe.seed,
        device=recipe.device,
        label=f"{label}: fine-tune",
        masks=zero_masks(recipe.dense, plan) if mode == "zero" else None,
    ).eval()
    stages = evaluate(
        {**stations, "end": tuned},
        loader(recipe.test),
        device=recipe.device,
        label=f"{label}: test",
    )
    cost = count_cost(tuned, recipe.example)
    return ArmResult(name, importance, seed, tuned, stages, cost, compensated.layers)


def _normalised(recipe: Recipe, network: nn.Module, label: str = "batch norm") -> nn.Module:
    """The cheap repair: batch norm re-estimated and nothing else."""
    if recipe.compensation == "none":
        return network
    return reestimate(network, recipe.dense, loader(recipe.calibration), device=recipe.device, label=label)


def dense_arm(recipe: Recipe) -> ArmResult:
    """The network before, measured like the others.

    Args:
        recipe: What all arms share.

    Returns:
        The arm.
    """
    stages = evaluate({"end": recipe.dense}, loader(recipe.test), device=recipe.device, label="dense: test")
    return ArmResult("dense", None, None, recipe.dense, stages, count_cost(recipe.dense, recipe.example))


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
