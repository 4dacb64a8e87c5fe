"""Layers whose weight is computed from other parameters (weight norm, spectral norm): plain for the time of a cut."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from causal_prune.network.layer_kinds import MIXING
from causal_prune.network.layer_twins import bake, makes_its_weight, weight_in_use


def unmask(model: nn.Module) -> nn.Module:
    """Make the masks of `torch.nn.utils.prune` part of the weights that they mask for good.

    Args:
        model: A copied network.

    Returns:
        The same network.
    """
    for module in model.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)
    return model


@contextmanager
def plain_weight(module: nn.Module) -> Iterator[None]:
    """Give a layer a plain weight inside the block; weight norm is put on again after it.

    Weight norm g v / ||v|| of the weight that is left is that weight exactly, with ||v|| = g. Spectral norm and other
    computed weights stay plain: their function of the smaller weight would be another one. So do subclasses whose
    forward makes the weight: they become the plain layers that they are (see `layer_twins`).

    Args:
        module: A layer of a copied network.

    Yields:
        Nothing.
    """
    again = take_off(module)
    yield
    for old_style, name, dim in again:
        if old_style:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # the network uses the old style, so it keeps it
                with torch.no_grad():  # a weight that hangs on a graph could not be copied
                    WeightNorm.apply(module, name, dim)
        else:
            parametrizations.weight_norm(module, name, dim)


@contextmanager
def without_weight_norm(model: nn.Module) -> Iterator[None]:
    """Give all layers with weight norm plain weights inside the block, which may be changed.

    Args:
        model: A copied network.

    Yields:
        Nothing.
    """
    with ExitStack() as stack:
        for module in list(model.modules()):
            if isinstance(module, MIXING) and _has_weight_norm_alone(module):
                stack.enter_context(plain_weight(module))
        yield


def _has_weight_norm_alone(module: nn.Module) -> bool:
    if parametrize.is_parametrized(module):
        chains = dict(cast(nn.ModuleDict, module.parametrizations).items())
        return all(
            len(parts := list(cast(nn.ModuleList, chain))) == 1 and isinstance(parts[0], _WeightNorm)
            for chain in chains.values()
        )
    hooks = list(module._forward_pre_hooks.values())
    return any(isinstance(hook, WeightNorm) for hook in hooks) and not any(
        isinstance(hook, SpectralNorm) for hook in hooks
    )


def take_off(module: nn.Module) -> list[tuple[bool, str, int]]:
    """Give a layer a plain weight for good.

    Args:
        module: A layer of a copied network.

    Returns:
        The weight norms that were taken off: whether it was of the old style, the weight's name, the dimension.
    """
    if makes_its_weight(module):
        used = weight_in_use(module)
        assert used is not None
        bake(module, used)
    training = module.training
    module.eval()  # spectral norm moves its vectors when it is read in training
    try:
        return [*_take_off_parametrizations(module), *_take_off_hooks(module)]
    finally:
        module.train(training)


def _take_off_parametrizations(module: nn.Module) -> Iterator[tuple[bool, str, int]]:
    if not parametrize.is_parametrized(module):
        return
    kind = type(module)
    # torch deletes the weight from the class, which a copy shares with its original
    module.__class__ = type(kind.__name__, kind.__bases__, dict(kind.__dict__))
    chains = dict(cast(nn.ModuleDict, module.parametrizations).items())
    for name, chain in chains.items():
        parts = list(cast(nn.ModuleList, chain))
        with torch.enable_grad():  # without gradients torch would leave a tensor that is no parameter
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        if len(parts) == 1 and isinstance(parts[0], _WeightNorm):
            yield False, name, parts[0].dim


def _take_off_hooks(module: nn.Module) -> Iterator[tuple[bool, str, int]]:
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
            yield True, hook.name, hook.dim
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
            _forget_state_dict_hook(module)


def _forget_state_dict_hook(module: nn.Module) -> None:
    # torch leaves it behind, and it would look for the vectors that are gone
    hooks = module._load_state_dict_pre_hooks
    for key, wrapped in list(hooks.items()):
        if isinstance(getattr(wrapped, "hook", None), SpectralNormLoadStateDictPreHook):
            del hooks[key]
