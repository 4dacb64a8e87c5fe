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
from causal_prune.network.running import labels_in
from causal_prune.network.tensor_trees import tensors_in
from causal_prune.report import ACCURACY

GIVE = "give one integer class per image, or rows of zeros and a single one"


def label(value: object) -> float | None:
    """The class that a label of a data set names.

    Args:
        value: The label: a whole number, or one-hot: zeros and a single one, at least two.

    Returns:
        Its number; None where it is neither.
    """
    if isinstance(value, Tensor | np.ndarray | list | tuple):
        values = value.tolist() if isinstance(value, Tensor | np.ndarray) else list(value)
        if not isinstance(values, list):  # of shape ()
            return int(values) if isinstance(values, int) else None
        if len(values) == 1 and isinstance(values[0], int):
            return int(values[0])
        return values.index(1) if width_of(value) and values.count(1) == 1 else None
    return int(value) if isinstance(value, int | np.integer) else None


def width_of(value: object) -> int | None:
    """The classes that a one-hot label tells.

    Args:
        value: A label of a data set.

    Returns:
        Their number; None where it is not one-hot.
    """
    if not isinstance(value, Tensor | np.ndarray | list | tuple):
        return None
    values = value.tolist() if isinstance(value, Tensor | np.ndarray) else list(value)
    hot = isinstance(values, list) and len(values) > 1 and all(each in (0, 1) for each in values)
    return len(values) if hot else None


def labels_of(batch: Any, place: str) -> Tensor:
    """The labels in a batch of a loader.

    Args:
        batch: A tuple or list (inputs, labels), or a mapping in which one entry is named as labels are. Labels are
            whole numbers of shape (images,) or (images, 1), or one-hot: rows of zeros and a single one.
        place: Of the batch, for the error.

    Returns:
        One class per image, int64 on the CPU.

    Raises:
        InputError: If there are none, or they are neither.
    """
    labels = _tensor(labels_in(batch, place), place)
    found = classes_in(labels)
    if found is None:
        raise InputError(
            f"labels of {place} have shape {tuple(labels.shape)} and type {labels.dtype}: {GIVE}"
        )
    return found


def classes_in(labels: Tensor) -> Tensor | None:
    """The classes that labels name.

    Args:
        labels: Whole numbers of shape (N,) or (N, 1), or one-hot: rows of zeros and a single one.

    Returns:
        One class per label, int64; None where they are neither.
    """
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if whole and (labels.ndim == 1 or (labels.ndim == 2 and labels.shape[1] == 1)):
        return labels.flatten().to(torch.int64)
    if labels.ndim == 2 and labels.shape[1] > 1 and not labels.is_complex():
        ones = labels == 1
        if bool((ones | (labels == 0)).all()) and bool((ones.sum(dim=1) == 1).all()):
            return ones.to(torch.int64).argmax(dim=1)
    return None


def _tensor(labels: Any, place: str) -> Tensor:
    try:
        if isinstance(labels, list | tuple) and all(
            isinstance(each, Tensor) and each.ndim for each in labels
        ):
            labels = torch.stack(list(labels), dim=1)  # as rows of lists are collated
        return torch.as_tensor(labels).detach().cpu()
    except (ValueError, TypeError, RuntimeError) as cause:
        raise InputError(
            f"labels of {place} are a {type(labels).__name__} without numbers: {GIVE}"
        ) from cause


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
    label_form="an int or one-hot (zeros and a single one)",
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
