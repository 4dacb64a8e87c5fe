"""Silencing: what a cut would remove is held at 0 in a copy of the same shapes."""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.computed_weights import take_off, unmask
from causal_prune.network.layer_kinds import MIXING
from causal_prune.network.running import copied, modes_kept
from causal_prune.surgery.cuts import Cuts, LayerCut, check_width
from causal_prune.surgery.lineage import record_cuts, stages_of
from causal_prune.surgery.pruning_plan import PruningPlan


def silence_network(model: nn.Module, cuts: Cuts, *, where: Literal["filters", "consumers"]) -> nn.Module:
    """Silence what a cut would remove, in a copy of the same shapes.

    Args:
        model: The dense network; it is not changed.
        cuts: From `FilterGraph.cuts`.
        where: As in `silencing_masks`.

    Returns:
        A copy; layers of the cuts whose weight was computed (weight norm, spectral norm) have a plain one.

    Raises:
        InputError: If a layer is missing or has another width than the cuts say.
    """
    silenced = unmask(copied(model))
    modules = dict(silenced.named_modules())
    masks = silencing_masks(model, cuts, where=where)
    for name in cuts.layers:
        take_off(modules[name])
    parameters = {**dict(silenced.named_parameters()), **dict(silenced.named_buffers())}
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].mul_(mask)
    return silenced


def silencing_masks(
    model: nn.Module, cuts: Cuts, *, where: Literal["filters", "consumers"]
) -> dict[str, Tensor]:
    """The weights that silence what a cut would remove.

    Args:
        model: The dense network.
        cuts: From `FilterGraph.cuts`.
        where: "filters" for the weights and biases that make the channels, "consumers" for the weights that read them.

    Returns:
        By parameter name a tensor of its shape, to be read alone, that is 0 where it is silenced and 1 elsewhere.

    Raises:
        InputError: If a layer is missing or has another width than the cuts say.
    """
    modules = dict(model.named_modules())
    with modes_kept(model):
        model.eval()  # spectral norm moves its vectors when it is read in training
        return _masks(model, modules, cuts, where)


def _masks(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    cuts: Cuts,
    where: Literal["filters", "consumers"],
) -> dict[str, Tensor]:
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}  # of tied ones
    masks: dict[str, Tensor] = {}
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, parameter_cut in cuts.parameters.items() if where == "consumers" else ():
        if parameter_cut.reads:
            tensor = own[name]
            line = torch.zeros(parameter_cut.size, dtype=tensor.dtype, device=tensor.device)
            line[list(parameter_cut.keep)] = 1
            shape = [1] * tensor.dim()
            shape[parameter_cut.dim] = -1
            masks[name] = line.reshape(shape).expand_as(tensor)
    for name, cut in cuts.layers.items():
        check_width(modules, name, cut)
        module = modules[name]
        kept = cut.keep_filters if where == "filters" else cut.keep_inputs
        if (
            not isinstance(module, MIXING)
            or kept is None
            or (where == "consumers" and cut.grouping == "blocks")
        ):
            continue
        for label in ("weight", "bias") if where == "filters" else ("weight",):
            parameter = getattr(module, label)
            if parameter is not None:
                known_as = first_names.get(id(parameter), f"{name}.{label}")
                mask = _mask(module, parameter, label, kept, where, cut)
                masks[known_as] = masks[known_as] * mask if known_as in masks else mask
    return masks


def _mask(
    module: nn.Module,
    parameter: Tensor,
    label: str,
    kept: Iterable[int],
    where: Literal["filters", "consumers"],
    cut: LayerCut,
) -> Tensor:
    extent, groups = (cut.filters, cut.inputs)[where == "consumers"], int(getattr(module, "groups", 1))
    line = torch.zeros(extent, dtype=parameter.dtype, device=parameter.device)
    line[list(kept)] = 1
    rows = label == "bias" or (where == "filters") != bool(getattr(module, "transposed", False))
    shape = [1] * parameter.dim()
    shape[0 if rows else 1] = -1
    if len(line) == parameter.shape[0 if rows else 1]:
        return line.reshape(shape).expand_as(parameter)
    blocks = line.reshape(groups, -1)  # the second dimension of a grouped weight is one group's alone
    blocks = blocks.repeat_interleave(parameter.shape[0] // groups, dim=0)
    return blocks.reshape(*blocks.shape, *shape[2:]).expand_as(parameter)


@undisturbed
def zero(
    model: nn.Module, plan: PruningPlan, *, where: Literal["filters", "consumers"] = "filters"
) -> nn.Module:
    """Silence the units that a plan drops and leave all shapes as they are: the documented method.

    Args:
        model: The dense network; it is not changed.
        plan: From `plan`.
        where: "filters" sets the weights and biases of the dropped filters to 0, as documented; what follows
            still emits a constant through its batch norm (b - g * mean / sigma). "consumers" sets the weights
            that read the dropped channels to 0, which computes exactly what `remove` computes, unless a layer
            normalises over channels (GroupNorm, LayerNorm): those that are silent still count there.

    Returns:
        A copy of the same shapes.

    Raises:
        InputError: If a layer of the plan is missing or has another width in `model`, or the plan removes what is
            silent.
    """
    if plan.target.kind == "remove_silent":
        raise InputError("plan: its filters are silent already; `remove` lets them go")
    silenced = silence_network(model, plan.cuts, where=where)
    return record_cuts(silenced, plan.cuts, stages_of(model), removes=False)


def zero_masks(
    model: nn.Module, plan: PruningPlan, *, where: Literal["filters", "consumers"] = "filters"
) -> dict[str, Tensor]:
    """The weights that `zero` sets to 0, to be held there during fine-tuning.

    Args:
        model: The dense network.
        plan: From `plan`.
        where: As in `zero`.

    Returns:
        By parameter name a tensor of its shape that is 0 where it is silenced and 1 elsewhere.

    Raises:
        InputError: If a layer of the plan is missing or has another width in `model`.
    """
    found = silencing_masks(model, plan.cuts, where=where)
    return {name: mask.clone() for name, mask in found.items()}
