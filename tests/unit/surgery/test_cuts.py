"""Cuts are checked against a network's widths, and stay with the network that they made."""

import copy
import pickle

import pytest
from torch import nn

from causal_prune.errors import InputError
from causal_prune.surgery.cuts import RECORD, Cuts, LayerCut, check_width, record_cuts, recorded_cuts

MODULES: dict[str, nn.Module] = {"a": nn.Conv2d(8, 7, 3), "norm": nn.BatchNorm2d(7), "relu": nn.ReLU()}


@pytest.mark.parametrize(
    ("name", "cut"), [("a", LayerCut((0,), None, 7, 8)), ("norm", LayerCut((0,), None, 7, 0))]
)
def test_a_layer_as_wide_as_the_cut_says_is_taken(name: str, cut: LayerCut) -> None:
    check_width(MODULES, name, cut)


@pytest.mark.parametrize(
    ("name", "cut", "text"),
    [
        ("b", LayerCut((0,), None, 7, 8), "the plan names the layer 'b', which the model does not have"),
        (
            "a", LayerCut((0,), None, 6, 8),
            "the plan was made for another network: a has 7 filters and 8 inputs, the plan says 6 and 8",
        ),
        (
            "a", LayerCut(None, (0,), 7, 9),
            "the plan was made for another network: a has 7 filters and 8 inputs, the plan says 7 and 9",
        ),
        (
            "relu", LayerCut((0,), None, 7, 0),
            "the plan was made for another network: relu has 0 filters and 0 inputs, the plan says 7 and 0",
        ),
    ],
)  # fmt: skip
def test_another_network_is_refused(name: str, cut: LayerCut, text: str) -> None:
    with pytest.raises(InputError, match=f"^{text}$"):
        check_width(MODULES, name, cut)


def test_copies_and_pickles_carry_the_record_and_state_dicts_do_not() -> None:
    net, cuts = nn.Sequential(nn.Linear(2, 3)), Cuts({"0": LayerCut((0,), None, 3, 2)}, {})
    assert recorded_cuts(net) is None
    keys = list(net.state_dict())
    assert record_cuts(net, cuts) is net
    assert recorded_cuts(net) is cuts and list(net.state_dict()) == keys
    assert recorded_cuts(copy.deepcopy(net)) == cuts
    assert recorded_cuts(pickle.loads(pickle.dumps(net))) == cuts
    assert recorded_cuts(nn.Sequential(net)) is None, "it is the network's own, not its parts'"


def test_something_else_under_the_name_is_no_record() -> None:
    net = nn.Linear(2, 2)
    setattr(net, RECORD, "a user's")
    assert recorded_cuts(net) is None
