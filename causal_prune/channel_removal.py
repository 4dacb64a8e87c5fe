"""Zero or remove the units that a plan names, and rebuild a removed network from its factory, plan and weights."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch_pruning as tp
from safetensors.torch import load_file
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.layer_rules import MIXING, BatchNorm, Convolution, InstanceNorm
from causal_prune.pruning_plan import LayerCut, ParameterCut, PruningPlan


def remove(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """Cut the units that a plan drops out of every layer that makes, carries or reads them.

    The cut itself is torch-pruning's (`prune_conv_out_channels` and its relatives); what those do not cover
    (grouped convolutions, transposed ones with groups, bare parameters) is cut here.

    Args:
        model: The dense network that the plan was made for; it is not changed.
        plan: From `plan`.

    Returns:
        A smaller copy, in the same mode and on the same device; `requires_grad` flags and tied weights stay.

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
    smaller = copy.deepcopy(model)
    modules = dict(smaller.named_modules())
    trainable = {name: parameter.requires_grad for name, parameter in smaller.named_parameters()}
    tied = list(_tied(smaller))
    for name, cut in plan.layers.items():
        _check_width(modules, name, cut)
        _cut_layer(modules[name], cut)
    for name, parameter_cut in plan.parameters.items():
        _cut_parameter(smaller, name, parameter_cut)
    for first, *others in tied:
        for other in others:
            _assign(smaller, other, smaller.get_parameter(first))
    for name, parameter in smaller.named_parameters():
        parameter.requires_grad_(trainable[name])
    return smaller


def zero(
    model: nn.Module, plan: PruningPlan, *, where: Literal["filters", "consumers"] = "filters"
) -> nn.Module:
    """Silence the units that a plan drops and leave all shapes as they are: the documented method.

    Args:
        model: The dense network; it is not changed.
        plan: From `plan`.
        where: "filters" sets the weights and biases of the dropped filters to 0, as documented; what follows
            still emits a constant through its batch norm (b - g * mean / sigma). "consumers" sets the weights
            that read the dropped channels to 0, which computes exactly what `remove` computes.

    Returns:
        A copy of the same shapes.

    Raises:
        InputError: If a layer of the plan is missing or has another width in `model`.
    """
    silenced = copy.deepcopy(model)
    parameters = dict(silenced.named_parameters())
    with torch.no_grad():
        for name, mask in zero_masks(model, plan, where=where).items():
            parameters[name].mul_(mask)
    return silenced


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
    modules = dict(model.named_modules())
    masks: dict[str, Tensor] = {}
    for name, cut in plan.layers.items():
        _check_width(modules, name, cut)
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
                masks[f"{name}.{label}"] = _mask(module, parameter, label, kept, where, cut)
    return masks


def load(folder: str | Path, factory: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild the compressed network of a bundle, bit for bit and without unpickling anything.

    Args:
        folder: A bundle: it holds `plan.json` and `model.safetensors`.
        factory: Makes the dense network, with any weights.

    Returns:
        The compressed network in eval mode.

    Raises:
        InputError: If the bundle lacks a file, or the factory makes a network that the plan does not fit.

    Example:
        ``net = cp.load("export/digits", lambda: small_resnet())``
    """
    folder = Path(folder)
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{folder}: there is no model.safetensors; give the folder of a bundle")
    network = factory()
    plan = PruningPlan.load(folder / "plan.json")
    state = load_file(weights)
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    zeroed = all(name in state and state[name].shape == shape for name, shape in shapes.items())
    smaller = copy.deepcopy(network) if zeroed else remove(network, plan)
    try:
        smaller.load_state_dict(state)
    except RuntimeError as error:
        second = str(error).strip().splitlines()
        raise InputError(f"{weights}: does not fit the factory's network ({second[-1].strip()})") from error
    return smaller.eval()


def _check_width(modules: Mapping[str, nn.Module], name: str, cut: LayerCut) -> None:
    module = modules.get(name)
    if module is None:
        raise InputError(f"the plan names the layer {name!r}, which the model does not have")
    found = _widths(module)
    if found != (cut.filters, cut.inputs):
        raise InputError(
            f"the plan was made for another network: {name} has {found[0]} filters and {found[1]} "
            f"inputs, the plan says {cut.filters} and {cut.inputs}"
        )


def _widths(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Convolution):
        return module.out_channels, module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, nn.GroupNorm):
        return module.num_channels, 0
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1], 0
    if isinstance(module, nn.PReLU):
        return module.num_parameters, 0
    return int(getattr(module, "num_features", 0)), 0


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
