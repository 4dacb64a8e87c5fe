"""Labels of channels: sets that are united and frozen, regions that are wide, and label tensors in canonical form."""

import pytest
import torch
from torch import Tensor

from causal_prune.tracing.channel_labels import (
    FIXED,
    LabelSets,
    Regions,
    broadcast_labels,
    canonical,
    compact,
    meeting_pairs,
    varying_dims,
)


def along_channels(*labels: int, shape: tuple[int, ...]) -> Tensor:
    """Labels along dimension 1, in canonical form."""
    return torch.tensor(labels).reshape(1, -1, *[1] * (len(shape) - 2)).expand(shape)


def test_labels_are_handed_out_once_and_never_the_fixed_one() -> None:
    sets = LabelSets()
    assert sets.fresh(3).tolist() == [1, 2, 3]
    assert sets.fresh(0).tolist() == []
    assert sets.fresh(2).tolist() == [4, 5]
    assert [sets.find(label) for label in range(6)] == [FIXED, 1, 2, 3, 4, 5]


def test_sets_are_those_of_a_list_in_which_every_label_is_renamed() -> None:
    sets, name = LabelSets(), list(range(31))
    sets.fresh(30)
    draw = torch.Generator().manual_seed(3)
    for a, b in torch.randint(1, 31, (22, 2), generator=draw).tolist():
        sets.unite(a, b, "unused")
        name = [name[a] if each == name[b] else each for each in name]
        for x in range(31):
            assert all((sets.find(x) == sets.find(y)) == (name[x] == name[y]) for y in range(31))
    assert 1 < len(set(name)) < 15 and all(sets.reason(label) is None for label in range(31))


def test_a_frozen_set_freezes_what_joins_it_and_its_first_reason_stays() -> None:
    sets = LabelSets()
    a, b, c, d, e = sets.fresh(5).tolist()
    sets.freeze((FIXED, d), "first")
    sets.freeze((d,), "second")
    sets.unite(a, d, "not fixed")
    assert sets.reason(a) == sets.reason(d) == "first"
    sets.unite(FIXED, b, "meets the input")
    assert sets.reason(b) == "meets the input" and sets.find(b) == b
    sets.unite(b, a, "both are frozen")
    assert sets.find(d) == sets.find(b) and sets.reason(b) == sets.reason(d) == "first"
    assert sets.reason(FIXED) is sets.reason(c) is sets.reason(e) is None


@pytest.mark.parametrize("wide", [0, 3])
def test_a_region_is_wide_as_soon_as_one_that_it_was_made_of_is(wide: int) -> None:
    regions = Regions()
    assert [regions.fresh() for _ in range(5)] == [0, 1, 2, 3, 4]
    regions.widen(wide)
    regions.unite(3, 2)
    regions.unite(0, 3)
    regions.unite(0, 2)
    assert regions.find(0) == regions.find(2) == regions.find(3)
    assert [regions.is_wide(region) for region in range(5)] == [True, False, True, True, False]
    regions.widen(1)
    regions.unite(1, 4)
    assert regions.is_wide(4) and regions.find(4) != regions.find(0)


@pytest.mark.parametrize(
    ("values", "dims"),
    [
        (torch.tensor([5, 6, 7]).reshape(1, 3, 1, 1).repeat(2, 1, 4, 4), (1,)),
        (torch.arange(1, 7).reshape(2, 3, 1).repeat(1, 1, 4), (0, 1)),
        (torch.tensor([[0, 0], [0, 4]]), (0, 1)),
        (torch.full((2, 3), 8), ()),
        (torch.tensor(8), ()),
        (torch.tensor([5, 5, 6]).expand(4, 3), (1,)),
    ],
)
def test_canonical_labels_have_no_memory_where_nothing_changes(values: Tensor, dims: tuple[int, ...]) -> None:
    found = canonical(values)
    assert found is not None and torch.equal(found, values)
    assert varying_dims(found) == dims
    small = compact(found)
    assert list(small.shape) == [
        size if dim in dims else 1 for dim, size in enumerate(values.shape)
    ] and torch.equal(small.expand(values.shape), values)


def test_nothing_but_fixed_labels_is_none() -> None:
    assert canonical(torch.zeros(2, 3, dtype=torch.int64)) is None
    assert canonical(torch.zeros(2, 0, dtype=torch.int64)) is None
    assert varying_dims(None) == ()


def test_pairs_that_meet_are_those_of_a_loop_over_all_elements() -> None:
    a = along_channels(4, 5, 4, 6, shape=(2, 4, 3, 3))
    b = torch.tensor([7, 7, 8, 9]).reshape(4, 1, 1).expand(4, 3, 3)
    x, y = torch.broadcast_tensors(a, b)
    expected = sorted(set(zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)))
    assert expected == [(4, 7), (4, 8), (5, 7), (6, 9)]
    assert meeting_pairs(a, b).tolist() == [list(pair) for pair in expected]
    assert meeting_pairs(torch.tensor(3), torch.tensor([[2]])).tolist() == [[3, 2]]


def test_a_result_has_the_labels_of_the_first_operand_that_are_not_fixed() -> None:
    shape = torch.Size((2, 3, 4))
    first, second = along_channels(0, 5, 0, shape=(2, 3, 1)), along_channels(7, 8, 0, shape=(1, 3, 4))
    found = broadcast_labels([first, second, torch.tensor(9)], shape)
    assert torch.equal(found, along_channels(7, 5, 9, shape=(2, 3, 4)))
    assert torch.equal(broadcast_labels([second], shape), along_channels(7, 8, 0, shape=(2, 3, 4)))
