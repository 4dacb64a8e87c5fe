"""The whole flow: a trained network and its data in, a smaller network and its report out."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from causal_prune.comparison import (
    Allowance,
    Chosen,
    Judged,
    Outcome,
    Pace,
    Recipe,
    Rivals,
    check_explained,
    drifts_of,
    export_arms,
    gather,
    harm_of,
    sheets_of,
    shipped,
)
from causal_prune.data import Data
from causal_prune.errors import warn
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.pipeline.findings import assemble, steps_taken, write_bundle
from causal_prune.pipeline.forecast import (
    EXPORT,
    EXPORT_ALL,
    FIGURES,
    MAKE,
    MAPS,
    OBSERVE,
    PLAN,
    PROVE,
    SCORE,
    WRITE,
    forecast,
    seconds_per_image,
)
from causal_prune.pipeline.keywords import keywords_of
from causal_prune.pipeline.options import Options
from causal_prune.pipeline.steps import choose, prove, recipe_of, workplace
from causal_prune.progress import StepList, listed, step
from causal_prune.report import Report, StepTaken
from causal_prune.surgery import PruningPlan

LEAST_SECONDS = 10.0
"""So long the evidence may take by itself, however fast the result was there."""


@dataclass(frozen=True)
class Compressed:
    """The result of `compress`.

    Attributes:
        model: The smaller network (with mode "zero": the zeroed one), in eval mode on the CPU.
        plan: The units that stayed.
        report: What was asked, achieved and measured; `report.json` is this.
        bundle: The folder that was written, or None.
        steps: What took how long.
    """

    model: nn.Module
    plan: PruningPlan
    report: Report
    bundle: Path | None
    steps: tuple[StepTaken, ...] = ()

    def __str__(self) -> str:
        """The report as the terminal shows it, and where the bundle lies."""
        place = "" if self.bundle is None else f"\n\nbundle: {self.bundle}"
        return f"{self.report}{place}"

    def _repr_html_(self) -> str:
        """The report as a notebook shows it."""
        return self.report._repr_html_()


@undisturbed
@keywords_of(Options)
def compress(model: nn.Module, data: Data, options: Options) -> Compressed:
    """Make a trained network smaller, and compare it with the same network pruned at random.

    Args:
        model: The trained network; it is not changed.
        data: Its images.
        options: One value of `Options`, or its fields as keywords.

    Returns:
        The network, its plan and its report.

    Raises:
        InputError: If an option, the model or the data cannot be used.
        TargetError: If the target is out of reach, or nothing can be pruned.
        ParityError: If the exported network computes something else.

    Example:
        ``result = cp.compress(model, data, keep_macs=0.5)``
    """
    recipe = recipe_of(model, data, options)
    check_explained(recipe, options.explain)
    image = seconds_per_image(recipe)
    with listed(forecast(recipe, options, image)) as steps:
        made = _result(recipe, options, steps)
        if options.evidence != "none":
            with _kept_whatever_comes(options.out):
                made = _with_evidence(recipe, options, made, _pace(image, steps, made), steps)
    return Compressed(
        made.outcome.causal.model, made.chosen.plan, made.report, options.out, steps_taken(steps)
    )


@dataclass(frozen=True)
class _Made:
    """A run so far: what was chosen, the arms, and the report."""

    chosen: Chosen
    outcome: Outcome
    report: Report


def _result(recipe: Recipe, options: Options, steps: StepList) -> _Made:
    """The network and its bundle, before anything is compared with it."""
    with workplace(options) as folder:
        chosen = choose(recipe, options)  # trace, observe, score, plan
        with step(PROVE):
            prove(recipe, chosen)
        with step(MAKE):
            outcome = shipped(recipe, chosen.plan, options.importance, chosen.made)
        with step(EXPORT):
            outcome = export_arms(outcome, recipe, folder, options.threads, command=options.command)
        with step(WRITE):
            judged = Judged(harm=harm_of(outcome, recipe.data.classes))
            report = assemble(recipe, options, chosen, outcome, judged)
            write_bundle(folder, outcome, chosen.plan, report, judged, options.in_force, steps)
    return _Made(chosen, outcome, report)


def _with_evidence(recipe: Recipe, options: Options, made: _Made, pace: Pace, steps: StepList) -> _Made:
    """The same bundle once more, with what says what the result is worth."""
    full = options.evidence == "full"
    allowance = Allowance(None if full else max(steps.spent("result"), LEAST_SECONDS))
    with workplace(options, again=True) as folder:
        found = gather(recipe, made.chosen, made.outcome, options.part(Rivals), pace, allowance)
        outcome = found.outcome
        if full:
            with step(EXPORT_ALL):
                outcome = export_arms(outcome, recipe, folder, options.threads, command=options.command)
        with step(MAPS) if options.explain else nullcontext():
            drifts = drifts_of(recipe, outcome, options.explain)
        with step(FIGURES):
            harm = harm_of(outcome, recipe.data.classes)
            sheets = sheets_of(recipe, outcome, harm)
            judged = Judged(found.curve, found.agreement, harm, drifts, sheets, found.remarks, found.ladder)
            report = assemble(recipe, options, made.chosen, outcome, judged)
            write_bundle(folder, outcome, made.chosen.plan, report, judged, options.in_force, steps)
    return _Made(made.chosen, outcome, report)


def _pace(image: float, steps: StepList, made: _Made) -> Pace:
    scores = (steps.named(OBSERVE).seconds or 0.0) + (steps.named(SCORE).seconds or 0.0)
    return Pace(image, _arm_seconds(steps, made), scores)


def _arm_seconds(steps: StepList, made: _Made) -> float:
    """What an arm costs, as the result has shown."""
    search = made.chosen.search
    if search is not None:
        return (steps.named(PLAN).seconds or 0.0) / max(len(search.tried), 1)
    return (steps.named(MAKE).seconds or 0.0) / (1 + len(made.outcome.others))


@contextmanager
def _kept_whatever_comes(out: Path | None) -> Iterator[None]:
    """Say that the result is there, where what is made besides does not come to its end."""
    try:
        yield
    except KeyboardInterrupt as stop:
        if out is None:
            raise
        raise KeyboardInterrupt(f"interrupted; {out} holds the result, without what it is worth") from stop
    except Exception:
        if out is not None:
            warn(f"{out} holds the result; what it is worth could not be told")
        raise
