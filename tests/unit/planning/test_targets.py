"""Targets: one of six, a plan, or half of the MACs."""

import math
from pathlib import Path
from typing import get_args

import pytest

from causal_prune.errors import InputError
from causal_prune.planning.targets import STANDARD, TARGETS, Goal
from causal_prune.report.target import TargetKind
from causal_prune.report.wording import _TARGETS


def test_every_kind_of_target_is_an_option_and_has_its_words() -> None:
    assert get_args(TargetKind) == TARGETS
    assert set(TARGETS) == Goal.model_fields.keys() - {"align", "plan", "confidence"} == set(_TARGETS)


SHARES = [kind for kind in TARGETS if kind not in ("remove_silent", "max_drop")]


@pytest.mark.parametrize("kind", SHARES)
def test_the_one_that_is_given_is_asked_for(kind: str) -> None:
    assert Goal(**{kind: 0.7}).asked == (kind, 0.7)


def test_nothing_asked_means_half_of_the_macs() -> None:
    assert Goal().asked == STANDARD == ("keep_macs", 0.5)
    assert Goal(keep_macs=None, keep_latency=0.7).asked == ("keep_latency", 0.7)


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, math.nan, math.inf, "half", True])
@pytest.mark.parametrize("kind", SHARES)
def test_a_share_lies_between_none_and_all(kind: str, share: object) -> None:
    with pytest.raises(InputError, match=rf"^{kind}: .* is not between 0 and 1 \(0\.\d "):
        Goal(**{kind: share})


def test_what_is_silent_is_a_target_of_its_own_if_it_is_asked_for() -> None:
    assert Goal(remove_silent=True).asked == ("remove_silent", True)
    assert Goal(remove_silent=False).asked == STANDARD
    assert Goal(remove_silent=False, keep_params=0.3).asked == ("keep_params", 0.3)
    with pytest.raises(InputError, match="^`keep_macs` and `remove_silent` are two targets; give one$"):
        Goal(remove_silent=True, keep_macs=0.5)


def test_two_targets_are_refused() -> None:
    with pytest.raises(InputError, match="^`keep_params` and `remove_filters` are two targets; give one$"):
        Goal(remove_filters=0.5, keep_params=0.5)


@pytest.mark.parametrize("drop", [0, -0.1, math.nan, math.inf, "half", True])
def test_a_loss_lies_above_none(drop: object) -> None:
    with pytest.raises(InputError, match=r"^max_drop: .* is not above 0 \(0.01 is one point of accuracy\)$"):
        Goal(max_drop=drop)


@pytest.mark.parametrize("confidence", [0.49, 1, -1, math.nan, "sure"])
def test_a_confidence_is_half_at_least(confidence: object) -> None:
    with pytest.raises(InputError, match="^confidence: .* is not at least 0.5 and below 1$"):
        Goal(confidence=confidence)


def test_a_loss_and_a_latency_go_together_and_no_other_two() -> None:
    goal = Goal(max_drop=0.02, keep_latency=0.5)
    assert (goal.max_drop, goal.keep_latency) == (0.02, 0.5)
    for kind in TARGETS:
        if kind not in ("max_drop", "keep_latency"):
            value = True if kind == "remove_silent" else 0.5
            with pytest.raises(
                InputError, match=f"`{kind}` and `.*` are two targets|`.*` and `{kind}` are two"
            ):
                Goal(max_drop=0.02, **{kind: value})


@pytest.mark.parametrize("kind", TARGETS)
def test_a_plan_stands_alone_and_is_written_without_a_target(kind: str) -> None:
    value = True if kind == "remove_silent" else 0.5
    with pytest.raises(
        InputError, match=f"`plan`: a plan says how small the network becomes; leave `{kind}` out"
    ):
        Goal(plan=Path("plan.json"), **{kind: value})
    written = Goal(plan=Path("plan.json")).by_key()
    assert written["plan"] == "plan.json" and written[kind] in (None, False)
    assert Goal(**{kind: value}).by_key()[kind] == value
