"""Regression: one number per image, mean absolute error."""

from collections.abc import Sequence
from math import isfinite
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
from causal_prune.report import Yardstick

STRATA = 10  # every split has its share of so many ranges of the labels


def regression_task(unit: str = "", digits: int = 3) -> Task:
    """The task of a network that returns one number per image, of shape (images,) or (images, 1).

    Its loss is smooth L1 (Girshick 2015, eq. 3): squared near 0, absolute beyond 1, so that labels of any size can be
    learned; its quality the mean absolute error, for which lower is better.

    Args:
        unit: Of the labels, such as "degrees".
        digits: After the point, in the report.

    Returns:
        The task.
    """
    return Task(
        name="regression",
        yardstick=Yardstick(
            name="mean absolute error", better="lower", kind="number", unit=unit, points=unit, digits=digits
        ),
        loss_unit=f"smooth L1 in {unit}" if unit else "smooth L1",
        has_classes=False,
        label_form="a finite number",
        label=_label,
        labels=_labels,
        outputs=_outputs,
        check=_check,
        losses=_losses,
        distance=lambda outputs, teacher, _: functional.smooth_l1_loss(outputs, teacher),
        predictions=lambda outputs: outputs,
        merits=lambda predictions, labels: (predictions.double() - labels.double()).abs(),
        width=lambda _: 1,
        misfit=_misfit,
        strata=_strata,
    )


def _label(value: object) -> float | None:
    number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return float(number) if isinstance(number, int | float | np.number) and isfinite(number) else None


def _labels(batch: Any, place: str) -> Tensor:
    labels = torch.as_tensor(labels_in(batch, place, "numbers")).to("cpu", torch.float32)
    if labels.ndim not in (1, 2) or labels.numel() != len(labels) or not bool(labels.isfinite().all()):
        shape = tuple(labels.shape)
        raise InputError(f"labels of {place} have shape {shape}: give one finite number per image")
    return labels.flatten()


def _outputs(output: Any, name: str, place: str) -> Tensor:
    tensors = tensors_in(output)
    if not tensors or tensors[0].ndim not in (1, 2) or tensors[0].numel() != len(tensors[0]):
        shape = tuple(tensors[0].shape) if tensors else type(output).__name__
        raise InputError(f"model '{name}' returned {shape} for {place}: it must return one number per image")
    return tensors[0].flatten()


def _check(labels: Tensor, outputs: Tensor, name: str, place: str) -> None:
    if len(labels) != len(outputs):
        raise InputError(
            f"{place} has {len(labels)} labels, but model '{name}' returned {len(outputs)} numbers"
        )


def _losses(outputs: Tensor, labels: Tensor, reduction: Reduction) -> Tensor:
    return functional.smooth_l1_loss(outputs, labels.to(outputs), reduction=reduction)


def _misfit(outputs: object, images: int, _: Sequence[str]) -> str | None:
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    return None if shape in ((images,), (images, 1)) else f"returned {shape}, not one number per image"


def _strata(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    ranks = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
    return (ranks * min(STRATA, len(labels)) // len(labels)).astype(np.int64)
