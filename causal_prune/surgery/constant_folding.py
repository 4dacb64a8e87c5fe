"""Constants that a layer reads: taken over by its bias, or by another input that is constant, too."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.layer_matrices import groups_of, matrix_of, weight_of
from causal_prune.surgery.cuts import ConstantFold


def fold_constants(module: nn.Module, fold: ConstantFold) -> None:
    """Make a layer independent of inputs that are constant: without them it computes what it computed with them.

    Into the bias, what a filter makes of a constant is the sum of its weights on that input times the constant. Into an
    input of constant d, weights on an input of constant c become c / d times as much on that one, which is exact even
    at borders that are padded with zeros.

    Args:
        module: A convolution or linear layer of a copied network, with a plain weight; a bias is added if it has none.
        fold: The inputs, and where their constants go.

    Raises:
        InputError: If the layer has fewer inputs than the fold says.
    """
    weight = cast(Tensor, module.weight).detach()
    groups = groups_of(module)
    matrix = matrix_of(module, weight).double()  # (groups, filters, inputs per group * elements)
    elements = int(weight[0, 0].numel())
    taps = matrix.unflatten(2, (-1, elements)).clone()
    inside = taps.shape[2]
    if max((*fold.positions, *fold.into)) >= groups * inside:
        raise InputError(f"the plan was made for another network: a layer has {groups * inside} inputs only")
    shift = torch.zeros(taps.shape[:2], dtype=torch.float64, device=weight.device)
    for position, value, into, carried in zip(
        fold.positions, fold.values, fold.into, fold.carried, strict=True
    ):
        block, place = divmod(position, inside)
        if into < 0:
            shift[block] += taps[block, :, place].sum(dim=1) * value
        else:
            taps[block, :, into % inside] += taps[block, :, place] * (value / carried)
        taps[block, :, place] = 0
    with torch.no_grad():
        cast(Any, module).weight.copy_(weight_of(module, taps.flatten(2)).to(weight.dtype))
        _shift_bias(module, shift.flatten().to(weight.dtype))


def _shift_bias(module: nn.Module, shift: Tensor) -> None:
    if not bool(shift.any()):
        return
    bias = cast(Any, module).bias
    if bias is None:
        module.bias = nn.Parameter(shift)
    else:
        bias.add_(shift)
