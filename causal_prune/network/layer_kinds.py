"""Kinds of layers: which types are convolutions, norms and mixers, how wide they are, what they compute."""

from typing import Literal

from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

Convolution = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

InstanceNorm = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)

MIXING = (*Convolution, nn.Linear)

# Kinds of layers, and the attributes that hold their filters (or carried channels) and their inputs.
WIDTHS: tuple[tuple[tuple[type[nn.Module], ...], str, str], ...] = (
    (Convolution, "out_channels", "in_channels"),
    ((nn.Linear,), "out_features", "in_features"),
    ((*BatchNorm, *InstanceNorm), "num_features", ""),
    ((nn.GroupNorm,), "num_channels", ""),
    ((nn.PReLU,), "num_parameters", ""),
)

CARRYING = (*BatchNorm, *InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.PReLU)

Kind = Literal["conv", "linear", "norm", "prelu"]

Grouping = Literal["dense", "blocks", "positions"]
"""How a grouped convolution is cut: whole blocks with their filters, or the same positions in every block."""


def computes_what_its_type_says(module: nn.Module) -> bool:
    """Whether a module is a known layer.

    Args:
        module: Any module.

    Returns:
        False for other modules, and for subclasses with a forward of their own.
    """
    return any(
        isinstance(module, known) and type(module).forward is known.forward for known in (*MIXING, *CARRYING)
    )


def computes_its_weight(module: nn.Module) -> bool:
    """Whether hooks compute a module's weight before it runs: weight norm and spectral norm of the old style.

    Args:
        module: Any module.

    Returns:
        False also where parametrizations compute the weight.
    """
    return any(isinstance(hook, WeightNorm | SpectralNorm) for hook in module._forward_pre_hooks.values())


def widths_of(module: nn.Module) -> tuple[int, int]:
    """How wide a layer is.

    Args:
        module: Any module.

    Returns:
        Filters, or the channels that it carries, and input channels; 0 where there is nothing of the kind.
    """
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1], 0
    for kinds, filters, inputs in WIDTHS:
        if isinstance(module, kinds):
            return int(getattr(module, filters)), int(getattr(module, inputs)) if inputs else 0
    return 0, 0
