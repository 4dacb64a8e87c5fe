"""The target `max_drop`: the smallest network that loses no more than was allowed, found by making and judging some."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from causal_prune.comparison.arms import Made, Recipe, make_arm, measured
from causal_prune.errors import InputError, TargetError
from causal_prune.measure import Measured, count_cost, largest_loss
from causal_prune.planning import Goal
from causal_prune.progress import track
from causal_prune.report import SizeSearch, SizeTried, Target
from causal_prune.surgery import PruningPlan, remove

CANDIDATES = 8
START = 0.5
MOST_TURNS = 40
CLOSE = 1.02
"""Sizes that differ by less than this factor are not told apart."""
LARGEST = 0.99
"""No larger share of the multiply-accumulates is tried."""


@dataclass(frozen=True)
class Sized:
    """A network of some size, judged on the validation split.

    Attributes:
        made: The network.
        told: For the report.
    """

    made: Made
    told: SizeTried


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        plan: Of the smallest network within the limit; its target says what was asked and what was lost.
        made: The network itself.
        search: All that was tried.
    """

    plan: PruningPlan
    made: Made
    search: SizeSearch


def smallest_within(
    recipe: Recipe, goal: Goal, plan_for: Callable[[float], PruningPlan], fast: PruningPlan | None = None
) -> Found:
    """The smallest network that loses at most `max_drop` on the validation split, after its repair and fine-tuning.

    A size is taken if the one-sided bound of its loss, paired on the same images (see `largest_loss`), is within the
    limit. Sizes are bracketed by the share of the multiply-accumulates that stays, on a logarithmic scale; the next is
    where a straight line between the bounds of the bracket's ends meets the limit, kept to the bracket's middle half,
    or the middle itself where the same end has moved twice.

    Args:
        recipe: What all arms share. Of its data the validation split is read, the test split is not.
        goal: With `max_drop`.
        plan_for: Makes the plan that keeps a share of the multiply-accumulates; raises a TargetError where none does.
        fast: The plan that is fast enough, where a latency is asked for as well: nothing smaller is tried.

    Returns:
        The network.

    Raises:
        InputError: If `max_drop` is no share where quality is one.
        TargetError: If no size loses so little; names the smallest loss that was found.

    Cost: a repair (and a fine-tuning) and a pass over the validation images for each of at most eight sizes.
    """
    assert goal.max_drop is not None
    yardstick, limit = recipe.data.task.yardstick, goal.max_drop
    if yardstick.kind == "share" and limit >= 1:
        raise InputError(f"max_drop: {limit} is not below 1; 0.01 is one point of {yardstick.name}")
    dense = measured(recipe, {"dense": recipe.dense}, recipe.data.validation, "dense: validation")["dense"]
    tried: list[Sized] = []
    if fast is not None:
        tried.append(_sized(recipe, goal, dense, fast))
        if tried[0].told.within:
            return _found(goal, dense, tried, tried[0], fast)
    low = tried[0].told.macs_kept if tried else 0.0
    _narrow(recipe, goal, dense, plan_for, tried, low)
    within = [each for each in tried if each.told.within]
    if not within:
        raise TargetError(_unreached(goal, dense, tried, recipe))
    return _found(goal, dense, tried, min(within, key=lambda each: each.told.macs_kept), fast)


def _narrow(
    recipe: Recipe,
    goal: Goal,
    dense: Measured,
    plan_for: Callable[[float], PruningPlan],
    tried: list[Sized],
    low: float,
) -> None:
    """Try sizes until the bracket is narrow; they are added to those that were tried."""
    limit = goal.max_drop
    assert limit is not None
    bracket = _Bracket(low, limit, tried[0].told.at_most - limit if tried else None)
    for _ in track(_until(tried), "size", total=CANDIDATES - len(tried), unit="candidate"):
        if bracket.narrow:
            return
        share = START if not tried and low < START else bracket.between()
        try:
            plan = plan_for(share)
        except TargetError:  # fewer multiply-accumulates than the narrowest network has
            bracket.too_small(share)
            continue
        if any(plan.kept_units == each.made.plan.kept_units for each in tried):
            bracket.too_small(share)  # no widths lie between that size and this share
            continue
        found = _sized(recipe, goal, dense, plan)
        tried.append(found)
        bracket.take(found.told.macs_kept, found.told.at_most - limit)


def _until(tried: list[Sized]) -> Iterator[int]:
    """Turns, until as many sizes were tried as may be; a turn may find that there is no network of its size."""
    for turn in range(MOST_TURNS):
        if len(tried) >= CANDIDATES:
            return
        yield turn


