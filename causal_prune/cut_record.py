"""What was cut from a network, kept with it."""

from torch import nn

from causal_prune.surgery import Cuts

RECORD = "_causal_prune_cuts"
"""Attribute of a cut network that holds its cuts; copies and pickles carry it, state dicts do not."""


def record_cuts(model: nn.Module, cuts: Cuts) -> nn.Module:
    """Keep the cuts that made a network with it.

    Args:
        model: The cut network.
        cuts: What was cut, or silenced.

    Returns:
        The same network.
    """
    vars(model)[RECORD] = cuts
    return model


def recorded_cuts(model: nn.Module) -> Cuts | None:
    """The cuts that made a network.

    Args:
        model: From `remove`, `zero` or `load`, or a copy of it.

    Returns:
        The cuts; None for a network that was not made there.
    """
    cuts = vars(model).get(RECORD)
    return cuts if isinstance(cuts, Cuts) else None
