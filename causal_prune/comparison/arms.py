"""One arm of a comparison: cut, repair, fine-tune, measure. All arms share widths, data, budget and schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from causal_prune.comparison.outcome import ArmResult, Outcome, Stages
from causal_prune.comparison.rivals import Rival
from causal_prune.compensation import Repair, reestimate, repair
from causal_prune.data import Data, Images, loader, loader_of_views
from causal_prune.fine_tuning import Tuning, fine_tune
from causal_prune.measure import Measured, count_cost, evaluate
from causal_prune.network.running import Inputs
from causal_prune.onnx_files import OnnxForm
from causal_prune.planning import plan_like
from causal_prune.surgery import PruningPlan, remove, zero, zero_masks
from causal_prune.tracing import FilterGraph

Mode = Literal["remove", "zero"]


@dataclass(frozen=True)
class Recipe:
    """What all arms of a comparison share.

    Attributes:
        dense: The network before.
        data: Its images; the test split is read once per arm.
        example: An input for counting and exporting.
        repair: How the cut network is repaired.
        tuning: How it is fine-tuned after that.
        mode: How the units go.
        seed: Of the repair and the fine-tuning.
        device: Where to compute.
        form: Of the ONNX files.
        views: Of every calibration image, in the repair.
    """

    dense: nn.Module
    data: Data
    example: Inputs
    repair: Repair = field(default_factory=Repair)
    tuning: Tuning = field(default_factory=Tuning)
    mode: Mode = "remove"
    seed: int = 0
    device: str = "cpu"
    form: OnnxForm = field(default_factory=OnnxForm)
    views: int = 1


def pruned(dense: nn.Module, plan: PruningPlan, mode: Mode) -> nn.Module:
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
    after_cut = pruned(recipe.dense, plan, mode)
    repaired = repair(
        after_cut,
        recipe.dense,
        loader_of_views(recipe.data.calibration, recipe.views),
        recipe.repair,
        views=recipe.views,
        device=recipe.device,
        seed=recipe.seed,
        label=f"{label}: compensate",
    )
    stations = {"cut": after_cut, "compensation": repaired.model}
    if recipe.repair.compensation == "batchnorm":
        stations["batchnorm"] = repaired.model
    elif recipe.repair.compensation == "least_squares":
        stations["batchnorm"] = normalised(recipe, after_cut, f"{label}: batch norm")
    stations["end"] = tuned = fine_tune(
        repaired.model,
        loader(recipe.data.train, shuffle=True, seed=recipe.seed),
        epochs=recipe.tuning.epochs,
        lr=recipe.tuning.lr,
        teacher=recipe.dense if recipe.tuning.distill else None,
        seed=recipe.seed,
        task=recipe.data.task,
        device=recipe.device,
        label=f"{label}: fine-tune",
        masks=zero_masks(recipe.dense, plan) if mode == "zero" else None,
    ).eval()
    found = measured(recipe, stations, recipe.data.test, f"{label}: test")
    cost = count_cost(tuned, recipe.example)
    verdict = "" if repaired.verdict is None else str(repaired.verdict)
    return ArmResult(name, importance, seed, tuned, Stages(**found), cost, repaired.layers, verdict=verdict)


def normalised(recipe: Recipe, network: nn.Module, label: str = "batch norm") -> nn.Module:
    """The cheap repair: batch norm re-estimated and nothing else.

    Args:
        recipe: What all arms share; where it asks for no repair, there is none.
        network: A cut network.
        label: What the progress bar is called.

    Returns:
        A copy, or the network itself where nothing is to be done.
    """
    if recipe.repair.compensation == "none":
        return network
    return reestimate(
        network, recipe.dense, loader(recipe.data.calibration), device=recipe.device, label=label
    )


def measured(
    recipe: Recipe, networks: Mapping[str, nn.Module], images: Images, label: str
) -> dict[str, Measured]:
    """Judge networks on some images.

    Args:
        recipe: The task, and where to compute.
        networks: By name.
        images: A split, or a part of one.
        label: What the progress bar is called.

    Returns:
        How well each did, by name.
    """
    return evaluate(networks, loader(images), task=recipe.data.task, device=recipe.device, label=label)


def dense_arm(recipe: Recipe) -> ArmResult:
    """The network before, measured like the others.

    Args:
        recipe: What all arms share.

    Returns:
        The arm.
    """
    found = measured(recipe, {"end": recipe.dense}, recipe.data.test, "dense: test")
    cost = count_cost(recipe.dense, recipe.example)
    return ArmResult("dense", None, None, recipe.dense, Stages(**found), cost)


def run_arms(
    recipe: Recipe, graph: FilterGraph, planned: PruningPlan, importance: str, rivals: Sequence[Rival]
) -> Outcome:
    """Run the dense network, the causal arm and its rivals, all at the same widths.

    Args:
        recipe: What all arms share; with mode "zero" a further arm removes the causal arm's units.
        graph: From `trace`.
        planned: The causal arm's plan, whose widths all take.
        importance: The causal arm's method.
        rivals: The other arms.

    Returns:
        The arms.
    """
    mode = recipe.mode
    dense = dense_arm(recipe)
    causal = run_arm(recipe, planned, name="causal", importance=importance, seed=None, mode=mode)
    others = []
    if mode == "zero":
        others.append(
            run_arm(recipe, planned, name="causal-removed", importance=importance, seed=None, mode="remove")
        )
    for rival in rivals:
        theirs = plan_like(graph, rival.scores, planned)
        method, seed = rival.scores.method, rival.seed
        others.append(run_arm(recipe, theirs, name=rival.name, importance=method, seed=seed, mode=mode))
    return Outcome(dense, causal, tuple(others))
