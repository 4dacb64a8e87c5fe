"""Cuts, and how they are made: layer by layer, on a copy."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch_pruning as tp
from torch import Tensor, nn

from causal_prune.adapters import attach
from causal_prune.errors import InputError
from causal_prune.graph_types import Adapter, FilterGraph
from causal_prune.network.computed_weights import plain_weight, take_off
from causal_prune.network.layer_kinds import MIXING, BatchNorm, Convolution, InstanceNorm, widths_of
from causal_prune.network.running import copied, modes_kept


@dataclass(frozen=True)
class LayerCut:
    """What is kept of one layer; None along an axis that is not cut.

    Attributes:
        keep_filters: Ascending indices of the filters (or carried channels) that stay.
        keep_inputs: Ascending indices of the input channels that stay.
        filters: Number of filters before.
        inputs: Number of input channels before; 0 for layers that mix nothing.
        grouping: How a grouped layer is cut (see `filter_graph.Layer`).
    """

    keep_filters: tuple[int, ...] | None
    keep_inputs: tuple[int, ...] | None
    filters: int
    inputs: int
    grouping: Literal["dense", "blocks", "positions"] = "dense"


@dataclass(frozen=True)
class ParameterCut:
    """What is kept of a parameter or buffer that belongs to no known layer.

    Attributes:
        dim: The dimension that holds the channels.
        keep: Ascending indices that stay.
        size: Extent of the dimension before.
    """

    dim: int
    keep: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class AdapterCut:
    """Channels that are picked or put back at a border of a module (see `graph_types.Adapter`).

    Attributes:
        module: Name of the module.
        side: "in" for an argument, "out" for a result.
        leaf: Position of the tensor among the leaves of the arguments or results.
        dim: Dimension of the channels.
        form: "pick" or "restore".
        keep: Ascending indices that stay.
        size: Extent of the dimension before.
    """

    module: str
    side: Literal["in", "out"]
    leaf: int
    dim: int
    form: Literal["pick", "restore"]
    keep: tuple[int, ...]
    size: int


@dataclass(frozen=True)
class Cuts:
    """All that a cut does to a network.

    Attributes:
        layers: Cuts by layer name; layers that are not cut are absent.
        parameters: Cuts of bare parameters and buffers by name.
        adapters: Channels picked or put back around functions that count them by position.
    """

    layers: Mapping[str, LayerCut]
    parameters: Mapping[str, ParameterCut]
    adapters: tuple[AdapterCut, ...] = ()


def cuts_of(graph: FilterGraph, kept: Mapping[str, Sequence[int]]) -> Cuts:
    """What keeping some units asks of every layer.

    Args:
        graph: From `trace`.
        kept: Units that stay, by prunable group.

    Returns:
        The cuts; a layer that keeps everything is not among them.
    """
    staying = {name: set(units) for name, units in kept.items()}
    dropped: dict[tuple[str, str], set[int]] = {}
    parameters: dict[str, ParameterCut] = {}
    for group in graph.prunable:
        gone = set(range(group.size)) - staying[group.name]
        for member in group.members if gone else ():
            positions = set(member.positions_of(gone))
            dropped.setdefault((member.layer, member.axis), set()).update(positions)
            if member.dim is not None:
                before = parameters.get(member.layer)
                keep = tuple(
                    p for p in (before.keep if before else range(member.extent)) if p not in positions
                )
                parameters[member.layer] = ParameterCut(member.dim, keep, member.extent)
    layers = {}
    for name, layer in graph.layers.items():
        filters = _kept(layer.filters, dropped.get((name, "out")))
        inputs = _kept(layer.inputs, dropped.get((name, "in")))
        if filters is not None or inputs is not None:
            layers[name] = LayerCut(filters, inputs, layer.filters, layer.inputs, layer.grouping)
    adapters = tuple(cut for adapter in graph.adapters if (cut := _adapter_cut(adapter, staying)) is not None)
    return Cuts(layers, parameters, adapters)


def _adapter_cut(adapter: Adapter, staying: Mapping[str, set[int]]) -> AdapterCut | None:
    keep = tuple(
        p
        for p, owner in enumerate(adapter.owners)
        if owner is None or owner[0] not in staying or owner[1] in staying[owner[0]]
    )
    size = len(adapter.owners)
    return (
        None
        if len(keep) == size
        else AdapterCut(adapter.module, adapter.side, adapter.leaf, adapter.dim, adapter.form, keep, size)
    )


def _kept(extent: int, gone: set[int] | None) -> tuple[int, ...] | None:
    return tuple(p for p in range(extent) if p not in gone) if gone else None


def cut_network(model: nn.Module, cuts: Cuts) -> nn.Module:
    """Cut a copy of a network.

    The cut itself is torch-pruning's (`prune_conv_out_channels` and its relatives); what those do not cover
    (grouped convolutions, bare parameters, adapters) is cut here. Weight norm is taken off and put on again. Spectral
    norm is taken off where a layer is cut: dividing by the norm of the smaller weight would change its function.

    Args:
        model: The dense network; it is not changed.
        cuts: From `cuts_of`.

    Returns:
        A smaller copy in the same mode; `requires_grad` flags and tied weights stay.

    Raises:
        InputError: If a layer is missing or has another width than the cuts say.
    """
    smaller = copied(model)
    modules = dict(smaller.named_modules())
    trainable = {name: parameter.requires_grad for name, parameter in smaller.named_parameters()}
    tied = list(_tied(smaller))
    for name, cut in cuts.layers.items():
        check_width(modules, name, cut)
        with plain_weight(modules[name]):
            _cut_layer(modules[name], cut)
    for name, parameter_cut in cuts.parameters.items():
        _cut_parameter(smaller, name, parameter_cut)
    for first, *others in tied:
        for other in others:
            _assign(smaller, other, smaller.get_parameter(first))
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trainable.get(name, True))
    for adapter in cuts.adapters:
        attach(modules[adapter.module], adapter)
    return smaller


def silence_network(model: nn.Module, cuts: Cuts, *, where: Literal["filters", "consumers"]) -> nn.Module:
    """Silence what a cut would remove, in a copy of the same shapes.

    Args:
        model: The dense network; it is not changed.
        cuts: From `cuts_of`.
        where: As in `silencing_masks`.

    Returns:
        A copy; layers of the cuts whose weight was computed (weight norm, spectral norm) have a plain one.

    Raises:
        InputError: If a layer is missing or has another width than the cuts say.
    """
    silenced = copied(model)
    modules = dict(silenced.named_modules())
    masks = silencing_masks(model, cuts, where=where)
    for name in cuts.layers:
        take_off(modules[name])
    parameters = dict(silenced.named_parameters())
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
        cuts: From `cuts_of`.
        where: "filters" for the weights and biases that make the channels, "consumers" for the weights that read them.

    Returns:
        By parameter name a tensor of its shape that is 0 where it is silenced and 1 elsewhere.

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


def check_width(modules: Mapping[str, nn.Module], name: str, cut: LayerCut) -> None:
    """Refuse a layer that is not as wide as a cut expects.

    Args:
        modules: The network's modules by name.
        name: The layer.
        cut: Its cut.

    Raises:
        InputError: If it is missing or has another width.
    """
    module = modules.get(name)
    if module is None:
        raise InputError(f"the plan names the layer {name!r}, which the model does not have")
    found = widths_of(module)
    if found != (cut.filters, cut.inputs):
        raise InputError(
            f"the plan was made for another network: {name} has {found[0]} filters and {found[1]} "
            f"inputs, the plan says {cut.filters} and {cut.inputs}"
        )


def _cut_layer(module: nn.Module, cut: LayerCut) -> None:
    if cut.grouping != "dense":
        _cut_grouped(module, cut)
        return
    if cut.keep_filters is not None:
        dropped = sorted(set(range(cut.filters)) - set(cut.keep_filters))
        _pruner(module, "out")(module, dropped)
    if cut.keep_inputs is not None:
        dropped = sorted(set(range(cut.inputs)) - set(cut.keep_inputs))
        _pruner(module, "in")(module, dropped)


def _pruner(module: nn.Module, axis: Literal["out", "in"]) -> Callable[[nn.Module, list[int]], Any]:
    """torch-pruning's function for one axis of one kind of layer."""
    if isinstance(module, Convolution):
        return tp.prune_conv_out_channels if axis == "out" else tp.prune_conv_in_channels  # type: ignore[no-any-return]
    if isinstance(module, nn.Linear):
        return tp.prune_linear_out_channels if axis == "out" else tp.prune_linear_in_channels  # type: ignore[no-any-return]
    if isinstance(module, BatchNorm):
        return tp.prune_batchnorm_out_channels  # type: ignore[no-any-return]
    if isinstance(module, InstanceNorm):
        return _prune_instance_norm
    if isinstance(module, nn.LayerNorm):
        return _prune_layer_norm
    if isinstance(module, nn.GroupNorm):
        return tp.prune_groupnorm_out_channels  # type: ignore[no-any-return]
    return tp.prune_prelu_out_channels  # type: ignore[no-any-return]


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
        return line.reshape(shape).expand_as(parameter).clone()
    blocks = line.reshape(groups, -1)  # the second dimension of a grouped weight is one group's alone
    blocks = blocks.repeat_interleave(parameter.shape[0] // groups, dim=0)
    return blocks.reshape(*blocks.shape, *shape[2:]).expand_as(parameter).clone()
