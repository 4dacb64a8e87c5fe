"""The search for the smallest network within a loss: on stand-in networks whose loss is known, and on a real one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from causal_prune.comparison import size_search
from causal_prune.comparison.arms import Made, Recipe
from causal_prune.comparison.size_search import CANDIDATES, smallest_within
from causal_prune.errors import InputError, TargetError
from causal_prune.measure import Measured, largest_loss
from causal_prune.planning.targets import Goal
from causal_prune.planning.unit_choice import plan
from causal_prune.report.target import Target
from causal_prune.surgery.cuts import Cuts
from causal_prune.surgery.pruning_plan import PruningPlan

IMAGES = 4000


def stand_in(share: float) -> PruningPlan:
    if share < 0.05:
        raise TargetError("out of reach")
    return PruningPlan(
        Target("keep_macs", share, share), {"g": tuple(range(int(1000 * share)))}, Cuts({}, {})
    )


class Known:
    """Networks whose share of lost images is a function of the share of the multiply-accumulates that they keep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, loss) -> None:
        self.loss, self.made = loss, []
        monkeypatch.setattr(size_search, "make_arm", self.make)
        monkeypatch.setattr(size_search, "measured", self.measure)

    def make(self, _recipe, plan: PruningPlan, *, label: str, mode: str) -> Made:
        assert mode == "remove" and "of the MACs" in label
        self.made.append(plan)
        return Made(plan, mode, None, None, plan.target.achieved, (), "")

    def measure(self, recipe, networks, images, _label) -> dict[str, Measured]:
        assert images is recipe.data.validation, "the test split is not read"
        ((name, share),) = networks.items()
        lost = 0 if name == "dense" else int(IMAGES * self.loss(share))
        hits = np.ones(IMAGES, dtype=bool)
        hits[:lost] = False
        return {name: Measured(hits, hits, np.ones(IMAGES, dtype=int))}


@pytest.mark.parametrize(
    ("power", "limit"),
    [(1, 0.05), (1, 0.2), *((p, limit) for p in (2, 6) for limit in (0.005, 0.01, 0.05, 0.2))],
)
def test_the_smallest_size_within_the_bound_is_found(
    plain: Recipe, monkeypatch: pytest.MonkeyPatch, limit: float, power: int
) -> None:
    known = Known(monkeypatch, lambda share: (1 - share) ** power)
    found = smallest_within(plain, Goal(max_drop=limit), stand_in)
    shares = np.linspace(0.051, 0.99, 4000)

    def bound(share: float) -> float:
        hits = np.ones(IMAGES, dtype=bool)
        hits[: int(IMAGES * (1 - share) ** power)] = False
        return largest_loss(np.ones(IMAGES, dtype=bool), hits)[1]

    exact = next(share for share in shares if bound(share) <= limit)
    kept = len(found.plan.kept_units["g"]) / 1000
    assert exact - 0.002 <= kept <= exact * 1.06
    assert len(known.made) <= CANDIDATES and found.made.plan.kept_units == found.plan.kept_units
    assert found.plan.target.kind == "max_drop" and found.plan.target.requested == limit
    assert found.plan.target.achieved == pytest.approx(int(IMAGES * (1 - kept) ** power) / IMAGES, abs=2e-3)
    search = found.search
    assert search.bound_by == "max_drop" and search.images == IMAGES and search.dense == 1
    assert [each.within for each in search.tried] == [each.at_most <= limit for each in search.tried]
    assert all(each.at_most > each.drop for each in search.tried)


