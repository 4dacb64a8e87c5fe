"""The loss of fine-tuning: labels, a teacher, and heads that run only in training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from causal_prune.data import Task
from causal_prune.errors import InputError
from causal_prune.network.running import call, copied, device_of, seeded
from causal_prune.network.tensor_trees import named_tensors, tensors_in

AUXILIARY_WEIGHT = 0.3  # Szegedy et al. 2015, section 5


@dataclass(frozen=True)
class Objective:
    """The loss of `fine_tune`.

    Attributes:
        task: What the labels are, and what is lost against them.
        teacher: The network to imitate, in eval mode, or None.
        temperature: T of `fine_tune`.
        distill_weight: w of `fine_tune`.
        auxiliary: Places of further outputs, among the tensors that the network returns, that are scores as well.
    """

    task: Task
    teacher: nn.Module | None
    temperature: float
    distill_weight: float
    auxiliary: tuple[int, ...] = ()

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
        found = tensors_in(outputs) or [outputs]
        scores = [found[0], *(found[k] for k in self.auxiliary)]
        first, *auxiliary = [self.task.outputs(each, "tuned", place) for each in scores]
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


def auxiliary_outputs(model: nn.Module, inputs: Any, asked: Sequence[int]) -> tuple[int, ...]:
    """Which further outputs of a network are scores that its fine-tuning counts.

    Args:
        model: The network; copies of it are run, in eval and in training mode.
        inputs: One batch.
        asked: Places that the caller names, from 1 on; 0 is that of the scores.

    Returns:
        Ascending places among the tensors that it returns in training: those that it returns in training alone, and
        those asked for.

    Raises:
        InputError: If a place asked for holds something of another width than the scores, or the outputs in training
            are others than those in eval mode, so that it is not known which of them are scores.
    """
    with torch.no_grad(), seeded(0, device_of(model)):
        as_used = named_tensors(call(copied(model).eval(), inputs), first="output")
        found = named_tensors(call(copied(model).train(), inputs), first="output")
    if len(as_used) <= 1:
        more = set(range(1, len(found)))
    else:
        known = [name for name, _ in as_used]
        more = {place for place, (name, _) in enumerate(found) if name not in known}
        if [name for name, _ in found if name in known] != known:
            raise InputError(
                f"fine_tune: the network returns {', '.join(name for name, _ in found)} in training and "
                f"{', '.join(known)} in eval mode, so that it is not known which of them are scores: "
                "let it return the same in both"
            )
    for place in asked:
        if not 0 < place < len(found):
            raise InputError(f"fine_tune: auxiliary={place} is no further output: there are {len(found) - 1}")
        shape, wanted = found[place][1].shape, found[0][1].shape
        if shape[1:] != wanted[1:]:
            raise InputError(
                f"fine_tune: auxiliary={place} names {found[place][0]}, of shape {tuple(shape)}: "
                f"the scores are {tuple(wanted)}"
            )
    return tuple(sorted(more | set(asked)))
