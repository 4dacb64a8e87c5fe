"""Removal: cuts made layer by layer, on a copy; the only room that knows torch-pruning."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
import torch_pruning as tp
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.computed_weights import plain_weight, unmask
from causal_prune.network.layer_kinds import BatchNorm, Convolution, InstanceNorm
from causal_prune.network.running import copied
from causal_prune.surgery.adapters import attach
from causal_prune.surgery.constant_folding import fold_constants
from causal_prune.surgery.cuts import Cuts, LayerCut, ParameterCut, check_width
from causal_prune.surgery.lineage import record_cuts, stages_of
from causal_prune.surgery.pruning_groups import prune_through
from causal_prune.surgery.pruning_plan import PruningPlan

Pruner: TypeAlias = Callable[[Any, list[int]], object]


def cut_network(model: nn.Module, cuts: Cuts) -> nn.Module:
    """Cut a copy of a network.

    The cut itself is torch-pruning's (`prune_conv_out_channels` and its relatives); what those do not cover
    (grouped convolutions, bare parameters, adapters) is cut here. Weight norm is taken off and put on again. Spectral
    norm is taken off where a layer is cut: dividing by the norm of the smaller weight would change its function.

    Args:
        model: The dense network; it is not changed.
        cuts: From `FilterGraph.cuts`.

    Returns:
        A smaller copy in the same mode; `requires_grad` flags and tied weights stay, masks of `torch.nn.utils.prune`
        are part of its weights.

    Raises:
        InputError: If a layer is missing or has another width than the cuts say.
    """
    smaller = copied(model)
    modules = dict(smaller.named_modules())
    trainable = {name: parameter.requires_grad for name, parameter in smaller.named_parameters()}
    tied = list(_tied(smaller))
    unmask(smaller)
    for name, cut in cuts.layers.items():
        check_width(modules, name, cut)
        with plain_weight(modules[name]):
            if name in cuts.folds:
                fold_constants(modules[name], cuts.folds[name])
            if not cuts.roots:
                _cut_layer(modules[name], cut)
    if cuts.roots:
        prune_through(smaller, cuts)
    for name, parameter_cut in () if cuts.roots else cuts.parameters.items():
        _cut_parameter(smaller, name, parameter_cut)
    for first, *others in tied:
        for other in others:
            _assign(smaller, other, smaller.get_parameter(first))
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trainable.get(name, True))
    for adapter in cuts.adapters:
        attach(modules[adapter.module], adapter)
    return smaller


def _cut_layer(module: nn.Module, cut: LayerCut) -> None:
    if cut.grouping != "dense":
        _cut_grouped(module, cut)
        return
    by_filters, by_inputs = next(
        (filters, inputs) for kinds, filters, inputs in PRUNERS if isinstance(module, kinds)
    )
    if cut.keep_filters is not None:
        by_filters(module, sorted(set(range(cut.filters)) - set(cut.keep_filters)))
    if cut.keep_inputs is not None and by_inputs is not None:
        by_inputs(module, sorted(set(range(cut.inputs)) - set(cut.keep_inputs)))


def _prune_instance_norm(module: nn.Module, dropped: list[int]) -> None:
    # torch-pruning leaves the running statistics of an instance norm at their old width
    assert isinstance(module, InstanceNorm)
    kept = sorted(set(range(module.num_features)) - set(dropped))
    for label in ("weight", "bias", "running_mean", "running_var"):
        _keep(module, label, 0, kept)
    module.num_features = len(kept)


def _prune_layer_norm(module: nn.Module, dropped: list[int]) -> None:
    # torch-pruning sorts nothing and keeps the set's order here, which is not ascending for wide layers
    assert isinstance(module, nn.LayerNorm)
    kept = sorted(set(range(module.normalized_shape[-1])) - set(dropped))
    for label in ("weight", "bias"):
        _keep(module, label, 0, kept)
    module.normalized_shape = (len(kept),)


# Kinds of layers, and what drops filters (or carried channels) and inputs of one, given the indices that go.
PRUNERS: tuple[tuple[tuple[type[nn.Module], ...], Pruner, Pruner | None], ...] = (
    (Convolution, tp.prune_conv_out_channels, tp.prune_conv_in_channels),
    ((nn.Linear,), tp.prune_linear_out_channels, tp.prune_linear_in_channels),
    (BatchNorm, tp.prune_batchnorm_out_channels, None),
    (InstanceNorm, _prune_instance_norm, None),
    ((nn.LayerNorm,), _prune_layer_norm, None),
    ((nn.GroupNorm,), tp.prune_groupnorm_out_channels, None),
    ((nn.PReLU,), tp.prune_prelu_out_channels, None),
)


def _cut_grouped(module: nn.Module, cut: LayerCut) -> None:
    filters = list(cut.keep_filters if cut.keep_filters is not None else range(cut.filters))
    inputs = list(cut.keep_inputs if cut.keep_inputs is not None else range(cut.inputs))
    if isinstance(module, nn.GroupNorm):
        per_group = module.num_channels // module.num_groups
        for label in ("weight", "bias"):
            _keep(module, label, 0, filters)
        module.num_channels = len(filters)
        if cut.grouping == "blocks":
            module.num_groups = len(filters) // per_group
        return
    assert isinstance(module, Convolution)
    groups = module.groups
    outside, inside = cut.filters // groups, cut.inputs // groups
    positions = [p for p in inputs if p < inside] if cut.grouping == "positions" else list(range(inside))
    if module.transposed:
        columns = [f for f in filters if f < outside] if cut.grouping == "positions" else list(range(outside))
        _keep(module, "weight", 0, inputs)
        _keep(module, "weight", 1, columns)
    else:
        _keep(module, "weight", 0, filters)
        _keep(module, "weight", 1, positions)
    _keep(module, "bias", 0, filters)
    module.out_channels, module.in_channels = len(filters), len(inputs)
    if cut.grouping == "blocks":
        module.groups = len(inputs) // inside


def _keep(module: nn.Module, label: str, dim: int, kept: list[int]) -> None:
    tensor = getattr(module, label, None)
    if isinstance(tensor, Tensor):
        chosen = tensor.detach().index_select(dim, torch.tensor(kept, device=tensor.device))
        setattr(module, label, nn.Parameter(chosen) if isinstance(tensor, nn.Parameter) else chosen)


def _cut_parameter(model: nn.Module, name: str, cut: ParameterCut) -> None:
    path, _, label = name.rpartition(".")
    owner = model.get_submodule(path)
    tensor = getattr(owner, label)
    if tensor.shape[cut.dim] != cut.size:
        raise InputError(
            f"the plan was made for another network: {name} has {tensor.shape[cut.dim]} channels, "
            f"the plan says {cut.size}"
        )
    _keep(owner, label, cut.dim, list(cut.keep))


def _tied(model: nn.Module) -> Iterator[list[str]]:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    yield from (names for names in owners.values() if len(names) > 1)


def _assign(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    path, _, label = name.rpartition(".")
    setattr(model.get_submodule(path), label, parameter)


@undisturbed
def remove(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """Cut the units that a plan drops out of every layer that makes, carries or reads them.

    Args:
        model: The network that the plan was made for, or one that it was cut from; it is not changed.
        plan: From `plan`.

    Returns:
        A smaller copy, which knows all cuts that led to it, in the same mode and on the same device; `requires_grad`
        flags and tied weights stay.

    Raises:
        InputError: If a layer of the plan is missing or has another width in `model`.

    Example:
        >>> import torch, causal_prune as cp
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> graph = cp.trace(net, torch.zeros(1, 3, 9, 9))
        >>> half = cp.plan(graph, cp.score(graph, cp.observe(net, graph, [torch.rand(8, 3, 9, 9)])), keep_macs=0.5)
        >>> cp.remove(net, half)[0].out_channels
        4
    """
    before = stages_of(model)
    missing = plan.earlier[len(before) :] if plan.earlier[: len(before)] == before else ()
    for stage in missing:  # the plan was made for a network that had been cut before
        model = cut_network(model, stage.cuts) if stage.removes else model
    return record_cuts(cut_network(model, plan.cuts), plan.cuts, (*before, *missing))
