"""Short training of a cut network: SGD with a one-cycle schedule, distillation, and masks that hold."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import OneCycleLR

from causal_prune.data import STANDARD_TASK, Task
from causal_prune.errors import CausalPruneError, InputError
from causal_prune.fine_tuning.masks import hold, masked_parameters
from causal_prune.fine_tuning.objective import Objective, auxiliary_outputs
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import call, copied, device_of, inputs_for, modes_kept, seeded
from causal_prune.network.tensor_trees import tensors_in
from causal_prune.progress import track


@undisturbed
def fine_tune(
    model: nn.Module,
    train: Iterable[Any],
    *,
    teacher: nn.Module | None = None,
    epochs: int = 1,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    temperature: float = 4.0,
    distill_weight: float = 0.5,
    seed: int = 0,
    task: Task = STANDARD_TASK,
    device: str | torch.device = "cpu",
    auxiliary: Sequence[int] = (),
    masks: Mapping[str, Tensor] | None = None,
    label: str = "fine-tune",
) -> nn.Module:
    """Train a copy of a network for a few epochs, with the dense network as a teacher if one is given.

    With logits z of the network and t of the teacher, labels y, temperature T and distill_weight w:

        loss = (1 - w) CE(z, y) + w T^2 KL(softmax(t / T) || softmax(z / T))

    (Hinton et al. 2015, section 2; T^2 keeps the gradient's size independent of T); without a teacher, CE alone. These
    are the loss and the distance of a classification; another task has its own.
    A network that returns several outputs has its logits in the first tensor. Every further tensor that it returns in
    training alone (GoogLeNet, Inception), or that `auxiliary` names, adds 0.3 of its own loss; others (embeddings) are
    left alone. SGD with Nesterov momentum; the learning rate follows one cycle
    (Smith and Topin 2018), rising to `lr` over 30 % of the steps and falling to almost 0 by a cosine.
    One-dimensional parameters (biases, batch norm) are not decayed. Parameters with requires_grad=False stay, and
    a batch norm whose parameters are frozen keeps its running statistics.

    Args:
        model: The network; not changed.
        train: Batches (inputs, labels), iterated once per epoch; labels of a classifier are class indices, (N,), and
            the logits (N, classes).
        teacher: The network to imitate, run in eval mode; not changed.
        epochs: Passes over `train`, 0 or more; 0 returns a plain copy.
        lr: The highest learning rate, > 0.
        momentum: In [0, 1); 0 is plain SGD.
        weight_decay: L2 penalty, 0 or more.
        temperature: T, > 0.
        distill_weight: w, in [0, 1]; no effect without a teacher.
        seed: Seeds torch's generators, and so the shuffling of a DataLoader that has no generator of its own.
        task: What the network is for; it says what labels are and what is lost against them.
        device: Where to compute.
        auxiliary: Places of further outputs that are scores in eval mode too, 1 for the second tensor returned.
        masks: 0/1 tensors by parameter name, each of the parameter's shape; entries at 0 are held at 0.
        label: What the progress bar is called.

    Returns:
        The trained copy, on the device of `model`, in its train or eval mode, without gradients. On the CPU the
        same arguments give the same bits.

    Raises:
        InputError: If an option is out of its range, `train` is empty or no batch of (inputs, labels), a label is
            outside the classes, a mask does not fit, every parameter is frozen, or the shapes do not fit.
        CausalPruneError: If the loss, or a weight after the last step, is NaN or infinite.

    Cost: `epochs` forward and backward passes over `train`, and one forward pass of the teacher each.

    Example:
        >>> batches = [(torch.randn(8, 3), torch.randint(0, 2, (8,)))]
        >>> tuned = fine_tune(nn.Linear(3, 2), batches, epochs=2, lr=0.1)
        >>> tuned.training
        True
    """
    _check_options(epochs, lr, momentum, weight_decay, temperature, distill_weight)
    if epochs == 0:
        return copied(model)
    tuned = copied(model).to(device)
    kept = masked_parameters(tuned, masks or {})
    objective = Objective(task, _teacher_on(teacher, device), temperature, distill_weight)
    with seeded(seed, device), torch.enable_grad(), modes_kept(tuned):
        steps = epochs * _length(train)
        _train_mode(tuned)
        optimizer = _optimizer(tuned, lr=lr, momentum=momentum, weight_decay=weight_decay)
        schedule = OneCycleLR(optimizer, lr, total_steps=max(steps, 2), cycle_momentum=False)
        batches = track(_batches(train, epochs), label, total=steps)
        for step, (place, batch) in enumerate(batches, start=1):
            inputs, labels = _pair(tuned, objective.task, batch, place, device)
            if step == 1:
                objective = _knowing_outputs(objective, tuned, inputs, auxiliary)
            loss = _step(tuned, objective, inputs, labels, place)
            _check_loss(loss.item(), place, lr)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            hold(kept)
            if step < steps:  # a loader may give more batches than its length says; the rate then stays low
                schedule.step()
        optimizer.zero_grad()
    _check_weights(tuned, lr)
    return tuned.to(device_of(model))


def _check_options(
    epochs: int, lr: float, momentum: float, weight_decay: float, temperature: float, distill_weight: float
) -> None:
    ranges = (
        ("epochs", epochs, epochs >= 0, "0 or more"),
        ("lr", lr, 0 < lr < math.inf, "above 0"),
        ("momentum", momentum, 0 <= momentum < 1, "in [0, 1)"),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf, "0 or more"),
        ("temperature", temperature, 0 < temperature < math.inf, "above 0"),
        ("distill_weight", distill_weight, 0 <= distill_weight <= 1, "in [0, 1]"),
    )
    for name, value, fits, wanted in ranges:
        if not fits:
            raise InputError(f"fine_tune: {name}={value} must be {wanted}")


def _teacher_on(teacher: nn.Module | None, device: str | torch.device) -> nn.Module | None:
    # A copy, because the caller's teacher may be on another device and in train mode.
    return None if teacher is None else copied(teacher).to(device).eval()


def _length(train: Iterable[Any]) -> int:
    if isinstance(train, Iterator):
        raise InputError("fine_tune: train can be iterated only once: give a DataLoader or a list of batches")
    try:
        length = len(train) if isinstance(train, Sized) else sum(1 for _ in train)
    except TypeError:  # a loader of an IterableDataset has a length and does not know it
        length = sum(1 for _ in train)
    if length == 0:
        raise InputError("fine_tune: train has no batch: give at least one")
    return length


def _batches(train: Iterable[Any], epochs: int) -> Iterator[tuple[str, Any]]:
    for epoch in range(1, epochs + 1):
        for index, batch in enumerate(train, start=1):
            yield f"epoch {epoch}, batch {index}", batch


def _pair(
    tuned: nn.Module, task: Task, batch: Any, place: str, device: str | torch.device
) -> tuple[Any, Tensor]:
    if not isinstance(batch, Mapping) and not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise InputError(f"fine_tune: {place} is no pair (inputs, labels)")
    labels = task.labels(batch, place)
    return inputs_for(tuned, batch, device), labels


def _knowing_outputs(objective: Objective, tuned: nn.Module, inputs: Any, asked: Sequence[int]) -> Objective:
    try:
        return replace(objective, auxiliary=auxiliary_outputs(tuned, inputs, asked))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return objective  # the step itself tells what is wrong


def _step(tuned: nn.Module, objective: Objective, inputs: Any, labels: Tensor, place: str) -> Tensor:
    try:
        return objective(call(tuned, inputs), inputs, labels, place)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = [tuple(tensor.shape) for tensor in tensors_in(inputs)]
        reason = str(error).partition("\n")[0]
        raise InputError(f"fine_tune: the network cannot train on {place}, {shapes}: {reason}") from error


def _train_mode(tuned: nn.Module) -> None:
    tuned.train()
    for module in tuned.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            module.training = any(parameter.requires_grad for parameter in module.parameters())


def _optimizer(tuned: nn.Module, *, lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    trained = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    if not trained:
        raise InputError("fine_tune: every parameter has requires_grad=False: unfreeze some, or use epochs=0")
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]], lr=lr, momentum=momentum, nesterov=momentum > 0
    )


def _check_loss(loss: float, place: str, lr: float) -> None:
    if not math.isfinite(loss):
        raise CausalPruneError(
            f"fine_tune: the loss is {loss} at {place}: lower lr ({lr}) or check the images for NaN"
        )


def _check_weights(tuned: nn.Module, lr: float) -> None:
    for name, parameter in tuned.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise CausalPruneError(
                f"fine_tune: {name!r} is NaN or infinite after the last step: lower lr ({lr})"
            )
