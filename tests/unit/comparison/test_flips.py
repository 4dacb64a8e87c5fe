"""Images that were lost and gained, counted by hand."""

import numpy as np
import pytest
from scipy import stats
from torch import nn

from causal_prune.comparison.flips import flipped, harm_of
from causal_prune.comparison.outcome import ArmResult, Outcome, Stages
from causal_prune.measure.cost import Cost
from causal_prune.measure.quality import Measured

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
DENSE = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 0])
CAUSAL = np.array([0, 1, 1, 0, 1, 1, 1, 2, 2, 2])


def measured(predictions: np.ndarray, labels: np.ndarray = LABELS) -> Measured:
    return Measured(predictions, predictions == labels, labels)


def arm(name: str, predictions: np.ndarray, seed: int | None = None) -> ArmResult:
    return ArmResult(name, name, seed, nn.Identity(), Stages(measured(predictions)), Cost(1, 1, {}))


def outcome(*others: ArmResult) -> Outcome:
    return Outcome(arm("dense", DENSE), arm("causal", CAUSAL), others)


def test_lost_and_gained_are_counted_both_ways_by_arm_and_by_class() -> None:
    found = harm_of(outcome(arm("random", LABELS, 3)), ("cat", "dog"))
    assert [(each.name, each.seed, each.lost, each.gained) for each in found.arms] == [
        ("causal", None, 2, 2), ("random", 3, 0, 2),
    ]  # fmt: skip
    assert found.causal is found.arms[0] and found.arms[0].p == 1.0 and found.arms[1].p == 0.5
    rows = [(each.label, each.name, each.total, each.lost, each.gained) for each in found.classes]
    assert rows == [(0, "cat", 4, 2, 1), (1, "dog", 3, 0, 0), (2, "2", 3, 0, 1)]
    by_hand = [float(stats.binomtest(2, 3, 0.5).pvalue), 1.0, 1.0]
    assert [each.p for each in found.classes] == by_hand
    assert [each.p_holm for each in found.classes] == [1.0, 1.0, 1.0]
    assert found.worst == 0 and found.classes[0].change == -0.25
    lost, gained = flipped(measured(DENSE), measured(CAUSAL))
    assert lost.tolist() == [1, 2] and gained.tolist() == [3, 9]


def test_where_no_class_fell_none_is_the_worst() -> None:
    found = harm_of(Outcome(arm("dense", DENSE), arm("causal", LABELS)), ())
    assert found.worst is None and found.causal.gained == 2


def test_many_losses_in_one_class_survive_the_correction() -> None:
    labels = np.repeat([0, 1], 40)
    wrong = labels.copy()
    wrong[:20] = 1
    found = harm_of(
        Outcome(
            ArmResult("dense", None, None, nn.Identity(), Stages(measured(labels, labels)), Cost(1, 1, {})),
            ArmResult("causal", "", None, nn.Identity(), Stages(measured(wrong, labels)), Cost(1, 1, {})),
        ),
        ("a", "b"),
    )
    assert found.worst == 0
    assert found.classes[0].p == pytest.approx(2 * 0.5**20) and found.classes[0].p_holm == pytest.approx(
        4 * 0.5**20
    )


def test_exemplars_are_images_on_which_more_than_half_disagree_with_dense() -> None:
    same, other = DENSE.copy(), DENSE.copy()
    other[4], other[8] = 2, 1
    third = DENSE.copy()
    third[[4, 8]] = 2, 0
    found = harm_of(
        outcome(arm("random", same, 0), arm("random", other, 1), arm("magnitude", third)), ("a", "b", "c")
    ).exemplars
    # of four arms two do not suffice; image 4: two, image 8: two, image 1: causal alone
    assert found.population == 4 and found.count == 0 and found.images == ()
    assert found.dense_right is None and found.causal_right is None
    fewer = harm_of(outcome(arm("random", other, 1), arm("magnitude", third)), ("a", "b", "c")).exemplars
    assert fewer.population == 3 and fewer.count == 2
    assert [(each.image, each.label, each.dense, each.arms, each.disagreeing) for each in fewer.images] == [
        (4, 1, 1, 2, 2), (8, 2, 2, 0, 2),
    ]  # fmt: skip
    assert fewer.dense_right == 1.0 and fewer.causal_right == 1.0


def test_units_that_were_removed_as_well_as_zeroed_vote_once() -> None:
    found = harm_of(outcome(arm("causal-removed", LABELS)), ())
    assert found.exemplars.population == 1 and len(found.arms) == 2


def test_numbers_are_neither_right_nor_wrong() -> None:
    numbers = Measured(np.ones(4), np.ones(4), np.ones(4))
    stages = Stages(numbers)
    result = ArmResult("dense", None, None, nn.Identity(), stages, Cost(1, 1, {}))
    assert harm_of(Outcome(result, result), ()) is None
