"""What a batch may be, and how a network is run without leaving a trace on it or on the random state."""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from causal_prune.errors import InputError

Inputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]


def inputs_of(batch: Any) -> Inputs:
    """The network's inputs in a batch of a loader.

    Args:
        batch: A tensor, a mapping of tensors, or a tuple or list whose first entry holds the inputs (a tensor,
            a tuple or a mapping) and whose further entries are labels.

    Returns:
        The inputs alone.

    Raises:
        InputError: If the batch is none of these.
    """
    inputs = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(inputs, Tensor | tuple | list | Mapping) or not tensors_in(inputs):
        raise InputError(
            f"a batch is a {type(batch).__name__} without inputs: "
            "give tensors, (inputs, labels), or mappings of tensors"
        )
    return inputs


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor inside nested tuples, lists and mappings, in order.

    Args:
        value: A network's inputs or outputs; entries that are no tensors are passed over.

    Returns:
        The tensors, not copied.
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for entry in value.values() for tensor in tensors_in(entry)]
    if isinstance(value, tuple | list):
        return [tensor for entry in value for tensor in tensors_in(entry)]
    return []


def on_device(inputs: Any, device: torch.device | str) -> Any:
    """The same inputs on another device.

    Args:
        inputs: What `inputs_of` returned.
        device: Where the tensors shall be.

    Returns:
        The same structure; a tensor that is there already is not copied.
    """
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {key: on_device(entry, device) for key, entry in inputs.items()}
    if isinstance(inputs, tuple | list):
        return tuple(on_device(entry, device) for entry in inputs)
    return inputs


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a network on one batch of inputs.

    Args:
        model: The network.
        inputs: A tensor, a tuple of positional arguments or a mapping of keyword arguments.

    Returns:
        Whatever the network returns.
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def attempt(who: str, model: nn.Module, inputs: Inputs, number: int) -> Any:
    """Run a network on a batch, and say where it fails.

    Args:
        who: What is asked, and of which network.
        model: The network.
        inputs: One batch.
        number: Which batch of the calibration set, from 1.

    Returns:
        What it returns.

    Raises:
        InputError: If it does not accept the batch.
    """
    try:
        return call(model, inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = [tuple(tensor.shape) for tensor in tensors_in(inputs)]
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{who} does not accept batch {number} of calibration, {shapes}: {reason}"
        ) from error


def device_of(model: nn.Module) -> torch.device:
    """The device of a network's first parameter or buffer; the CPU where it has none.

    Args:
        model: The network.

    Returns:
        The device.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of a network, also where a hook (weight norm, spectral norm) has left a computed weight behind.

    Args:
        model: The network.

    Returns:
        The copy; it shares no tensor with `model`.
    """
    computed = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Tensor) and value.grad_fn is not None
    ]
    try:
        for module, name, value in computed:
            setattr(module, name, value.detach())  # deepcopy refuses tensors with a history
        return copy.deepcopy(model)
    finally:
        for module, name, value in computed:
            setattr(module, name, value)


def fill(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state dict from a file that does not keep the versions of modules, as safetensors files do not.

    Some modules (torchvision's MNASNet) refuse a state dict without them; for these the values are taken to be of the
    versions that `model` has. Others fill in what old versions lacked.

    Args:
        model: The network; it is changed.
        state: Its state dict.

    Raises:
        RuntimeError: If keys or shapes differ.
    """
    try:
        model.load_state_dict(state)
    except ValueError:
        complete = OrderedDict(state)
        complete._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
        model.load_state_dict(complete)


def train_without_statistics(model: nn.Module) -> None:
    """Put a network into training mode, but for what is random or depends on the batch.

    Heads that run only in training run then, while batch norm and dropout compute what they compute in eval mode.

    Args:
        model: The network; its modes change.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm | _DropoutNd):
            module.eval()


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Give every module of a network its train or eval mode back at the end of the block.

    Args:
        model: The network; its modules may be in different modes.

    Yields:
        Nothing.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def seeded(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed torch's generators of the CPU and of `device` inside the block, and restore them after it.

    Args:
        seed: The seed.
        device: The device that computes in the block.

    Yields:
        Nothing.
    """
    where = torch.device(device)
    cuda = (
        [torch.cuda.current_device() if where.index is None else where.index] if where.type == "cuda" else []
    )
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(
            seed
        )  # torch.manual_seed would also seed devices not restored here
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def images_in(inputs: Any) -> int:
    """Number of images of a batch.

    Args:
        inputs: What `inputs_of` returned.

    Returns:
        The length that all its tensors share; 1 where they share none.
    """
    sizes = {len(leaf) for leaf in tree_flatten(inputs)[0] if isinstance(leaf, Tensor) and leaf.dim()}
    return sizes.pop() if len(sizes) == 1 else 1


def part_of(inputs: Any, images: slice | Tensor, total: int | None = None) -> Any:
    """Some images of a batch.

    Args:
        inputs: What `inputs_of` returned.
        images: A slice, positions, or one truth value per image.
        total: Images of the batch; None for the length that all its tensors share.

    Returns:
        The same structure; tensors of another length than `total` are no rows of images and stay whole.
    """
    size = images_in(inputs) if total is None else total

    def some(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0 or len(leaf) != size:
            return leaf
        return leaf[images.to(leaf.device) if isinstance(images, Tensor) else images]

    return tree_map(some, inputs)


def joined_batches(parts: Sequence[Any]) -> Sequence[Any]:
    """Batches as one.

    Args:
        parts: Batches of one structure, at least one.

    Returns:
        One batch of all images; `parts` where images of different shapes cannot stand in one.
    """
    leaves = [tree_flatten(part)[0] for part in parts]
    form = tree_flatten(parts[0])[1]
    if any(
        isinstance(a, Tensor) and a.shape[1:] != b.shape[1:]
        for other in leaves[1:]
        for a, b in zip(leaves[0], other, strict=True)
    ):
        return parts
    joined = [
        torch.cat(column) if isinstance(column[0], Tensor) else column[0]
        for column in zip(*leaves, strict=True)
    ]
    return [tree_unflatten(joined, form)]
