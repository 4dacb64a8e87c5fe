"""Accuracy with its uncertainty: one pass for all networks, Wilson, exact McNemar, paired differences."""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from causal_prune.data import check_labels, labels_of, logits_of
from causal_prune.errors import InputError
from causal_prune.measure.statistics import wilson_interval
from causal_prune.network.running import call, copied, device_of, inputs_of, modes_kept, moved, seeded
from causal_prune.progress import track


@dataclass(frozen=True, eq=False)
class Accuracy:
    """How often one network was right, image by image.

    Attributes:
        correct: Number of images whose largest logit is the label's.
        total: Number of images, at least 1.
        predictions: Predicted class per image, in the loader's order, shape (total,).
        hits: Whether the prediction is the label, shape (total,).
    """

    correct: int
    total: int
    predictions: npt.NDArray[np.int64]
    hits: npt.NDArray[np.bool_]

    @property
    def value(self) -> float:
        """Share of images that were right, 0 to 1."""
        return self.correct / self.total

    @property
    def ci95(self) -> tuple[float, float]:
        """Wilson interval of the accuracy at 95 % confidence."""
        return wilson_interval(self.correct, self.total)

    @property
    def predictions_sha256(self) -> str:
        """SHA-256 of the predictions as little-endian 64-bit integers: equal on every machine."""
        return hashlib.sha256(self.predictions.astype("<i8").tobytes()).hexdigest()


def evaluate(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    device: str | torch.device = "cpu",
    label: str = "evaluate",
) -> dict[str, Accuracy]:
    """Classify the same images with several networks, reading the loader once.

    A prediction is the largest logit; among equal ones the first. The networks run in eval mode, without
    gradients and with a fixed seed; their modes, their device and the random state are left as they were.

    Args:
        models: Networks by name. Each returns logits (images, classes), alone or as the first tensor of a tuple
            or mapping. A network on another device is copied to `device`.
        loader: Batches (inputs, labels): inputs a tensor, a tuple or a mapping; labels integers from 0 to
            classes - 1, shape (images,).
        device: Where to compute.
        label: What the progress bar is called.

    Returns:
        An `Accuracy` per name, all of the same images in the same order.

    Raises:
        InputError: If there is no network or no image, a batch has no labels, a label is outside the classes, or a
            network returns NaN or something that is no table of logits.

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
        for model in models.values():
            stack.enter_context(modes_kept(model))
        stack.enter_context(seeded(0, device))
        stack.enter_context(torch.inference_mode())
        placed = {name: _on_device(model, device).eval() for name, model in models.items()}
        for number, batch in enumerate(track(loader, label), start=1):
            inputs, truth = moved(inputs_of(batch), device), labels_of(batch, number)
            for name, model in placed.items():
                logits = logits_of(call(model, inputs), name, number)
                check_labels(truth, logits, name, number)
                predictions[name].append(logits.argmax(dim=1).cpu())
            truths.append(truth)
    if not sum(len(truth) for truth in truths):
        raise InputError("the loader is empty: give at least one batch of (inputs, labels)")
    return {name: _accuracy(torch.cat(parts), torch.cat(truths)) for name, parts in predictions.items()}


def _on_device(model: nn.Module, device: str | torch.device) -> nn.Module:
    where, target = device_of(model), torch.device(device)
    same = where.type == target.type and target.index in (None, where.index)
    return model if same else copied(model).to(target)


def _accuracy(predictions: Tensor, labels: Tensor) -> Accuracy:
    hits = predictions == labels
    return Accuracy(int(hits.sum()), len(labels), predictions.numpy(), hits.numpy())
