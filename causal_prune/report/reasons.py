"""Words and rows for which images paid, and for whether the reasons stayed the same."""

from causal_prune.report.harm import Harm
from causal_prune.report.map_drift import MapDrift, NetworkDrift
from causal_prune.report.wording import correlation, p_told, percent, plural, probability
from causal_prune.report.yardstick import ACCURACY, NONE

SHOWN = 10
"""So many classes stand in a table, the most changed first."""
ALPHA = 0.05


def flips_told(harm: Harm, total: int) -> str:
    """Say how many images changed, both ways.

    Args:
        harm: Of the report.
        total: Test images.

    Returns:
        A sentence or two.
    """
    causal = harm.causal
    others = [arm for arm in harm.arms if arm.name == "random"]
    text = (
        f"Of {plural(total, 'test image')} the causal network lost {causal.lost:,} that the dense one had right, and "
        f"gained {causal.gained:,} that it had wrong ({p_told(causal.p)})."
    )
    if not others:
        return text
    lost, gained = (
        sum(values) / len(others) for values in zip(*((a.lost, a.gained) for a in others), strict=True)
    )
    return f"{text} Random pruning lost {lost:,.1f} and gained {gained:,.1f} on average."


def worst_told(harm: Harm) -> str:
    """Say which class paid most, and whether that could be chance.

    Args:
        harm: Of the report.

    Returns:
        A sentence.
    """
    if harm.worst is None:
        return "No class has fewer right than before."
    worst = next(each for each in harm.classes if each.label == harm.worst)
    sure = "more than chance explains" if worst.p_holm < ALPHA else "which chance may explain"
    return (
        f"The class that paid most is {worst.name}: {worst.lost:,} lost and {worst.gained:,} gained of "
        f"{plural(worst.total, 'image')} ({ACCURACY.change(worst.change)}; {p_told(worst.p)}, "
        f"with Holm's correction for {plural(len(harm.classes), 'class', 'es')} {p_told(worst.p_holm)}), {sure}."
    )


def exemplars_told(harm: Harm) -> str:
    """Say on how many images most arms disagree with the dense network.

    Args:
        harm: Of the report.

    Returns:
        A sentence or two.
    """
    found = harm.exemplars
    votes = (
        f"most of the {found.population} pruned networks of this run (its arms and their seeds are the population) "
        "predict"
        if found.population > 1
        else "the one pruned network of this run (a population of one tells little) predicts"
    )
    if not found.count:
        return f"There is no image on which {votes} another class than the dense network."
    return (
        f"On {plural(found.count, 'image')} {votes} another class than the dense network, which has "
        f"{percent(found.dense_right, 1)} of these right, causal {percent(found.causal_right, 1)}: look at these first."
    )


def class_table(harm: Harm) -> list[tuple[str, ...]]:
    """Rows of classes: those that changed most first.

    Args:
        harm: Of the report.

    Returns:
        Name, images, lost, gained, change, p, corrected p; the ten that changed most, those that lost first.
    """
    flipped = [each for each in harm.classes if each.lost + each.gained]
    most = sorted(flipped, key=lambda each: (-abs(each.change), -each.lost, each.label))[:SHOWN]
    changed = sorted(most, key=lambda each: (each.change, -each.lost, each.label))
    return [
        (
            each.name,
            f"{each.total:,}",
            f"{each.lost:,}",
            f"{each.gained:,}",
            ACCURACY.change(each.change),
            probability(each.p),
            probability(each.p_holm),
        )
        for each in changed
    ]


def drift_told(drift: MapDrift) -> str:
    """Say whether causal pruning kept the reasons better than random pruning.

    Args:
        drift: By one method.

    Returns:
        Sentences.
    """
    causal = next(each for each in drift.networks if each.name == "causal")
    floor, again = drift.unlearned.spearman, drift.repeated.spearman
    text = (
        f"{drift.method}: the maps of the causal network agree with those of the dense one by "
        f"{_agreement(causal.spearman)} (rank correlation, {plural(causal.compared, 'image')} that both classify "
        f"alike); a network that has learned nothing by {_agreement(floor)}, the dense network with itself, drawn a "
        f"second time, by {_agreement(again)}."
    )
    return f"{text} {_against_random(drift)}".strip()


def _against_random(drift: MapDrift) -> str:
    found = drift.causal_minus_random
    if found is None:
        return ""
    wins, seeds = found.wins_of
    ahead = f"ahead of {wins} of {seeds}"
    if found.ci95 is None:
        return (
            "On the same images, at the same size, one random arm cannot tell whether causal pruning kept the reasons "
            f"better: {_agreement(found.mean)}; {ahead}."
        )
    low, high = found.ci95
    better, worse = low > 0, high < 0
    verdict = (
        f"causal pruning kept the reasons {'better' if better else 'worse'} than random pruning"
        if better or worse
        else "this run cannot tell whether causal or random pruning kept the reasons better"
    )
    return (
        f"On the same images, at the same size, {verdict}: "
        f"{_agreement(found.mean)} on average, 95 % interval over the seeds {_agreement(low)} to "
        f"{_agreement(high)}; {ahead}."
    )


DRIFT_HEADS = (
    "rank correlation",
    "overlap of largest fifths",
    "same place",
    "images compared",
    "constant",
    "classified differently",
    "their rank correlation",
)
"""Of the columns of `drift_table`, after the name."""


def drift_table(drift: MapDrift) -> list[tuple[str, ...]]:
    """Rows of networks, from the closest reading to the floor.

    Args:
        drift: By one method.

    Returns:
        Name, and what `DRIFT_HEADS` says.
    """
    named = [(_called(each), each) for each in drift.networks]
    named = [
        ("dense again", drift.repeated),
        *named,
        ("unlearned", drift.unlearned),
    ]
    return [
        (
            name,
            _agreement(each.spearman),
            _share(each.iou),
            _share(each.pointing),
            f"{each.compared:,}",
            f"{each.constant:,}",
            f"{each.disagreeing:,}",
            _agreement(each.spearman_disagreeing),
        )
        for name, each in named
    ]


def drift_rows_told() -> str:
    """Say what the first and the last row of `drift_table` are.

    Returns:
        Two sentences.
    """
    return (
        "“dense again”: its own maps drawn a second time, with another seed or, where a method draws nothing, of "
        "images with a little noise. “unlearned”: the dense network with its weights in random order; over all images."
    )


def _called(each: NetworkDrift) -> str:
    return each.name if each.seed is None else f"{each.name}, seed {each.seed}"


def _share(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _agreement(value: float | None) -> str:
    return NONE if value is None else correlation(value, 3)
