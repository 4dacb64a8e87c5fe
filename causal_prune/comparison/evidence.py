"""What the result is worth: arms beside it, a curve, a judgement of the importances; as much as there is time for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

from causal_prune.comparison.agreement import LEAST_IMAGES, QUICK, THOROUGH, judge
from causal_prune.comparison.arms import Recipe, run_rival
from causal_prune.comparison.chosen import Chosen
from causal_prune.comparison.ladder import USUAL, ladder_of
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.outcome import ArmResult, Outcome
from causal_prune.comparison.rivals import Rival, rivals_of
from causal_prune.comparison.share_curve import CURVE_IMAGES, QUICK_SHARES, SHARES, curve_by_share
from causal_prune.progress import passed_over, step
from causal_prune.report import AgreementSummary, Curve, Ladder

ARMS, LADDER, FURTHER = "arms beside it", "ladder", "further random arms"
CURVE, AGREEMENT = "curve over sizes", "agreement with ablation"
"""The steps, as they are listed."""
FIRST = 2
"""Arms before the ladder: magnitude, and one at random."""
BEHIND = 0.6
"""An intervention runs about this share of the network: what lies behind it."""


@dataclass(frozen=True)
class Pace:
    """What work costs on this machine, as the result has shown.

    Attributes:
        image: Seconds for one image, forward.
        arm: Seconds for one arm: cut, repair, fine-tuning and test.
        scores: Seconds for statistics and scores.
    """

    image: float
    arm: float
    scores: float = 0.0


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
        ladder: Where the quality comes from; None where there was no time, or where it cannot be told.
        curve: Quality against the share of units removed; None where there was no time.
        agreement: With ablation; None where there was no time, or where it means nothing.
        remarks: What was left out, for the report.
    """

    outcome: Outcome
    ladder: Ladder | None
    curve: Curve | None
    agreement: AgreementSummary | None
    remarks: tuple[str, ...]


