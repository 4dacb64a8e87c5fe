"""A task as a value: what labels are right, what a network loses against them, and how well it does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from causal_prune.errors import InputError
from causal_prune.report import Yardstick

Reduction: TypeAlias = Literal["none", "mean", "sum"]


@dataclass(frozen=True)
class Task:
    """What a network is for. One file makes one; everything else reads it.

    Attributes:
        name: In one word.
        yardstick: How its quality is named and written.
        loss_unit: Of the losses.
        has_classes: Whether labels are numbers of classes.
        label_form: What one label of a data set is, such as "an int".
        label: From one label of a data set to a number; None where it is none.
        labels: From a batch (inputs, labels) and its place, for errors, to one label per image on the CPU.
        outputs: From what a network returned, its name and the batch's place to what labels are held against.
        check: Refuses labels that do not fit outputs: (labels, outputs, name, place).
        losses: From outputs and labels on one device to the loss of every image, their mean or their sum.
        distance: From a network's outputs, its teacher's and a temperature to how far they lie apart, a scalar.
        predictions: From outputs to one prediction per image.
        merits: From predictions and labels to what every image counts: truth values, or numbers whose mean is the
            quality.
        width: From names of classes to the numbers that a network returns for an image.
        misfit: From what a network returned for some images, their number and the names of classes to what is wrong
            with it; None where it fits.
        strata: From the labels of a data set to groups, numbered from 0, of which every split has its share.
    """

    name: str
    yardstick: Yardstick
    loss_unit: str
    has_classes: bool
    label_form: str
    label: Callable[[object], float | None]
    labels: Callable[[Any, str], Tensor]
    outputs: Callable[[Any, str, str], Tensor]
    check: Callable[[Tensor, Tensor, str, str], None]
    losses: Callable[[Tensor, Tensor, Reduction], Tensor]
    distance: Callable[[Tensor, Tensor, float], Tensor]
    predictions: Callable[[Tensor], Tensor]
    merits: Callable[[Tensor, Tensor], Tensor]
    width: Callable[[Sequence[str]], int]
    misfit: Callable[[object, int, Sequence[str]], str | None]
    strata: Callable[[npt.NDArray[Any]], npt.NDArray[np.int64]]

    def answers(self, output: Any, name: str, place: str) -> Tensor:
        """What a network answered for a batch: its `outputs`, of which none is NaN.

        Args:
            output: What it returned.
            name: Of the network, for the error.
            place: Of the batch, for the error.

        Returns:
            What labels are held against.

        Raises:
            InputError: If the output is none of the task's, or holds NaN.
        """
        found = self.outputs(output, name, place)
        if bool(found.isnan().any()):
            raise InputError(f"model '{name}' returned NaN for {place}: check its weights and the inputs")
        return found
