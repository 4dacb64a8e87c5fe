"""Where the accuracy comes from: the causal arm beside pruning as it is usually done, with as many MACs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from causal_prune.comparison.arms import Recipe, run_arm
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.outcome import ArmResult, Outcome
from causal_prune.comparison.rivals import Rival, rivals_of
from causal_prune.errors import TargetError
from causal_prune.fine_tuning import Tuning
from causal_prune.importance import FilterScores
from causal_prune.measure import count_cost
from causal_prune.observation import FilterMoments
from causal_prune.planning import macs_kept, plan, plan_like
from causal_prune.report import Ladder, Rung, Widths
from causal_prune.surgery import PruningPlan, remove
from causal_prune.tracing import FilterGraph

USUAL = ("magnitude", "random")
"""How units are usually chosen, and how they are where nobody chooses."""
ROUNDING = 1e-12
WIDTHS: dict[Widths, str] = {"equal": "an equal share from every group", "curves": "widths from the curves"}


@dataclass(frozen=True)
class _Choice:
    """A rung before it has run: plans, and the arms where a comparison has run them already.

    Attributes:
        units: Who chose them.
        importance: The method that did.
        widths: Of which kind.
        seeds: Of the plans, where the method has one.
        plans: One for each seed.
        arms: The same, as they came out; empty where they have not run yet.
    """

    units: str
    importance: str
    widths: Widths
    seeds: tuple[int, ...]
    plans: tuple[PruningPlan, ...]
    arms: tuple[ArmResult, ...] = ()

    @property
    def told(self) -> str:
        """Its name in a sentence."""
        return f"{self.units} with {WIDTHS[self.widths]}"

    def is_part_of(self, other: "_Choice") -> bool:
        """Whether the other one has every network of this one."""
        theirs = [each.kept_units for each in other.plans]
        return all(each.kept_units in theirs for each in self.plans)


def ladder_of(
    recipe: Recipe,
    graph: FilterGraph,
    moments: FilterMoments,
    scores: FilterScores,
    planned: PruningPlan,
    outcome: Outcome,
    rivals: Sequence[Rival],
    *,
    usual: Sequence[str] = USUAL,
    seeds: int = 1,
    tuned: bool = True,
) -> Ladder | None:
    """Take the causal arm's advantage over pruning as it is usually done apart, step by step.

    Usual is that every group gives up the same share of its units. Such networks are cut here, by magnitude and at
    random, with as many MACs as the causal arm's, and repaired as it was; arms of the comparison are taken as they are.
    Hence what the causal widths earn, what each part of the repair, and what the choice of units.

    Args:
        recipe: What all arms share.
        graph: From `trace`.
        moments: From `observe`.
        scores: The causal arm's; without elimination curves its widths are equal shares already.
        planned: The causal arm's plan.
        outcome: The arms.
        rivals: Those that it had; magnitude and random are made here where they are missing.
        usual: Which usual choices it is taken apart against: "magnitude", "random" or both.
        seeds: Random networks that are cut here for each rung.
        tuned: Whether networks that are cut here are fine-tuned too, where the arms are.

    Returns:
        The rungs, the causal one last; None where filters went that were silent, or no MAC was saved: there is then
        nothing that equal shares could be asked for.

    Cost: repair and fine-tuning of two networks, `1 + seeds`; of as many again where the comparison has neither
        magnitude nor random. The test split is read once for each.
    """
    share = macs_kept(graph, planned)
    if planned.target.kind == "remove_silent" or share >= 1:
        return None
    known = {name: [each for each in rivals if each.name == name] for name in usual}
    made = rivals_of(graph, moments, Rivals(random_seeds=seeds), recipe.seed)
    theirs = {name: known[name] or [each for each in made if each.name == name] for name in usual}
    choices: list[_Choice] = []
    left_out: list[str] = []
    if scores.curves:
        for name, those in theirs.items():
            try:
                choices.append(_equal(graph, name, those[:seeds], share))
            except TargetError as error:
                left_out.append(f"{name} with {WIDTHS['equal']}: {error}")
    widths: Widths = "curves" if scores.curves else "equal"
    for name, those in theirs.items():
        choices.append(_alike(graph, name, those, planned, outcome if known[name] else None, widths))
    causal = outcome.causal
    choices.append(_Choice("causal", causal.importance or scores.method, widths, (), (planned,), (causal,)))
    return _climbed(recipe, outcome, choices, left_out, tuned=tuned)


def _equal(graph: FilterGraph, name: str, those: Sequence[Rival], share: float) -> _Choice:
    """A choice that takes the same share from every group."""
    # without room for rounding, widths that cost exactly as much might be refused
    room = min(share * (1 + ROUNDING), 1 - ROUNDING)
    plans = tuple(plan(graph, each.scores, keep_macs=room) for each in those)
    return _Choice(name, those[0].scores.method, "equal", _seeds(those), plans)


def _alike(
    graph: FilterGraph,
    name: str,
    those: Sequence[Rival],
    planned: PruningPlan,
    outcome: Outcome | None,
    widths: Widths,
) -> _Choice:
    """A choice at the widths of the causal arm; from the outcome, where it holds one."""
    plans = tuple(plan_like(graph, each.scores, planned) for each in those)
    arms = () if outcome is None else tuple(arm for arm in outcome.others if arm.name == name)
    return _Choice(name, those[0].scores.method, widths, _seeds(those), plans, arms)


def _seeds(those: Sequence[Rival]) -> tuple[int, ...]:
    return tuple(each.seed for each in those if each.seed is not None)


def _climbed(
    recipe: Recipe,
    outcome: Outcome,
    choices: Sequence[_Choice],
    left_out: list[str],
    *,
    tuned: bool,
) -> Ladder:
    """Run what has not run yet, but no network twice."""
    rungs = []
    for place, choice in enumerate(choices):
        others = [each for each in choices[place + 1 :] if each.units in (choice.units, "causal")]
        twin = next((each for each in others if choice.is_part_of(each)), None)
        if twin is not None:
            left_out.append(f"{choice.told}: the same units as {twin.told}")
        elif choice.arms:
            removed = next((arm for arm in outcome.others if arm.name == "causal-removed"), outcome.causal)
            rungs.append(_rung(recipe, choice, choice.arms, removed.cost.macs, tuned=True))
        else:
            arms = _run(recipe, choice, tuned=tuned)
            rungs.append(_rung(recipe, choice, arms, _macs(recipe, choice, arms), tuned=tuned))
    return Ladder(rungs=tuple(rungs), left_out=tuple(left_out))


def _run(recipe: Recipe, choice: _Choice, *, tuned: bool) -> list[ArmResult]:
    recipe = recipe if tuned else replace(recipe, tuning=Tuning(epochs=0))
    seeds = choice.seeds or [None] * len(choice.plans)
    return [
        run_arm(recipe, each, name=choice.told, importance=choice.importance, seed=seed, mode=recipe.mode)
        for seed, each in zip(seeds, choice.plans, strict=True)
    ]


def _macs(recipe: Recipe, choice: _Choice, arms: Sequence[ArmResult]) -> int:
    """Of the networks with their units removed; a zeroed one is as large as before."""
    if recipe.mode == "remove":
        return round(fmean(arm.cost.macs for arm in arms))
    smaller = (remove(recipe.dense, each) for each in choice.plans)
    return round(fmean(count_cost(each, recipe.example).macs for each in smaller))


def _rung(recipe: Recipe, choice: _Choice, arms: Sequence[ArmResult], macs: int, *, tuned: bool) -> Rung:
    def mean(stage: str) -> float | None:
        found = [getattr(arm.stages, stage) for arm in arms]
        return None if None in found else fmean(each.value for each in found)

    after_cut = mean("cut")
    assert after_cut is not None, "every arm but the dense one was cut"
    return Rung(
        units=choice.units,
        importance=choice.importance,
        widths=choice.widths,
        seeds=choice.seeds,
        macs=macs,
        cut=after_cut,
        batchnorm=mean("batchnorm"),
        least_squares=mean("compensation") if recipe.repair.compensation == "least_squares" else None,
        fine_tuned=mean("end") if tuned and recipe.tuning.epochs else None,
    )
