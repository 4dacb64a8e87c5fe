"""Masks: what is zeroed, what stays, and masks that fit nothing."""

import math
import re

import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.fine_tuning.masks import hold, masked_parameters
from tests.unit.drawn_weights import drawn


def network() -> nn.Module:
    return drawn(nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2)))


def weights(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bool, torch.int64])
def test_what_a_mask_forbids_becomes_zero_and_nothing_else_moves(kind: torch.dtype) -> None:
    net, before = network(), weights(network())
    masks = {
        "0.weight": (torch.arange(24).reshape(3, 2, 2, 2) % 3 > 0).to(kind),
        "3.bias": torch.tensor([1, 0]).to(kind),
    }
    given = {name: mask.clone() for name, mask in masks.items()}
    pairs = masked_parameters(net, masks)
    expected = {
        name: value * masks[name].to(value) if name in masks else value for name, value in before.items()
    }
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(mask, given[name]) for name, mask in masks.items())
    assert all(parameter is net.get_parameter(n) for n, (parameter, _) in zip(masks, pairs, strict=True))
    assert [zero.tolist() for _, zero in pairs] == [(mask == 0).tolist() for mask in masks.values()]
    assert all(parameter.requires_grad for parameter, _ in pairs)


def test_held_entries_go_back_to_zero_even_from_nan() -> None:
    net = network()
    pairs = masked_parameters(net, {"3.bias": torch.tensor([0, 1])})
    with torch.no_grad():
        net.get_parameter("3.bias").copy_(torch.tensor([math.nan, 3.0]))
    hold(pairs)
    assert net.get_parameter("3.bias").tolist() == [0.0, 3.0]
    assert net.get_parameter("3.bias").grad_fn is None


def test_no_mask_holds_nothing() -> None:
    net = network()
    assert masked_parameters(net, {}) == []
    hold([])
    assert all(torch.equal(value, weights(network())[name]) for name, value in net.state_dict().items())


def test_a_shared_parameter_may_be_masked_by_either_name() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    for name in ("0.weight", "1.weight"):
        ((parameter, _),) = masked_parameters(nn.Sequential(first, second), {name: torch.ones(3, 3)})
        assert parameter is first.weight


@pytest.mark.parametrize(
    ("name", "mask", "text"),
    [
        ("0.wait", torch.ones(1), "masks name '0.wait', which is no parameter of the network"),
        (
            "1.running_mean",
            torch.ones(3),
            "masks name '1.running_mean', which is no parameter of the network",
        ),
        ("0.bias", torch.ones(5), "the mask of '0.bias' is (5,), the parameter (3,)"),
        ("0.bias", torch.ones(3, 1), "the mask of '0.bias' is (3, 1), the parameter (3,)"),
        ("0.bias", torch.full((3,), 0.5), "the mask of '0.bias' has entries other than 0 and 1"),
        ("0.bias", torch.full((3,), -1), "the mask of '0.bias' has entries other than 0 and 1"),
        ("0.bias", torch.full((3,), math.nan), "the mask of '0.bias' has entries other than 0 and 1"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_before_anything_is_zeroed(
    name: str, mask: Tensor, text: str
) -> None:
    net = network()
    with pytest.raises(InputError, match=f"^{re.escape(f'fine_tune: {text}')}$"):
        masked_parameters(net, {"3.bias": torch.zeros(2), name: mask})
    assert all(torch.equal(value, weights(network())[key]) for key, value in net.state_dict().items())
