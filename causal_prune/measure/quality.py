"""Quality with its uncertainty: one pass over the images for all networks, kept image by image."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from causal_prune.data import STANDARD_TASK, Task
from causal_prune.errors import InputError
from causal_prune.measure.statistics import interval_of_mean
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import attempt, copied, inputs_for, seeded
from causal_prune.progress import track


@dataclass(frozen=True, eq=False)
class Measured:
    """How well one network did, image by image.

    Attributes:
        predictions: Prediction per image, in the loader's order, shape (total,).
        merits: What every image counts, shape (total,): whether it was right, or a number; quality is their mean.
        labels: What would have been right, shape (total,).
    """

    predictions: npt.NDArray[Any]
    merits: npt.NDArray[Any]
    labels: npt.NDArray[Any]

    @property
    def total(self) -> int:
        """Number of images, at least 1."""
        return len(self.merits)

    @property
    def correct(self) -> int | None:
        """Number of images that were right; None where that is no question of right or wrong."""
        return int(self.merits.sum()) if self.merits.dtype == np.bool_ else None

    @property
    def value(self) -> float:
        """The quality: the share of images that were right, 0 to 1, or the mean of their numbers."""
        return float(self.merits.mean()) if self.correct is None else self.correct / self.total

    @property
    def ci95(self) -> tuple[float, float]:
        """Interval of the quality at 95 % confidence (see `interval_of_mean`)."""
        return interval_of_mean(self.merits)

    @property
    def predictions_sha256(self) -> str:
        """SHA-256 of the predictions as little-endian 64-bit numbers: equal on every machine."""
        kind = "<i8" if self.predictions.dtype.kind == "i" else "<f8"
        return hashlib.sha256(self.predictions.astype(kind).tobytes()).hexdigest()


@undisturbed
def evaluate(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    task: Task = STANDARD_TASK,
    device: str | torch.device = "cpu",
    label: str = "evaluate",
) -> dict[str, Measured]:
    """Judge several networks on the same images, reading the loader once.

    Copies of the networks run in eval mode, without gradients and with a fixed seed; the random state is left as it
    was.

    Args:
        models: Networks by name. Each returns what the task asks for, alone or as the first tensor of a tuple or
            mapping; of a classifier logits (images, classes), of which the largest is the prediction, among equal ones
            the first.
        loader: Batches (inputs, labels): inputs a tensor, a tuple or a mapping; labels as the task has them, of a
            classifier integers from 0 to classes - 1, shape (images,).
        task: What the networks are for.
        device: Where to compute.
        label: What the progress bar is called.

    Returns:
        A `Measured` per name, all of the same images in the same order.

    Raises:
        InputError: If there is no network or no image, a batch has no labels, a label does not fit, or a network
            returns NaN or something that the task does not know.

    Example:
        >>> images, labels = torch.eye(3), torch.tensor([0, 1, 0])
        >>> evaluate({"identity": nn.Identity()}, [(images, labels)])["identity"].correct
        2
    """
    if not models:
        raise InputError("models is empty: give at least one network to evaluate")
    predictions: dict[str, list[Tensor]] = {name: [] for name in models}
    truths: list[Tensor] = []
    with ExitStack() as stack:
        stack.enter_context(seeded(0, device))
        stack.enter_context(torch.no_grad())
        placed = {name: copied(model).to(device).eval() for name, model in models.items()}
        for number, batch in enumerate(track(loader, label), start=1):
            place = f"batch {number}"
            truth = task.labels(batch, place)
            for name, model in placed.items():
                outputs = task.answers(
                    attempt(f"model '{name}'", model, inputs_for(model, batch, device), place), name, place
                )
                task.check(truth, outputs, name, place)
                predictions[name].append(task.predictions(outputs).cpu())
            truths.append(truth)
    if not sum(len(truth) for truth in truths):
        raise InputError("the loader is empty: give at least one batch of (inputs, labels)")
    whole = torch.cat(truths)
    return {name: _measured(task, torch.cat(parts), whole) for name, parts in predictions.items()}


def _measured(task: Task, predictions: Tensor, labels: Tensor) -> Measured:
    return Measured(predictions.numpy(), task.merits(predictions, labels).numpy(), labels.numpy())
