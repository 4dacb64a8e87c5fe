"""What a batch may be, and how a network is run without leaving a trace on it or on the random state."""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from causal_prune.errors import InputError, first_line
from causal_prune.network.tensor_trees import ImageList, mapped, own, tensors_in

Inputs: TypeAlias = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
IMAGE_KEYS = ("image", "images", "img", "imgs", "pixel_values", "input", "inputs", "x", "data")
"""What the images of a batch are called, where it is a mapping and the network does not name them."""
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class_id")
"""What the labels of a batch are called, where it is a mapping."""


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
    inputs = batch
    if isinstance(batch, tuple | list) and batch and not isinstance(batch, ImageList):
        inputs = batch[0]
    if not tensors_in(inputs):
        raise InputError(
            f"a batch is a {type(batch).__name__} without inputs: "
            "give tensors, (inputs, labels), or mappings of tensors"
        )
    return cast(Inputs, inputs)


def labels_in(batch: Any, place: str, form: str = "labels") -> Any:
    """The labels in a batch of a loader, whatever they are.

    Args:
        batch: A tuple or list (inputs, labels), or a mapping with one entry that is named as labels are.
        place: Of the batch, for the error.
        form: What the labels are, for the error.

    Returns:
        The labels.

    Raises:
        InputError: If there are none, or it cannot be told which they are.
    """
    if isinstance(batch, Mapping):
        found = [key for key in batch if key in LABEL_KEYS]
        if len(found) == 1:
            return batch[found[0]]
        named = f"it has {', '.join(map(str, batch))}; name one of them 'label'"
        raise InputError(f"{place} of the loader has no labels: {named}, or give (inputs, {form})")
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise InputError(f"{place} of the loader has no labels: give (inputs, {form})")
    return batch[1]


def on_device(inputs: Any, device: torch.device | str) -> Any:
    """The same inputs on another device.

    Args:
        inputs: What `inputs_of` returned.
        device: Where the tensors shall be.

    Returns:
        The same structure; a tensor that is there already is not copied.
    """
    return mapped(lambda tensor: tensor.to(device), inputs)


def inputs_for(model: nn.Module, batch: Any, device: torch.device | str | None = None) -> Any:
    """A batch of a loader as a network takes it.

    Args:
        model: The network.
        batch: What a loader gave (see `inputs_of`).
        device: Where the tensors shall be; None for where the network is.

    Returns:
        The inputs; images of any sizes in a list that the network takes as one argument are an `ImageList`.

    Raises:
        InputError: If the batch holds no inputs.
    """
    return as_taken(model, on_device(inputs_of(batch), device_of(model) if device is None else device))


def as_taken(model: nn.Module, inputs: Any) -> Any:
    """Inputs as arguments of a network: one of its own names, or in their places.

    Of a mapping the labels are left out, unless the network cannot do without; images under a name that is none of its
    arguments stand in the first place. A list of images is marked where the network takes it as one argument: a list
    of tensors of shape (C, H, W) is one argument of a network that needs no more than one, as detectors do; so is a
    tuple of them that is longer than the network has arguments.

    Args:
        model: The network.
        inputs: A tensor, a tuple, a list or a mapping.

    Returns:
        The inputs or, of the same entries, an `ImageList`.
    """
    if isinstance(inputs, Mapping):
        return _named(model, inputs)
    if not isinstance(inputs, tuple | list) or isinstance(inputs, ImageList) or not inputs:
        return inputs
    if not all(isinstance(entry, Tensor) and entry.dim() == 3 for entry in inputs):
        return inputs
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [*inspect.signature(model.forward).parameters.values()]
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return inputs
    places = [parameter for parameter in parameters if parameter.kind in kinds]
    needed = sum(parameter.default is inspect.Parameter.empty for parameter in places)
    alone = needed == 1 if isinstance(inputs, list) else len(inputs) > len(places)
    return ImageList(inputs) if alone else inputs


