"""One arm of a comparison: cut, repair, fine-tune, measure. All arms share widths, data, budget and schedule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from causal_prune.comparison.outcome import ArmResult, Outcome, Stages
from causal_prune.comparison.rivals import Rival
from causal_prune.compensation import LayerRepair, Repair, reestimate, repair
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


@dataclass(frozen=True)
class Made:
    """An arm of which no test image was read yet.

    Attributes:
        plan: The units that it drops.
        mode: How they went.
        cut: The network after the cut.
        repaired: And after its repair.
        end: And after the fine-tuning.
        layers: What the repair did to each layer.
        verdict: Which way to repair was kept, and why; empty where there was nothing to judge.
    """

    plan: PruningPlan
    mode: Mode
    cut: nn.Module
    repaired: nn.Module
    end: nn.Module
    layers: tuple[LayerRepair, ...]
    verdict: str


def make_arm(recipe: Recipe, plan: PruningPlan, *, label: str, mode: Mode) -> Made:
    """Cut, repair and fine-tune one arm.

    Args:
        recipe: What all arms share.
        plan: The units that this arm drops.
        label: What progress bars call it.
        mode: How the units go.

    Returns:
        The networks on the way, and the last in eval mode.
    """
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
    tuned = fine_tune(
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
    verdict = "" if repaired.verdict is None else str(repaired.verdict)
    return Made(plan, mode, after_cut, repaired.model, tuned, repaired.layers, verdict)


def judge_arm(recipe: Recipe, made: Made, *, name: str, importance: str, seed: int | None) -> ArmResult:
    """Read the test split once for all stages of an arm.

    Args:
        recipe: What all arms share.
        made: The arm.
        name: Of the arm.
        importance: Of the method that chose the units.
        seed: Of the method, or None.

    Returns:
        The arm, measured.
    """
    label = name if seed is None else f"{name} {seed}"
    stations = {"cut": made.cut, "compensation": made.repaired, "end": made.end}
    if recipe.repair.compensation == "batchnorm":
        stations["batchnorm"] = made.repaired
    elif recipe.repair.compensation == "least_squares":
        stations["batchnorm"] = normalised(recipe, made.cut, f"{label}: batch norm")
    found = measured(recipe, stations, recipe.data.test, f"{label}: test")
    cost = count_cost(made.end, recipe.example)
    return ArmResult(
        name, importance, seed, made.end, Stages(**found), cost, made.layers, verdict=made.verdict
    )


def run_arm(
    recipe: Recipe, plan: PruningPlan, *, name: str, importance: str, seed: int | None, mode: Mode
) -> ArmResult:
    """Make one arm and measure it.

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
    made = make_arm(recipe, plan, label=label, mode=mode)
    return judge_arm(recipe, made, name=name, importance=importance, seed=seed)


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


def shipped(recipe: Recipe, planned: PruningPlan, importance: str, made: Made | None = None) -> Outcome:
    """The dense network and the causal arm: the result, before anything is compared with it.

    Args:
        recipe: What all arms share; with mode "zero" a further arm removes the causal arm's units.
        planned: The causal arm's plan.
        importance: Its method.
        made: The arm, where a search for the plan has made it already.

    Returns:
        The arms.
    """
    mode = recipe.mode
    dense = dense_arm(recipe)
    made = made or make_arm(recipe, planned, label="causal", mode=mode)
    causal = judge_arm(recipe, made, name="causal", importance=importance, seed=None)
    if mode == "remove":
        return Outcome(dense, causal)
    removed = run_arm(recipe, planned, name="causal-removed", importance=importance, seed=None, mode="remove")
    return Outcome(dense, causal, (removed,))


def run_rival(recipe: Recipe, graph: FilterGraph, planned: PruningPlan, rival: Rival) -> ArmResult:
    """Run another way of choosing units at the causal arm's widths.

    Args:
        recipe: What all arms share.
        graph: From `trace`.
        planned: The causal arm's plan, whose widths it takes.
        rival: The other way.

    Returns:
        The arm.
    """
    theirs = plan_like(graph, rival.scores, planned)
    method = rival.scores.method
    return run_arm(recipe, theirs, name=rival.name, importance=method, seed=rival.seed, mode=recipe.mode)


def run_arms(
    recipe: Recipe, graph: FilterGraph, planned: PruningPlan, importance: str, rivals: Sequence[Rival]
) -> Outcome:
    """Run the dense network, the causal arm and its rivals, all at the same widths.

    Args:
        recipe: What all arms share.
        graph: From `trace`.
        planned: The causal arm's plan, whose widths all take.
        importance: The causal arm's method.
        rivals: The other arms.

    Returns:
        The arms.
    """
    outcome = shipped(recipe, planned, importance)
    return outcome.joined(run_rival(recipe, graph, planned, rival) for rival in rivals)
