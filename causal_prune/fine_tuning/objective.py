"""The loss of fine-tuning: labels, a teacher, and heads that run only in training."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from causal_prune.errors import InputError
from causal_prune.network.running import call, tensors_in

AUXILIARY_WEIGHT = 0.3  # Szegedy et al. 2015, section 5


@dataclass(frozen=True)
class Objective:
    """The loss of `fine_tune`.

    Attributes:
        teacher: The network to imitate, in eval mode, or None.
        temperature: T of `fine_tune`.
        distill_weight: w of `fine_tune`.
    """

    teacher: nn.Module | None
    temperature: float
    distill_weight: float

    def __call__(self, outputs: Any, inputs: Any, labels: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            outputs: What the network returned.
            inputs: The network's inputs.
            labels: Class indices, (N,).

        Returns:
            A scalar.

        Raises:
            InputError: If logits, labels and the teacher's logits do not fit.
        """
        first, *auxiliary = tensors_in(outputs)
        _check_labels(first, labels)
        target = None
        if self.teacher is not None:
            with torch.no_grad():
                target = tensors_in(call(self.teacher, inputs))[0]
            if target.shape != first.shape:
                raise InputError(
                    f"fine_tune: the teacher's logits are {tuple(target.shape)}, the network's "
                    f"{tuple(first.shape)}: give the network that it was cut from"
                )
        extra = [AUXILIARY_WEIGHT * self._of(logits, target, labels) for logits in auxiliary]
        return torch.stack([self._of(first, target, labels), *extra]).sum()

    def _of(self, logits: Tensor, target: Tensor | None, labels: Tensor) -> Tensor:
        hard = functional.cross_entropy(logits, labels)
        if target is None:
            return hard
        soft = functional.kl_div(
            functional.log_softmax(logits / self.temperature, dim=1),
            functional.log_softmax(target / self.temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - self.distill_weight) * hard + self.distill_weight * self.temperature**2 * soft


def _check_labels(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise InputError(
            f"fine_tune: the logits are {tuple(logits.shape)} and the labels {tuple(labels.shape)}: "
            "expected (N, classes) and (N,)"
        )
    wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
    if wrong.numel():
        raise InputError(
            f"fine_tune: label {int(wrong[0])} is outside the {logits.shape[1]} classes of the network"
        )
