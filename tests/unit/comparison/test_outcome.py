"""Arms by the part that they play."""

from dataclasses import replace

from torch import nn

from causal_prune.comparison.outcome import ArmResult, Outcome, Stages
from causal_prune.measure.cost import Cost


def arm(name: str) -> ArmResult:
    return ArmResult(name, None, None, nn.Identity(), Stages(None), Cost(1, 1, {}))


def test_arms_come_in_the_order_of_the_report() -> None:
    outcome = Outcome(arm("dense"), arm("causal"), (arm("random"), arm("magnitude")))
    assert [each.name for each in outcome] == ["dense", "causal", "random", "magnitude"]


def test_every_arm_is_changed_and_plays_its_part_still() -> None:
    outcome = Outcome(arm("dense"), arm("causal"), (arm("random"),))
    changed = outcome.each(lambda each: replace(each, importance=each.name.upper()))
    assert [each.importance for each in changed] == ["DENSE", "CAUSAL", "RANDOM"]
    assert changed.causal.name == "causal" and outcome.causal.importance is None
