"""Channels that are picked, or put back as zeros, at the border of a module."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from causal_prune.surgery.adapters import ChannelAdapter, attach
from causal_prune.surgery.cuts import AdapterCut

X = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))


def cut(
    form: Literal["pick", "restore"],
    *,
    side: Literal["in", "out"] = "in",
    leaf: int = 0,
    dim: int = 1,
    keep: tuple[int, ...] = (0, 3, 4),
) -> AdapterCut:
    return AdapterCut("block", side, leaf, dim, form, keep, 5)


@pytest.mark.parametrize("keep", [(0, 3, 4), (2,), (0, 1, 2, 3, 4)])
def test_restored_channels_stand_in_their_places_and_zeros_where_channels_are_gone(
    keep: tuple[int, ...],
) -> None:
    expected = torch.zeros_like(X)
    for channel in keep:
        expected[:, channel] = X[:, channel]
    smaller = X[:, list(keep)]
    assert torch.equal(ChannelAdapter(cut("restore", keep=keep)).adapt(smaller), expected)
    assert torch.equal(ChannelAdapter(cut("pick", keep=keep)).adapt(expected), smaller)


def test_other_dimensions_can_hold_the_channels() -> None:
    last = X.transpose(1, 2)
    picked = ChannelAdapter(cut("pick", dim=2)).adapt(last)
    assert torch.equal(picked, last[:, :, [0, 3, 4]])
    assert torch.equal(
        ChannelAdapter(cut("restore", dim=2)).adapt(picked)[:, :, [1, 2]], torch.zeros(2, 3, 2)
    )


def test_one_leaf_of_a_nesting_is_adapted_and_the_nesting_stays() -> None:
    inner = {"b": [X, 7], "a": X + 1}
    tree = (inner, None, X + 2)
    found = ChannelAdapter(cut("pick", leaf=2)).adapt(tree)  # leaves are counted as they stand there
    assert found[0]["b"][0] is X and found[0]["b"][1] == 7 and found[1] is None and found[2] is tree[2]
    assert torch.equal(found[0]["a"], X[:, [0, 3, 4]] + 1)
    assert isinstance(inner["a"], Tensor) and torch.equal(inner["a"], X + 1), "what was given stays as it is"


class Block(nn.Module):
    """Takes two tensors and returns what it was given."""

    def forward(self, x: Tensor, *, gate: Tensor) -> Any:
        return {"x": x, "gate": gate}


def test_arguments_are_adapted_before_a_module_runs_and_results_behind_it() -> None:
    block = Block()
    attach(block, cut("pick", leaf=1))  # the first keyword argument
    attach(block, cut("restore", side="out", leaf=1))
    found = block(X, gate=X + 1)
    assert torch.equal(found["x"], X)
    gone = torch.tensor([1, 2])
    assert torch.equal(found["gate"], (X + 1).index_fill(1, gone, 0.0))


def test_gradients_pass_through_the_channels_that_stay() -> None:
    leaf = X.clone().requires_grad_()
    ChannelAdapter(cut("restore")).adapt(ChannelAdapter(cut("pick")).adapt(leaf)).sum().backward()
    expected = torch.zeros_like(X)
    expected[:, [0, 3, 4]] = 1
    assert leaf.grad is not None and torch.equal(leaf.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_the_type_of_the_numbers_stays(dtype: torch.dtype) -> None:
    found = ChannelAdapter(cut("restore")).adapt(torch.ones(2, 3, dtype=dtype))
    assert found.dtype == dtype and found[0].tolist() == [1, 0, 0, 1, 1]