def test_a_loss_that_no_size_is_within_names_the_smallest_that_was_found(
    plain: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    Known(monkeypatch, lambda share: 0.1 + 0.1 * (1 - share))
    told = r"max_drop=0.05 is out of reach: the smallest drop found is 0.10\d+, at most 0.1\d+ with confidence 0.95"
    with pytest.raises(TargetError, match=told) as error:
        smallest_within(plain, Goal(max_drop=0.05), stand_in)
    ask = float(str(error.value).split("ask for at least ")[1].split(",")[0])
    assert smallest_within(plain, Goal(max_drop=ask), stand_in).search.tried


@pytest.mark.parametrize(("limit", "loss"), [(0.05, 0.1), (0.05, 0.06), (0.05, 0.9), (0.01, 0.9)])
def test_where_only_a_large_size_will_do_it_is_come_to(
    plain: Recipe, monkeypatch: pytest.MonkeyPatch, limit: float, loss: float
) -> None:
    known = Known(monkeypatch, lambda share: loss if share < 0.98 else 0.0)
    found = smallest_within(plain, Goal(max_drop=limit), stand_in)
    assert found.plan.kept_units["g"][-1] >= 979 and len(known.made) <= CANDIDATES


def test_a_loss_that_so_few_images_cannot_tell_is_said_to_be_one(
    plain: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    Known(monkeypatch, lambda share: 0.0)
    with pytest.raises(
        TargetError, match=rf"max_drop=1e-05 is out of reach: {IMAGES} validation images cannot tell"
    ):
        smallest_within(plain, Goal(max_drop=1e-5), stand_in)


def test_what_is_never_lost_leads_to_the_narrowest_network(
    plain: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Known(monkeypatch, lambda share: 0.0)
    found = smallest_within(plain, Goal(max_drop=0.01), stand_in)
    assert len(found.plan.kept_units["g"]) < 80 and len(known.made) <= CANDIDATES


def test_a_sure_bound_keeps_more_than_a_doubtful_one(plain: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    Known(monkeypatch, lambda share: 0.1 * (1 - share) ** 2)
    kept = [
        len(smallest_within(plain, Goal(max_drop=0.02, confidence=sure), stand_in).plan.kept_units["g"])
        for sure in (0.5, 0.9, 0.999)
    ]
    assert kept == sorted(kept) and kept[0] < kept[2]


@pytest.mark.parametrize("reached", [True, False])
def test_whichever_is_reached_first_ends_the_search(
    plain: Recipe, monkeypatch: pytest.MonkeyPatch, reached: bool
) -> None:
    known = Known(monkeypatch, lambda share: 0.1 * (1 - share) ** 2)
    fast = replace(stand_in(0.6), target=Target("keep_latency", 0.5, 0.48))
    monkeypatch.setattr(size_search, "_share", lambda *_: 0.6)
    limit = 0.05 if reached else 0.01
    found = smallest_within(plain, Goal(max_drop=limit, keep_latency=0.5), stand_in, fast)
    if reached:
        assert found.plan == fast and known.made == [fast]
        assert (found.search.bound_by, found.search.latency_kept) == ("keep_latency", 0.48)
    else:
        assert found.plan.target.kind == "max_drop" and len(found.plan.kept_units["g"]) > 600
        assert (found.search.bound_by, found.search.latency_kept) == ("max_drop", None)


def test_a_loss_of_a_share_is_below_one(plain: Recipe) -> None:
    with pytest.raises(InputError, match="max_drop: 1.5 is not below 1; 0.01 is one point of accuracy"):
        smallest_within(plain, Goal(max_drop=1.5), stand_in)


def test_a_real_network_is_made_once_and_reads_validation_images_alone(plain: Recipe, known) -> None:
    graph, _, scores = known
    found = smallest_within(
        plain, Goal(max_drop=0.5, confidence=0.6), lambda share: plan(graph, scores, keep_macs=share)
    )
    assert found.made.end[0].out_channels == len(found.plan.kept_units["0"])
    best = min((each for each in found.search.tried if each.within), key=lambda each: each.macs_kept)
    images, labels = plain.data.validation.tensors
    with torch.no_grad():
        hits = (found.made.end(images).argmax(1) == labels).double().mean()
    assert best.quality == pytest.approx(float(hits)) and math.isfinite(best.at_most)
