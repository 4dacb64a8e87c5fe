"""Zero or remove the units that a plan names, and rebuild a removed network from its factory, plan and weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from causal_prune.cut_record import record_cuts
from causal_prune.errors import InputError
from causal_prune.network.running import copied, fill
from causal_prune.pruning_plan import PruningPlan
from causal_prune.surgery import cut_network, silence_network, silencing_masks


def remove(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """Cut the units that a plan drops out of every layer that makes, carries or reads them.

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
    return record_cuts(cut_network(model, plan.cuts), plan.cuts)


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
        InputError: If a layer of the plan is missing or has another width in `model`.
    """
    return record_cuts(silence_network(model, plan.cuts, where=where), plan.cuts)


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
    return silencing_masks(model, plan.cuts, where=where)


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
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise InputError(f"{weights}: is no readable safetensors file ({error})") from error
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    zeroed = all(name in state and state[name].shape == shape for name, shape in shapes.items())
    smaller = copied(network) if zeroed else remove(network, plan)
    try:
        fill(smaller, state)
    except RuntimeError as error:
        second = str(error).strip().splitlines()
        raise InputError(f"{weights}: does not fit the factory's network ({second[-1].strip()})") from error
    return smaller.eval()
