"""Classification: one class per image, logits from the network, cross entropy, accuracy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from causal_prune.data.task import Reduction, Task
from causal_prune.errors import InputError
from causal_prune.network.tensor_trees import tensors_in
from causal_prune.report import ACCURACY


def label(value: object) -> float | None:
    """The class that a label of a data set names.

    Args:
        value: The label.

    Returns:
        Its number; None where it is no whole number.
    """
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_floating_point():
        value = value.item()
    return int(value) if isinstance(value, int | np.integer) else None


def labels_of(batch: Any, place: str) -> Tensor:
    """The labels in a batch of a loader.

    Args:
        batch: A tuple or list (inputs, labels).
        place: Of the batch, for the error.

    Returns:
        One class per image, int64 on the CPU.

    Raises:
        InputError: If there are none, or they are no integers of shape (images,).
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise InputError(f"{place} of the loader has no labels: give (inputs, labels)")
    labels = torch.as_tensor(batch[1])
    if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            f"labels of {place} have shape {tuple(labels.shape)} and type {labels.dtype}: "
            "give one integer class per image"
        )
    return labels.to("cpu", torch.int64)


def logits_of(output: Any, name: str, place: str) -> Tensor:
    """The logits in what a classifier returned.

    Args:
        output: A tensor, or a tuple or mapping whose first tensor holds the logits.
        name: Of the network, for the error.
        place: Of the batch, for the error.

    Returns:
        Logits of shape (images, classes).

    Raises:
        InputError: If there are none.
    """
    tensors = tensors_in(output)
    if not tensors or tensors[0].ndim != 2 or tensors[0].shape[1] < 2:
        shape = tuple(tensors[0].shape) if tensors else type(output).__name__
        raise InputError(
            f"model '{name}' returned {shape} for {place}: "
            "a classifier must return logits (images, at least 2 classes)"
        )
    return tensors[0]


def check_labels(labels: Tensor, logits: Tensor, name: str, place: str) -> None:
    """Refuse labels that do not fit the logits.

    Args:
        labels: From `labels_of`.
        logits: From `logits_of`.
        name: Of the network, for the error.
        place: Of the batch, for the error.

    Raises:
        InputError: If there is not one label per image, or a label is outside the classes.
    """
    rows, classes = logits.shape
    if rows != len(labels):
        raise InputError(f"{place} has {len(labels)} labels, but model '{name}' returned {rows} rows")
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise InputError(
            f"label {int(outside[0])} in {place} is outside 0 to {classes - 1}, "
            f"the {classes} classes of model '{name}'"
        )


def _losses(logits: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction=reduction)


def _distance(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(z / T)): Hinton et al. 2015, section 2; T^2 keeps the gradient's size."""
    soft = functional.kl_div(
        functional.log_softmax(logits / temperature, dim=1),
        functional.log_softmax(teacher / temperature, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return temperature**2 * soft


def _misfit(outputs: object, images: int, classes: Sequence[str]) -> str | None:
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != images:
        shape = (
            f"shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
        )
        return f"returned {shape} for {images} images, not logits of shape (images, classes)"
    if outputs.shape[1] != len(classes):
        return (
            f"has {outputs.shape[1]} outputs but the data have {len(classes)} classes; "
            f"for many models `model_arg` num_classes={len(classes)} sets them"
        )
    return None


def _strata(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    return labels.astype(np.int64)


CLASSIFICATION = Task(
    name="classification",
    yardstick=ACCURACY,
    loss_unit="nats",
    has_classes=True,
    label_form="an int",
    label=label,
    labels=labels_of,
    outputs=logits_of,
    check=check_labels,
    losses=_losses,
    distance=_distance,
    predictions=lambda logits: logits.argmax(dim=1),
    merits=torch.eq,
    width=len,
    misfit=_misfit,
    strata=_strata,
)
STANDARD_TASK = CLASSIFICATION
"""The task where none is named."""
