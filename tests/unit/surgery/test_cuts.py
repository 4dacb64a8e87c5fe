"""Cuts are checked against a network's widths, and stay with the network that they made."""

import pytest
from torch import nn

from causal_prune.errors import InputError
from causal_prune.surgery.cuts import LayerCut, check_width

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