def _named(model: nn.Module, inputs: Mapping[str, Any]) -> Any:
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return inputs
    needed = {
        name
        for name, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    images = [key for key in inputs if key in IMAGE_KEYS]
    if len(images) != 1 and not (needed & inputs.keys()):
        return inputs
    given = {key: value for key, value in inputs.items() if key not in LABEL_KEYS or key in needed}
    if given.keys() <= parameters.keys() or len(images) != 1:
        return given
    return given[images[0]]


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a network on one batch of inputs of its own: what it writes into them is not seen outside.

    Args:
        model: The network.
        inputs: A tensor, a tuple of positional arguments, a mapping of keyword arguments, or a list of images (see
            `as_taken`).

    Returns:
        Whatever the network returns.
    """
    return call_on(model, own(inputs))


def call_on(model: nn.Module, inputs: Inputs) -> Any:
    """Run a network on these very tensors.

    Args:
        model: The network.
        inputs: As for `call`.

    Returns:
        Whatever the network returns.
    """
    inputs = as_taken(model, inputs)
    if isinstance(inputs, ImageList):
        return model(list(inputs))
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def attempt(who: str, model: nn.Module, inputs: Inputs, place: str) -> Any:
    """Run a network on a batch, and say where it fails.

    Args:
        who: What is asked, and of which network.
        model: The network.
        inputs: One batch.
        place: Which batch, and of what.

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
        raise InputError(f"{who} does not accept {place}, {shapes}: {reason}") from error


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

    Raises:
        InputError: If it holds something that cannot be copied.
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
        other = copy.deepcopy(model)
    except (TypeError, RuntimeError, AttributeError, ValueError) as error:
        raise InputError(f"the model cannot be copied (copy.deepcopy): {first_line(error)}") from error
    finally:
        for module, name, value in computed:
            setattr(module, name, value)
    modes = {name: module.training for name, module in model.named_modules()}
    for name, module in other.named_modules():  # copies of a feature extractor are in training mode
        module.training = modes.get(name, module.training)
    return other


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
        inputs: What `inputs_for` returned.

    Returns:
        The length that all its tensors share; of images in a list their number; 1 where they share none.
    """
    if isinstance(inputs, ImageList):
        return len(inputs)
    sizes = {len(leaf) for leaf in tensors_in(inputs) if leaf.dim()}
    return sizes.pop() if len(sizes) == 1 else 1


def batch_size(inputs: Any) -> int:
    """Number of rows of a batch, also where further tensors have other lengths.

    Args:
        inputs: What `inputs_for` returned.

    Returns:
        The length of the first tensor that has one; of images in a list their number; 0 where there is none.
    """
    if isinstance(inputs, ImageList):
        return len(inputs)
    return next((len(tensor) for tensor in tensors_in(inputs) if tensor.dim()), 0)


def part_of(inputs: Any, images: slice | Tensor, total: int | None = None) -> Any:
    """Some images of a batch.

    Args:
        inputs: What `inputs_for` returned.
        images: A slice, positions, or one truth value per image.
        total: Images of the batch; None for the length that all its tensors share.

    Returns:
        The same structure; tensors of another length than `total` are no rows of images and stay whole.
    """
    size = images_in(inputs) if total is None else total
    if isinstance(inputs, ImageList):
        chosen = torch.arange(len(inputs))[images.cpu() if isinstance(images, Tensor) else images]
        return ImageList(inputs[place] for place in chosen.tolist())

    def some(leaf: Tensor) -> Tensor:
        if leaf.dim() == 0 or len(leaf) != size:
            return leaf
        return leaf[images.to(leaf.device) if isinstance(images, Tensor) else images]

    return mapped(some, inputs)


def joined_batches(parts: Sequence[Any]) -> Sequence[Any]:
    """Batches as one.

    Args:
        parts: Batches of one structure, at least one.

    Returns:
        One batch of all images; `parts` where images of different shapes cannot stand in one.
    """
    if isinstance(parts[0], ImageList):
        return [ImageList(image for part in parts for image in part)]
    leaves = [tensors_in(part) for part in parts]
    for column in zip(*leaves, strict=True):
        first = column[0]
        if any(each.dim() != first.dim() or each.shape[1:] != first.shape[1:] for each in column):
            return parts
        if first.dim() == 0 and any(not torch.equal(each, first) for each in column):
            return parts
    columns = iter(zip(*leaves, strict=True))

    def joined(leaf: Tensor) -> Tensor:
        column = next(columns)
        return torch.cat(column) if leaf.dim() else leaf

    return [mapped(joined, parts[0])]
