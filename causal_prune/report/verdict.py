"""What comes first in a report: what became of the network, and what may be claimed of the choice."""

from typing import Literal

from causal_prune.report.report import ROUNDING, Arm, Comparison, Report
from causal_prune.report.wording import asked, conditions, kept, milliseconds, p_told, pace, percent, plural

Standing = Literal["ahead", "unclear", "tied", "behind", "untold", "absent"]

CLOSE = 0.01
"""Filters go whole: of a share that is to go, so much may be missing (relative) and it is met."""


def standing(report: Report) -> Standing:
    """Say what the comparison with random allows one to claim.

    Args:
        report: The report; its comparison holds the difference causal - random and its interval.

    Returns:
        "ahead": causal is better over the whole interval. "behind": worse over all of it. Where the interval includes
        0, "unclear": better on average, or "tied": no better on average. "untold": there is no interval over images and
        seeds (one seed, or a report of an earlier version). "absent": no random arm.
    """
    comparison, gain = report.comparison, report.yardstick.gain
    if comparison is None:
        return "absent"
    if comparison.ci95 is None or comparison.ci95_over == "seeds":
        return "untold"
    low, high = sorted(map(gain, comparison.ci95))
    if low > ROUNDING:
        return "ahead"
    if high < -ROUNDING:
        return "behind"
    return "unclear" if gain(comparison.mean_difference) > ROUNDING else "tied"


def headline(report: Report) -> tuple[str, str]:
    """Say in the first paragraph what became of the network, in the second what the choice of units was worth.

    Args:
        report: The report.

    Returns:
        The answer, one sentence; the verdict on the choice, and the numbers that it rests on.
    """
    return _answer(report), " ".join(filter(None, (_choice(report), _magnitude(report))))


def _answer(report: Report) -> str:
    dense, causal = report.dense, report.causal
    size = f"{kept(causal.macs, dense.macs)} of the MACs and {kept(causal.params, dense.params)} of the parameters"
    start = "The network keeps" if report.mode == "remove" else "The filters are zeroed, so the network keeps"
    goal = f"asked to {asked(report)}: {_met(report)}"
    return f"{start} {size} and {_speed(causal, dense)}; {_quality(report)}; {goal}."


def _speed(causal: Arm, dense: Arm) -> str:
    if causal.latency_ms is None or dense.latency_ms is None:
        return "its latency was not measured"
    medians = (
        f"{milliseconds(causal.latency_ms.median)} ms against {milliseconds(dense.latency_ms.median)} ms"
    )
    how = pace(causal.speedup)
    told = f"{how[:-1]}, median" if how.endswith(")") else f"{how} (median"
    return f"runs {told} {medians}; {conditions(causal)})"


def _quality(report: Report) -> str:
    dense, causal, yardstick = report.dense, report.causal, report.yardstick
    before, after = yardstick.text(dense.quality), yardstick.text(causal.quality)
    moved = f"stayed at {after}" if before == after else f"went from {before} to {after}"
    change, items = yardstick.change(causal.quality - dense.quality), plural(causal.total, yardstick.item)
    if causal.change_ci95 is None:  # of an earlier version
        interval = f"95 % interval of the latter {yardstick.interval(causal.ci95)}"
    else:
        interval = f"95 % interval {_bounds(report, causal.change_ci95)}"
    direction = "; lower is better" if yardstick.better == "lower" else ""
    return f"test {yardstick.name} {moved} ({change}, {interval}, on {items}{direction})"


def _met(report: Report) -> str:
    """Whether the target is met: by the plan, and of latency by what was measured at the end."""
    if report.target.kind == "max_drop":
        return "met there"
    target, arm = report.target, report.causal if report.mode == "remove" else report.removed
    reached = target.achieved
    if target.kind == "keep_latency" and arm is not None and arm.speedup is not None:
        reached = 1 / arm.speedup
    stays = target.kind.startswith("keep")
    enough = reached <= target.requested + ROUNDING if stays else reached >= target.requested * (1 - CLOSE)
    later = " once the filters are removed" if report.mode == "zero" and stays else ""
    tells = f"{percent(reached, 1)} {'stay' if stays else 'went'}"
    return f"met{later}" if enough else f"NOT met{later} ({tells})"


def _choice(report: Report) -> str:
    comparison, yardstick = report.comparison, report.yardstick
    unknown = "Whether the choice of units was worth more than chance is not known"
    if comparison is None:
        return f"{unknown}: causal was not compared with random."
    if comparison.ci95 is None:
        untold = f"{unknown}: one random arm gives no interval."
    else:
        untold = f"{unknown}: the interval of this report, of an earlier version, leaves the images out; make it again."
    verdict = {
        "ahead": "The choice of units was worth more than chance: causal beat random.",
        "behind": "The choice of units was worth less than chance: random did better than causal.",
        "untold": untold,
    }.get(
        standing(report),
        "This run does not show that the choice of units was worth more than chance: random did as well as causal, as "
        "far as it can tell.",
    )
    lower = " Lower is better." if yardstick.better == "lower" else ""
    return " ".join(
        filter(None, (verdict, f"{_difference(report, comparison)}{lower}", _same_images(report)))
    )


def _difference(report: Report, comparison: Comparison) -> str:
    (wins, seeds), yardstick = comparison.wins_of, report.yardstick
    mean = f"Causal minus random: {yardstick.change(comparison.mean_difference)} of test {yardstick.name}"
    if comparison.ci95 is None:
        return f"{mean}, from {plural(seeds, 'seed')} of random; causal was ahead of {wins} of {seeds}."
    low, high = comparison.ci95
    side = (
        "includes 0" if low <= ROUNDING and high >= -ROUNDING else f"lies {'above' if low > 0 else 'below'} 0"
    )
    return (
        f"{mean} on average over {plural(seeds, 'seed')} of random; the 95 % interval over the {comparison.ci95_over}, "
        f"{_bounds(report, comparison.ci95)}, {side}; causal was ahead of {wins} of {seeds}."
    )


def _bounds(report: Report, bounds: tuple[float, float]) -> str:
    return f"{report.yardstick.signed(bounds[0])} to {report.yardstick.change(bounds[1])}"


def _same_images(report: Report) -> str:
    assert report.comparison is not None
    p, yardstick = report.comparison.paired_p, report.yardstick
    if p is None:
        return ""
    return (
        f"Against the random arm of median {yardstick.name} alone, on the same {yardstick.item}s, "
        f"{yardstick.test} {p_told(p)}."
    )


def _magnitude(report: Report) -> str:
    arm, yardstick = next((arm for arm in report.arms if arm.name == "magnitude"), None), report.yardstick
    if arm is None or arm.paired_p is None:
        return ""
    difference = report.causal.quality - arm.quality
    if arm.paired_p >= 0.05:
        how = "did as well as causal, as far as this run can tell"
    else:
        how = "did worse than causal" if yardstick.gain(difference) > 0 else "did better than causal"
    change = yardstick.change(difference)
    return f"Magnitude {how}: causal minus magnitude {change}, {yardstick.test} {p_told(arm.paired_p)}."
