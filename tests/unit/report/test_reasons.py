"""What the report says of images that paid and of maps that drifted: never more than the numbers bear."""

from typing import Any

import pytest

from causal_prune.report.harm import Harm
from causal_prune.report.map_drift import MapDrift
from causal_prune.report.reasons import (
    class_table,
    drift_rows_told,
    drift_table,
    drift_told,
    exemplars_told,
    flips_told,
    worst_told,
)
from tests.unit.report import made_reasons


def harm(**changes: Any) -> Harm:
    return Harm.model_validate(made_reasons.harm(**changes))


def drift(**changes: Any) -> MapDrift:
    return MapDrift.model_validate(made_reasons.drift(**changes))


def test_flips_are_told_both_ways_beside_random() -> None:
    assert flips_told(harm(), 360) == (
        "Of 360 test images the causal network lost 9 that the dense one had right, and gained 6 that it had wrong "
        "(p = 0.610). Random pruning lost 19.5 and gained 7.5 on average."
    )
    alone = harm(arms=made_reasons.harm()["arms"][:1])
    assert flips_told(alone, 360).endswith("(p = 0.610).")


def test_the_worst_class_is_named_with_its_chance() -> None:
    assert worst_told(harm()) == (
        "The class that paid most is a|b: 8 lost and 1 gained of 40 images (−17.50 pp; p = 0.039, with Holm's "
        "correction for 3 classes p = 0.117), which chance may explain."
    )
    content = made_reasons.harm()
    content["classes"][1] |= {"p": 1e-6, "p_holm": 3e-6}
    assert worst_told(Harm.model_validate(content)).endswith(
        "(−17.50 pp; p < 0.0001, with Holm's correction for 3 classes p < 0.0001), more than chance explains."
    )
    assert worst_told(harm(worst=None)) == "No class has fewer right than before."


def test_exemplars_are_told_with_their_population() -> None:
    assert exemplars_told(harm()) == (
        "On 3 images most of the 7 pruned networks of this run (its arms and their seeds are the population) predict "
        "another class than the dense network, which has 66.7 % of these right, causal 0.0 %: look at these first."
    )
    none = {"population": 1, "count": 0, "images": [], "dense_right": None, "causal_right": None}
    assert exemplars_told(harm(exemplars=none)) == (
        "There is no image on which the one pruned network of this run (a population of one tells little) predict "
        "another class than the dense network."
    ).replace("predict another", "predicts another")


def test_classes_that_changed_stand_worst_first() -> None:
    rows = class_table(harm())
    assert rows == [
        ("a|b", "40", "8", "1", "−17.50 pp", "0.039", "0.117"),
        ("dog", "38", "1", "5", "+10.53 pp", "0.219", "0.437"),
    ]
    many = [
        {"label": k, "name": str(k), "total": 9, "lost": 1, "gained": 0, "p": 1.0, "p_holm": 1.0}
        for k in range(30)
    ]
    assert len(class_table(harm(classes=many))) == 10
    many[20] |= {"lost": 0, "gained": 9}
    assert class_table(harm(classes=many))[-1][0] == "20", "what gained most has changed most"


BETTER, WORSE, LIKE = (
    f"{how}: {{}} on average, 95 % interval over the seeds {{}} to {{}}; ahead of {{}}."
    for how in (
        "causal pruning kept the reasons better than random pruning",
        "causal pruning kept the reasons worse than random pruning",
        "this run cannot tell whether causal or random pruning kept the reasons better",
    )
)
ONE = "one random arm cannot tell whether causal pruning kept the reasons better: +0.040; ahead of 1 of 1."


@pytest.mark.parametrize(
    ("mean", "ci95", "wins", "told"),
    [
        (0.14, [0.05, 0.23], [2, 2], BETTER.format("+0.140", "+0.050", "+0.230", "2 of 2")),
        (-0.14, [-0.23, -0.05], [0, 2], WORSE.format("−0.140", "−0.230", "−0.050", "0 of 2")),
        (0.04, [-0.05, 0.13], [1, 2], LIKE.format("+0.040", "−0.050", "+0.130", "1 of 2")),
        (0.04, None, [1, 1], ONE),
    ],
)
def test_no_more_is_claimed_than_the_interval_bears(
    mean: float, ci95: list[float] | None, wins: list[int], told: str
) -> None:
    difference = {"mean": mean, "ci95": ci95, "wins_of": wins}
    assert drift_told(drift(causal_minus_random=difference)).endswith(
        f"On the same images, at the same size, {told}"
    )


def test_drift_is_told_beside_its_floors() -> None:
    text = drift_told(drift(causal_minus_random=None))
    assert text == (
        "grad_cam: the maps of the causal network agree with those of the dense one by +0.900 (rank correlation, 120 "
        "images that both classify alike); a network that has learned nothing by −0.020, the dense network with "
        "itself, drawn a second time, by +0.970."
    )
    nothing = drift(networks=[made_reasons.network("causal", None, compared=0)], causal_minus_random=None)
    assert "by – (rank correlation, 0 images" in drift_told(nothing)


def test_rows_run_from_the_closest_reading_to_the_floor() -> None:
    rows = drift_table(drift())
    assert [row[0] for row in rows] == [
        "dense again",
        "causal",
        "random, seed 0",
        "random, seed 1",
        "unlearned",
    ]
    assert rows[1][1:] == ("+0.900", "0.810", "0.900", "120", "3", "5", "–")
    assert all(f"“{name}”" in drift_rows_told() for name in ("dense again", "unlearned"))
