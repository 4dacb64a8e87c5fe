"""Masks: entries of parameters that are held at 0 while a network is trained."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError


def masked_parameters(tuned: nn.Module, masks: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pair each mask with its parameter, and zero what it forbids.

    Args:
        tuned: The network; its masked entries become 0.
        masks: 0/1 tensors by parameter name.

    Returns:
        (parameter, boolean tensor that is true where the parameter stays 0).

    Raises:
        InputError: If a name, a shape or a value does not fit.
    """
    parameters = dict(tuned.named_parameters(remove_duplicate=False))
    pairs: list[tuple[Tensor, Tensor]] = []
    for name, mask in masks.items():
        if name not in parameters:
            raise InputError(f"fine_tune: masks name {name!r}, which is no parameter of the network")
        if mask.shape != parameters[name].shape:
            raise InputError(
                f"fine_tune: the mask of {name!r} is {tuple(mask.shape)}, "
                f"the parameter {tuple(parameters[name].shape)}"
            )
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError(f"fine_tune: the mask of {name!r} has entries other than 0 and 1")
        pairs.append((parameters[name], mask.to(parameters[name].device) == 0))
    hold(pairs)
    return pairs


def hold(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Put back to 0 what masks forbid.

    Args:
        pairs: From `masked_parameters`; the parameters are changed in place.
    """
    with torch.no_grad():
        for parameter, zero in pairs:
            parameter.masked_fill_(zero, 0.0)
