"""Accuracy with its uncertainty: one pass for all networks, Wilson, exact McNemar, paired differences."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats  # type: ignore[import-untyped,unused-ignore]
from torch import Tensor, nn

from causal_prune.data.classification import check_labels, labels_of, logits_of
from causal_prune.errors import InputError
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


@dataclass(frozen=True)
class PairedDifference:
    """The mean of paired differences, and how sure it is.

    Attributes:
        mean: Mean difference; positive where the first of the pair is better.
        sd: Standard deviation (n - 1); None for a single pair.
        ci95: Student t interval of the mean at 95 % confidence; None for a single pair.
        wins: Number of differences above 0; a tie is no win.
        of: Number of pairs.
    """

    mean: float
    sd: float | None
    ci95: tuple[float, float] | None
    wins: int
    of: int


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


def wilson_interval(correct: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion.

    With p = correct / total, n = total and z the normal quantile of (1 + confidence) / 2:
    (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n). Source: Wilson (1927).

    Args:
        correct: Number of successes, 0 to `total`.
        total: Number of trials, at least 1.
        confidence: Coverage, between 0 and 1.

    Returns:
        Lower and upper end, 0 to 1.

    Raises:
        InputError: If the counts or the confidence are out of range.

    Example:
        >>> low, high = wilson_interval(98, 100)
        >>> round(low, 4), round(high, 4)
        (0.93, 0.9945)
    """
    if total < 1 or not 0 <= correct <= total:
        raise InputError(
            f"correct={correct} of total={total}: total must be at least 1 and correct within it"
        )
    if not 0 < confidence < 1:
        raise InputError(f"confidence={confidence} must lie between 0 and 1")
    interval = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def mcnemar_exact(hits_a: npt.ArrayLike, hits_b: npt.ArrayLike) -> float:
    """Exact two-sided McNemar test of two networks on the same images.

    Of the n images that exactly one of the two gets right, b are a's. If the networks are equally good, b is
    binomial(n, 1/2); p is the probability of a split at least as uneven. Source: McNemar (1947), exact form.

    Args:
        hits_a: Whether a was right, per image, shape (images,).
        hits_b: The same for b, same images in the same order.

    Returns:
        p, 0 to 1; 1.0 where the networks never differ. Small p: unequal accuracy, whichever is better.

    Raises:
        InputError: If the two are no equally long lists of truth values.

    Example:
        >>> mcnemar_exact([True] * 5 + [False], [False] * 5 + [False])
        0.0625
    """
    a, b = np.asarray(hits_a), np.asarray(hits_b)
    if a.ndim != 1 or a.shape != b.shape or a.dtype != np.bool_ or b.dtype != np.bool_:
        raise InputError(
            f"hits_a {a.dtype}{a.shape} and hits_b {b.dtype}{b.shape} must be truth values of the same images"
        )
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Mean of paired differences (one per seed) with a Student t interval.

    With n differences of mean m and standard deviation s (n - 1): m +- t(0.975; n - 1) s / sqrt(n).

    Args:
        differences: One difference per pair, in any unit, finite; positive where the first is better.

    Returns:
        The mean, its spread and its interval; equal differences give an interval of width 0.

    Raises:
        InputError: If there is no difference, or one is not finite.

    Example:
        >>> paired_difference([0.01, 0.03]).wins
        2
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise InputError(f"differences={list(differences)} must be one or more finite numbers")
    count, mean, wins = int(values.size), float(values.mean()), int((values > 0).sum())
    if count == 1:
        return PairedDifference(mean, None, None, wins, count)
    sd = float(values.std(ddof=1))
    half = float(stats.t.ppf(0.975, count - 1)) * sd / math.sqrt(count)
    return PairedDifference(mean, sd, (mean - half, mean + half), wins, count)
