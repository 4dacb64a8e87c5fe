"""The loss of fine-tuning: labels, a teacher, and heads that run only in training."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from causal_prune.data import Task
from causal_prune.errors import InputError
from causal_prune.network.running import call, tensors_in

AUXILIARY_WEIGHT = 0.3  # Szegedy et al. 2015, section 5


@dataclass(frozen=True)
class Objective:
    """The loss of `fine_tune`.

    Attributes:
        task: What the labels are, and what is lost against them.
        teacher: The network to imitate, in eval mode, or None.
        temperature: T of `fine_tune`.
        distill_weight: w of `fine_tune`.
    """

    task: Task
    teacher: nn.Module | None
    temperature: float
    distill_weight: float

    def __call__(self, outputs: Any, inputs: Any, labels: Tensor, place: str) -> Tensor:
        """The loss of one batch.

        Args:
            outputs: What the network returned.
            inputs: The network's inputs.
            labels: Of the task.
            place: Of the batch, for errors.

        Returns:
            A scalar.

        Raises:
            InputError: If outputs, labels and the teacher's outputs do not fit.
        """
        first, *auxiliary = [
            self.task.outputs(each, "tuned", place) for each in tensors_in(outputs) or [outputs]
        ]
        self.task.check(labels, first, "tuned", place)
        target = None
        if self.teacher is not None:
            with torch.no_grad():
                target = self.task.outputs(call(self.teacher, inputs), "teacher", place)
            if target.shape != first.shape:
                raise InputError(
                    f"fine_tune: the teacher's outputs are {tuple(target.shape)}, the network's "
                    f"{tuple(first.shape)}: give the network that it was cut from"
                )
        known = labels.to(first.device)
        extra = [AUXILIARY_WEIGHT * self._of(each, target, known) for each in auxiliary]
        return torch.stack([self._of(first, target, known), *extra]).sum()

    def _of(self, outputs: Tensor, target: Tensor | None, labels: Tensor) -> Tensor:
        hard = self.task.losses(outputs, labels, "mean")
        if target is None:
            return hard
        soft = self.task.distance(outputs, target, self.temperature)
        return (1 - self.distill_weight) * hard + self.distill_weight * soft
