"""Labelled batches and the logits that a classifier returns for them, checked."""

from typing import Any

import torch
from torch import Tensor

from causal_prune.errors import InputError
from causal_prune.network.running import tensors_in


def labels_of(batch: Any, number: int) -> Tensor:
    """The labels in a batch of a loader.

    Args:
        batch: A tuple or list (inputs, labels).
        number: Of the batch, for the error.

    Returns:
        One class per image, int64 on the CPU.

    Raises:
        InputError: If there are none, or they are no integers of shape (images,).
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise InputError(f"batch {number} of the loader has no labels: give (inputs, labels)")
    labels = torch.as_tensor(batch[1])
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            f"labels of batch {number} have shape {tuple(labels.shape)} and type {labels.dtype}: "
            "give one integer class per image"
        )
    return labels.to("cpu", torch.int64)


def logits_of(output: Any, name: str, number: int) -> Tensor:
    """The logits in what a classifier returned.

    Args:
        output: A tensor, or a tuple or mapping whose first tensor holds the logits.
        name: Of the network, for the error.
        number: Of the batch, for the error.

    Returns:
        Logits of shape (images, classes).

    Raises:
        InputError: If there are none, or one is NaN.
    """
    tensors = tensors_in(output)
    if not tensors or tensors[0].ndim != 2 or tensors[0].shape[1] < 2:
        shape = tuple(tensors[0].shape) if tensors else type(output).__name__
        raise InputError(
            f"model '{name}' returned {shape} for batch {number}: "
            "a classifier must return logits (images, at least 2 classes)"
        )
    if bool(torch.isnan(tensors[0]).any()):
        raise InputError(f"model '{name}' returned NaN for batch {number}: check its weights and the inputs")
    return tensors[0]


def check_labels(labels: Tensor, logits: Tensor, name: str, number: int) -> None:
    """Refuse labels that do not fit the logits.

    Args:
        labels: From `labels_of`.
        logits: From `logits_of`.
        name: Of the network, for the error.
        number: Of the batch, for the error.

    Raises:
        InputError: If there is not one label per image, or a label is outside the classes.
    """
    rows, classes = logits.shape
    if rows != len(labels):
        raise InputError(f"batch {number} has {len(labels)} labels, but model '{name}' returned {rows} rows")
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise InputError(
            f"label {int(outside[0])} in batch {number} is outside 0 to {classes - 1}, "
            f"the {classes} classes of model '{name}'"
        )