class _Bracket:
    """Shares between which the smallest network within the limit lies.

    Args:
        low: A share that is too small, or 0.
        limit: The loss that is allowed: the dense network, which loses nothing, is that far within it.
        excess: How far the network at `low` is beyond the limit; None where that is not known.
    """

    def __init__(self, low: float, limit: float, excess: float | None) -> None:
        self.low, self.high = low, 1.0
        self.below, self.above = excess, -limit
        self.same = 0  # how often in a row the same end has moved; above 0 the lower one

    @property
    def narrow(self) -> bool:
        """Whether sizes inside are not told apart."""
        return self.low > 0 and (self.high / self.low < CLOSE or self.low >= LARGEST)

    def too_small(self, share: float) -> None:
        """There is no network at a share.

        Args:
            share: Of the multiply-accumulates.
        """
        self.low, self.below = max(self.low, share), None

    def take(self, share: float, excess: float) -> None:
        """Learn of a network.

        Args:
            share: Of the multiply-accumulates that it keeps.
            excess: How far its loss at most is beyond the limit; 0 and less is within.
        """
        if excess > 0:
            self.same = max(self.same, 0) + 1
            if share > self.low:
                self.low, self.below = share, excess
        else:
            self.same = min(self.same, 0) - 1
            if share < self.high:
                self.high, self.above = share, excess

    def between(self) -> float:
        """The next share to try.

        Returns:
            A share inside the bracket, no larger than `LARGEST`.
        """
        bottom, top, part = math.log(self.low or self.high / 8), math.log(self.high), 0.5
        if self.below is not None and abs(self.same) < 2:  # else the line misleads: halve
            part = min(max(self.below / (self.below - self.above), 0.25), 0.75)
        return min(math.exp(bottom + (top - bottom) * part), LARGEST)


def _sized(recipe: Recipe, goal: Goal, dense: Measured, plan: PruningPlan) -> Sized:
    share = plan.target.achieved if plan.target.kind == "keep_macs" else _share(recipe, plan)
    label = f"{share:.3f} of the MACs"
    made = make_arm(recipe, plan, label=label, mode=recipe.mode)
    found = measured(recipe, {"it": made.end}, recipe.data.validation, f"{label}: validation")["it"]
    return Sized(made, judged_against(recipe, goal, dense, found, share))


def _share(recipe: Recipe, plan: PruningPlan) -> float:
    left, whole = (
        count_cost(network, recipe.example).macs for network in (remove(recipe.dense, plan), recipe.dense)
    )
    return left / whole


def judged_against(
    recipe: Recipe, goal: Goal, dense: Measured, found: Measured, macs_kept: float
) -> SizeTried:
    """What a network loses against the dense one, and at most.

    Args:
        recipe: The task.
        goal: With `max_drop` and the confidence.
        dense: The dense network's answers.
        found: The other's, on the same images.
        macs_kept: Share of the multiply-accumulates that it keeps.

    Returns:
        The entry for the report.
    """
    assert goal.max_drop is not None
    drop, bound = largest_loss(
        dense.merits,
        found.merits,
        confidence=goal.confidence,
        lower_is_better=recipe.data.task.yardstick.better == "lower",
    )
    return SizeTried(
        macs_kept=macs_kept, quality=found.value, drop=drop, at_most=bound, within=bound <= goal.max_drop
    )


def _found(goal: Goal, dense: Measured, tried: list[Sized], best: Sized, fast: PruningPlan | None) -> Found:
    assert goal.max_drop is not None
    by_latency = fast is not None and best.made.plan is fast
    latency = fast.target.achieved if fast is not None and by_latency else None
    search = SizeSearch(
        max_drop=goal.max_drop,
        confidence=goal.confidence,
        images=dense.total,
        dense=dense.value,
        tried=tuple(each.told for each in tried),
        bound_by="keep_latency" if by_latency else "max_drop",
        keep_latency=goal.keep_latency,
        latency_kept=latency,
    )
    plan = best.made.plan
    if not by_latency:
        plan = replace(plan, target=Target("max_drop", goal.max_drop, best.told.drop))
    return Found(plan, best.made, search)


def _unreached(goal: Goal, dense: Measured, tried: list[Sized], recipe: Recipe) -> str:
    """Why no size was within the limit, and what would be."""
    yardstick = recipe.data.task.yardstick
    _, least = largest_loss(
        dense.merits, dense.merits, confidence=goal.confidence, lower_is_better=yardstick.better == "lower"
    )
    start = f"max_drop={goal.max_drop:g} is out of reach: "
    if least > (goal.max_drop or 0):
        return (
            f"{start}{dense.total} validation {yardstick.item}s cannot tell less than {least:.4f} with confidence "
            f"{goal.confidence:g}; give more of them, or ask for more than that"
        )
    if not tried:
        return f"{start}no network keeps less than {LARGEST:.0%} of the multiply-accumulates here"
    best = min((each.told for each in tried), key=lambda each: each.at_most)
    return (
        f"{start}the smallest drop found is {best.drop:.4f}, at most {best.at_most:.4f} with confidence "
        f"{goal.confidence:g}, with {best.macs_kept:.3f} of the multiply-accumulates; ask for at least "
        f"{math.ceil(best.at_most * 1e4) / 1e4:.4f}, or for `epochs` of fine-tuning"
    )
