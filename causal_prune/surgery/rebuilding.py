"""A compressed network rebuilt from its factory, its plan and its weights, without unpickling anything."""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from causal_prune.errors import InputError
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import copied, fill
from causal_prune.surgery.lineage import record_cuts
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.removal import cut_network


@undisturbed
def load(folder: str | Path, factory: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild the compressed network of a bundle, bit for bit and without unpickling anything.

    Args:
        folder: A bundle: it holds `plan.json` and `model.safetensors`.
        factory: Makes the first dense network, with any weights.

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
    for stage in plan.earlier:
        network = cut_network(network, stage.cuts) if stage.removes else network
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    zeroed = all(name in state and state[name].shape == shape for name, shape in shapes.items())
    smaller = copied(network) if zeroed else cut_network(network, plan.cuts)
    record_cuts(smaller, plan.cuts, plan.earlier, removes=not zeroed)
    try:
        fill(smaller, state)
    except RuntimeError as error:
        second = str(error).strip().splitlines()
        raise InputError(f"{weights}: does not fit the factory's network ({second[-1].strip()})") from error
    return smaller.eval()


def bundle_weights(model: nn.Module, path: Path) -> None:
    """Write the weights of a network as safetensors, tied ones once per name.

    Args:
        model: The network.
        path: The file.
    """
    from safetensors.torch import save

    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    path.write_bytes(save(state))  # save_file would hide it from other users
