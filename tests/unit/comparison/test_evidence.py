"""What the result is worth: as much as there is time for, and what was named in any case."""

from typing import Any

import pytest

from causal_prune.comparison import evidence
from causal_prune.comparison.arms import Recipe, shipped
from causal_prune.comparison.chosen import Chosen
from causal_prune.comparison.evidence import (
    AGREEMENT,
    ARMS,
    CURVE,
    FURTHER,
    LADDER,
    Allowance,
    Gathered,
    Pace,
    gather,
)
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.share_curve import QUICK_SHARES, SHARES
from causal_prune.importance.scoring import score
from causal_prune.planning.unit_choice import plan
from causal_prune.progress import Step, listed


@pytest.fixture
def chosen(plain: Recipe, known) -> Chosen:
    graph, moments, scores = known
    return Chosen(graph, moments, scores, plan(graph, scores, keep_macs=0.5), lambda m: score(graph, m))


BOTH = {"magnitude", "random"}


class Watch:
    """A clock that stands still until an arm runs, which takes ten seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, run = 100.0, evidence.run_rival

        def slowly(*given: Any) -> Any:
            self.now += 10
            return run(*given)

        monkeypatch.setattr(evidence, "run_rival", slowly)

    def __call__(self) -> float:
        return self.now


def gathered(plain: Recipe, chosen: Chosen, asked: Rivals, watch: Watch, seconds: float | None) -> Gathered:
    outcome = shipped(plain, chosen.plan, "structural")
    return gather(plain, chosen, outcome, asked, Pace(1e-6, 10.0), Allowance(seconds, watch))


def names(found: Gathered) -> list[str]:
    return [arm.name for arm in found.outcome.others]


@pytest.mark.parametrize(
    ("seconds", "arms"),
    [
        (None, ["random"] * 5 + ["magnitude"]),
        (61, ["random"] * 5 + ["magnitude"]),
        (35, ["random", "random", "magnitude"]),
        (15, ["magnitude"]),
        (5, []),
    ],
)
def test_as_many_arms_run_as_there_is_time_for(
    plain: Recipe, chosen: Chosen, monkeypatch: pytest.MonkeyPatch, seconds: float | None, arms: list[str]
) -> None:
    found = gathered(plain, chosen, Rivals(), Watch(monkeypatch), seconds)
    assert names(found) == arms
    left = [remark for remark in found.remarks if "arms beside the causal one" in remark]
    assert bool(left) == (len(arms) < 6)
    if left:
        assert left[0].startswith(f"{6 - len(arms)} of 6 arms") and "full evidence makes all" in left[0]
    seeds = [arm.seed for arm in found.outcome.others if arm.name == "random"]
    assert seeds == list(range(len(seeds)))


@pytest.mark.parametrize("asked", [Rivals(random_seeds=3), Rivals(arms=("causal", "random"), random_seeds=2)])
def test_arms_that_were_asked_for_run_whatever_the_time(
    plain: Recipe, chosen: Chosen, monkeypatch: pytest.MonkeyPatch, asked: Rivals
) -> None:
    found = gathered(plain, chosen, asked, Watch(monkeypatch), 0.0)
    expected = ["random"] * asked.seeds + ["magnitude"] * ("magnitude" in asked.arms)
    assert names(found) == expected
    assert found.curve is None and found.agreement is None and found.ladder is None
    assert [remark.split(" left out")[0] for remark in found.remarks] == [
        "the ladder of where the quality comes from", "the agreement with ablation", "the curve of accuracy over sizes"
    ]  # fmt: skip


def test_a_sample_is_drawn_quickly_and_all_of_it_in_full(
    plain: Recipe, chosen: Chosen, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = Watch(monkeypatch)
    quick = gathered(plain, chosen, Rivals(random_seeds=2), watch, 60)
    full = gathered(plain, chosen, Rivals(random_seeds=2, evidence="full"), watch, None)
    assert quick.curve is not None and quick.curve.shares == QUICK_SHARES
    assert [len(seeds) for seeds in quick.curve.random] == [1, 1, 1]
    assert full.curve is not None and full.curve.shares == SHARES and len(full.curve.random[0]) == 2
    assert quick.agreement is not None and full.agreement is not None
    assert (quick.agreement.units, full.agreement.units) == (16, 26)
    assert quick.agreement.stability is not None and full.agreement.stability is not None


def test_what_is_left_out_is_ticked_off_as_such(
    plain: Recipe, chosen: Chosen, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listed([Step(name, "evidence") for name in (ARMS, LADDER, FURTHER, AGREEMENT, CURVE)]) as steps:
        gathered(plain, chosen, Rivals(), Watch(monkeypatch), 15)
    assert steps.named(LADDER).remark == "left out, for want of time"
    assert steps.named(FURTHER).remark == "5 left out, for want of time" and steps.named(ARMS).remark == ""
    assert steps.named(AGREEMENT).seconds is not None and steps.named(CURVE).seconds is not None


def test_an_allowance_ends() -> None:
    now = [0.0]
    allowance = Allowance(10, lambda: now[0])
    assert allowance.fits(10) and not allowance.fits(10.1)
    now[0] = 4
    assert allowance.fits(6) and not allowance.fits(7)
    assert Allowance(None).fits(1e9)


@pytest.mark.parametrize(
    ("seconds", "against"),
    [(None, {"magnitude", "random"}), (45, {"magnitude", "random"}), (35, {"magnitude"})],
)
def test_the_ladder_stands_against_as_much_as_there_is_time_for(
    plain: Recipe, chosen: Chosen, monkeypatch: pytest.MonkeyPatch, seconds: float | None, against: set[str]
) -> None:
    found = gathered(plain, chosen, Rivals(), Watch(monkeypatch), seconds)
    assert found.ladder is not None
    assert {rung.units for rung in found.ladder.rungs} == {"causal", *against}


@pytest.mark.parametrize(
    ("arms", "against"),
    [(("causal",), None), (("causal", "random"), {"random"}), (("causal", "magnitude"), {"magnitude"})],
)
def test_the_ladder_runs_no_arm_that_nobody_asked_for(
    plain: Recipe, chosen: Chosen, monkeypatch: pytest.MonkeyPatch, arms: Any, against: set[str] | None
) -> None:
    found = gathered(plain, chosen, Rivals(arms=arms, random_seeds=1), Watch(monkeypatch), None)
    assert (found.ladder is None) == (against is None)
    if found.ladder is not None and against is not None:
        assert {rung.units for rung in found.ladder.rungs} == {"causal", *against}
