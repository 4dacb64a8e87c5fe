"""Which test images paid: those that a smaller network lost or gained, by arm and by class; those that most lose."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from causal_prune.comparison.outcome import ArmResult, Outcome
from causal_prune.measure import Measured, holm, mcnemar_exact
from causal_prune.report import ArmHarm, ClassHarm, Exemplar, Exemplars, Harm

LISTED = 100
"""So many exemplars are listed one by one."""


def harm_of(outcome: Outcome, classes: Sequence[str]) -> Harm | None:
    """Count the images on which networks differ from the dense one in being right.

    Args:
        outcome: The arms, measured on the test split.
        classes: Their names, in the order of the labels.

    Returns:
        The counts; None where quality is no question of right or wrong.
    """
    dense, causal = outcome.dense.stages.end, outcome.causal.stages.end
    if dense.correct is None:
        return None
    arms = tuple(_of_arm(arm, dense) for arm in (outcome.causal, *outcome.others))
    by_class = _by_class(dense, causal, classes)
    fallen = [each for each in by_class if each.lost > each.gained]
    worst = min(fallen, key=lambda each: (each.change, each.p, each.label), default=None)
    voting = [arm for arm in (outcome.causal, *outcome.others) if arm.name != "causal-removed"]
    return Harm(
        arms=arms,
        classes=tuple(by_class),
        worst=None if worst is None else worst.label,
        exemplars=_exemplars(dense, causal, [arm.stages.end.predictions for arm in voting]),
    )


def flipped(dense: Measured, other: Measured) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images that were lost, and images that were gained.

    Args:
        dense: The network before.
        other: The network after, on the same images.

    Returns:
        Positions in the split.
    """
    return np.flatnonzero(dense.merits & ~other.merits), np.flatnonzero(~dense.merits & other.merits)


def _of_arm(arm: ArmResult, dense: Measured) -> ArmHarm:
    end = arm.stages.end
    lost, gained = flipped(dense, end)
    p = mcnemar_exact(dense.merits, end.merits)
    return ArmHarm(name=arm.name, seed=arm.seed, lost=len(lost), gained=len(gained), p=p)


def _by_class(dense: Measured, causal: Measured, classes: Sequence[str]) -> list[ClassHarm]:
    labels = [int(label) for label in np.unique(dense.labels)]
    chosen = {label: dense.labels == label for label in labels}
    p_values = [mcnemar_exact(dense.merits[rows], causal.merits[rows]) for rows in chosen.values()]
    return [
        ClassHarm(
            label=label,
            name=classes[label] if label < len(classes) else str(label),
            total=int(rows.sum()),
            lost=int((dense.merits & ~causal.merits)[rows].sum()),
            gained=int((~dense.merits & causal.merits)[rows].sum()),
            p=p,
            p_holm=corrected,
        )
        for (label, rows), p, corrected in zip(chosen.items(), p_values, holm(p_values), strict=True)
    ]


def _exemplars(dense: Measured, causal: Measured, votes: Sequence[NDArray[np.int64]]) -> Exemplars:
    """Images on which more than half of the arms predict another class than dense."""
    all_votes = np.stack(votes)
    differing = all_votes != dense.predictions
    counts = differing.sum(axis=0)
    found = np.flatnonzero(counts * 2 > len(votes))
    ranked = found[np.argsort(-counts[found], kind="stable")]

    def told(image: int) -> Exemplar:
        other = all_votes[differing[:, image], image]
        return Exemplar(
            image=image,
            label=int(dense.labels[image]),
            dense=int(dense.predictions[image]),
            arms=int(np.bincount(other).argmax()),
            disagreeing=int(counts[image]),
        )

    def right(network: Measured) -> float | None:
        return float(network.merits[found].mean()) if len(found) else None

    return Exemplars(
        population=len(votes),
        count=len(found),
        images=tuple(told(int(image)) for image in ranked[:LISTED]),
        dense_right=right(dense),
        causal_right=right(causal),
    )
