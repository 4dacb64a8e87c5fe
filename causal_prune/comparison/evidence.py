"""What the result is worth: arms beside it, a curve, a judgement of the importances; as much as there is time for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

from causal_prune.comparison.agreement import LEAST_IMAGES, QUICK, THOROUGH, judge
from causal_prune.comparison.arms import Recipe, run_rival
from causal_prune.comparison.chosen import Chosen
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.outcome import ArmResult, Outcome
from causal_prune.comparison.rivals import Rival, rivals_of
from causal_prune.comparison.share_curve import CURVE_IMAGES, QUICK_SHARES, SHARES, curve_by_share
from causal_prune.progress import passed_over, step
from causal_prune.report import AgreementSummary, Curve

ARMS, CURVE, AGREEMENT = "arms beside it", "curve over sizes", "agreement with ablation"
"""The steps, as they are listed."""
BEHIND = 0.6
"""An intervention runs about this share of the network: what lies behind it."""


@dataclass(frozen=True)
class Pace:
    """What work costs on this machine, as the result has shown.

    Attributes:
        image: Seconds for one image, forward.
        arm: Seconds for one arm: cut, repair, fine-tuning and test.
    """

    image: float
    arm: float


class Allowance:
    """Time that may be spent, counted from when it is made.

    Args:
        seconds: How much; None for as much as it takes.
        clock: Seconds that never go back.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = monotonic) -> None:
        self.clock, self.end = clock, None if seconds is None else clock() + seconds

    def fits(self, seconds: float) -> bool:
        """Whether there is time left for something.

        Args:
            seconds: That it will about take.

        Returns:
            Whether it would end in time.
        """
        return self.end is None or self.clock() + seconds <= self.end


@dataclass(frozen=True)
class Gathered:
    """What was made besides the result.

    Attributes:
        outcome: With the arms beside the causal one.
        curve: Quality against the share of units removed; None where there was no time.
        agreement: With ablation; None where there was no time, or where it means nothing.
        remarks: What was left out, for the report.
    """

    outcome: Outcome
    curve: Curve | None
    agreement: AgreementSummary | None
    remarks: tuple[str, ...]


def gather(
    recipe: Recipe, chosen: Chosen, outcome: Outcome, asked: Rivals, pace: Pace, allowance: Allowance
) -> Gathered:
    """Compare the result with other choices, and judge it, as far as the time allows.

    Arms that were asked for by name or number are all run. Of the others magnitude comes first, then one random arm
    after the other; then the agreement with ablation and the curve, each only if it will end in time.

    Args:
        recipe: What all arms share.
        chosen: What the result rests on.
        outcome: The result.
        asked: How much is wanted.
        pace: What work costs here.
        allowance: The time for it.

    Returns:
        What was made, and what was left out.
    """
    rivals = rivals_of(chosen.graph, chosen.moments, asked, recipe.seed)
    ran = _affordable(recipe, chosen, rivals, asked, pace, allowance)
    remarks = []
    if missing := len(rivals) - len(ran):
        remarks.append(_left_out(f"{missing} of {len(rivals)} arms beside the causal one"))
        passed_over(ARMS, f"{len(ran)} of {len(rivals)}, for want of time")
    quick = asked.evidence == "quick"
    agreement = curve = None
    with step(AGREEMENT):
        if allowance.fits(_judging(recipe, chosen, pace, quick=quick)):
            sample = QUICK if quick else THOROUGH
            agreement = judge(recipe, chosen.graph, chosen.scores, chosen.rescore, sample)
        else:
            remarks.append(_left_out("the agreement with ablation"))
            passed_over(AGREEMENT, "left out, for want of time")
    random = [rivals[place] for place in ran if rivals[place].name == "random"]
    with step(CURVE):
        some, shares = (random[:1], QUICK_SHARES) if quick else (random, SHARES)
        if allowance.fits(_drawing(recipe, pace, len(shares) * (1 + len(some)))):
            curve = curve_by_share(recipe, chosen.graph, chosen.scores, some, shares)
        else:
            remarks.append(_left_out(f"the curve of {recipe.data.task.yardstick.name} over sizes"))
            passed_over(CURVE, "left out, for want of time")
    beside = outcome.joined(ran[place] for place in sorted(ran))
    return Gathered(beside, curve, agreement, tuple(remarks))


def _affordable(
    recipe: Recipe,
    chosen: Chosen,
    rivals: Sequence[Rival],
    asked: Rivals,
    pace: Pace,
    allowance: Allowance,
) -> dict[int, ArmResult]:
    """Arms by their places in the report, those that tell the most run first."""
    ran: dict[int, ArmResult] = {}
    with step(ARMS):
        for place in sorted(range(len(rivals)), key=lambda place: rivals[place].name == "random"):
            if not asked.named and not allowance.fits(pace.arm):
                break
            ran[place] = run_rival(recipe, chosen.graph, chosen.plan, rivals[place])
    return ran


def _judging(recipe: Recipe, chosen: Chosen, pace: Pace, *, quick: bool) -> float:
    """Seconds that the agreement with ablation will about take."""
    sample = QUICK if quick else THOROUGH
    units = sum(min(group.size, sample.units) for group in chosen.graph.prunable)
    images = min(
        recipe.data.split["validation"],
        sample.most_images,
        max(LEAST_IMAGES, sample.interventions // max(units, 1)),
    )
    return pace.image * images * (3 + BEHIND * units)


def _drawing(recipe: Recipe, pace: Pace, networks: int) -> float:
    """Seconds that the curve will about take."""
    split = recipe.data.split
    return pace.image * networks * (2 * split["calibration"] + min(CURVE_IMAGES, split["validation"]))


def _left_out(what: str) -> str:
    return f"{what} left out: with --evidence quick it takes no longer than the result did; --evidence full makes all"