def gather(
    recipe: Recipe, chosen: Chosen, outcome: Outcome, asked: Rivals, pace: Pace, allowance: Allowance
) -> Gathered:
    """Compare the result with other choices, and judge it, as far as the time allows.

    Arms that were asked for by name or number are all run. Of the others magnitude and the first random one come first,
    then the ladder, then further random arms; then the agreement with ablation and the curve: each only if it will end
    in time.

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
    beside = _Beside(recipe, chosen, rivals, asked, pace, allowance)
    quick, word = asked.evidence == "quick", recipe.data.task.yardstick.name
    with step(ARMS):
        beside.run(FIRST if asked.in_two else None)
    ladder = beside.ladder(outcome)
    if asked.in_two:
        with step(FURTHER):
            beside.run(None)
            if beside.missing:
                passed_over(FURTHER, f"{beside.missing} left out, for want of time")
    remarks = beside.remarks()
    agreement = curve = None
    with step(AGREEMENT):
        if allowance.fits(_judging(recipe, chosen, pace, quick=quick)):
            sample = QUICK if quick else THOROUGH
            agreement = judge(recipe, chosen.graph, chosen.scores, chosen.rescore, sample)
        else:
            remarks.append(_passed_over(AGREEMENT, "the agreement with ablation"))
    with step(CURVE):
        some, shares = (beside.random[:1], QUICK_SHARES) if quick else (beside.random, SHARES)
        if allowance.fits(_drawing(recipe, pace, len(shares) * (1 + len(some)))):
            curve = curve_by_share(recipe, chosen.graph, chosen.scores, some, shares)
        else:
            remarks.append(_passed_over(CURVE, f"the curve of {word} over sizes"))
    return Gathered(beside.joined(outcome), ladder, curve, agreement, tuple(remarks))


@dataclass
class _Beside:
    """Arms beside the causal one, those that tell the most run first.

    Attributes:
        recipe: What all arms share.
        chosen: What the result rests on.
        rivals: The arms, in the order of the report.
        asked: How much is wanted.
        pace: What an arm costs.
        allowance: The time for them.
        ran: Those that have run, by their places in the report.
        lacking: What there was no time for.
    """

    recipe: Recipe
    chosen: Chosen
    rivals: Sequence[Rival]
    asked: Rivals
    pace: Pace
    allowance: Allowance
    ran: dict[int, ArmResult] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)

    @property
    def missing(self) -> int:
        """How many have not run."""
        return len(self.rivals) - len(self.ran)

    @property
    def random(self) -> list[Rival]:
        """The random arms that have run."""
        return [
            rival for place, rival in enumerate(self.rivals) if place in self.ran and rival.name == "random"
        ]

    def run(self, most: int | None) -> None:
        """Run arms that have not run yet, as far as the time allows.

        Args:
            most: How many, with those that have run; None for all.
        """
        left = [place for place in range(len(self.rivals)) if place not in self.ran]
        left.sort(key=lambda place: self.rivals[place].name == "random")
        for place in left if most is None else left[: most - len(self.ran)]:
            if not self.asked.named and not self.allowance.fits(self.pace.arm):
                return
            arm = run_rival(self.recipe, self.chosen.graph, self.chosen.plan, self.rivals[place])
            self.ran[place] = arm

    def ladder(self, outcome: Outcome) -> Ladder | None:
        """Take the result apart, against the usual choices that are compared, or against the first of them alone.

        Args:
            outcome: The result.

        Returns:
            The ladder; None where there is no time, where nothing is compared, or where nothing can be told.
        """
        ran = [self.rivals[place] for place in sorted(self.ran)]
        known = {rival.name for rival in ran}
        asked = tuple(name for name in USUAL if name in self.asked.arms)
        if not asked:
            return None
        with step(LADDER):
            for usual in dict.fromkeys((asked, asked[:1])):
                networks = sum(1 if name in known else 2 for name in usual)
                if self.allowance.fits(networks * self.pace.arm):
                    chosen = self.chosen
                    return ladder_of(
                        self.recipe,
                        chosen.graph,
                        chosen.moments,
                        chosen.scores,
                        chosen.plan,
                        self.joined(outcome),
                        ran,
                        usual=usual,
                    )
        self.lacking.append(_passed_over(LADDER, "the ladder of where the quality comes from"))
        return None

    def joined(self, outcome: Outcome) -> Outcome:
        """The result with the arms that have run.

        Args:
            outcome: The result.

        Returns:
            All arms, in the order of the report.
        """
        return outcome.joined(self.ran[place] for place in sorted(self.ran))

    def remarks(self) -> list[str]:
        """What there was no time for.

        Returns:
            Sentences for the report.
        """
        told = list(self.lacking)
        if self.missing:
            told.insert(0, _left_out(f"{self.missing} of {len(self.rivals)} arms beside the causal one"))
        return told


def _judging(recipe: Recipe, chosen: Chosen, pace: Pace, *, quick: bool) -> float:
    """Seconds that the agreement with ablation will about take."""
    sample = QUICK if quick else THOROUGH
    units = sum(min(group.size, sample.units) for group in chosen.graph.prunable)
    images = min(
        recipe.data.split["validation"],
        sample.most_images,
        max(LEAST_IMAGES, sample.interventions // max(units, 1)),
    )
    return pace.image * images * (3 + BEHIND * units) + pace.scores


def _drawing(recipe: Recipe, pace: Pace, networks: int) -> float:
    """Seconds that the curve will about take."""
    split = recipe.data.split
    return pace.image * networks * (2 * split["calibration"] + min(CURVE_IMAGES, split["validation"]))


def _passed_over(name: str, what: str) -> str:
    passed_over(name, "left out, for want of time")
    return _left_out(what)


def _left_out(what: str) -> str:
    return f"{what} left out: quick evidence takes no longer than the result did; full evidence makes all"
