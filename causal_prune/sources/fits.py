"""Checking that a network and the data fit together before any work is done."""

import torch
from torch import nn

from causal_prune.data import Data, loader
from causal_prune.errors import InputError, one_line
from causal_prune.network.running import copied
from causal_prune.network.tensor_trees import tensors_in
from causal_prune.progress import track

BATCH = 64


def check_fits(model: nn.Module, data: Data, *, device: str = "cpu") -> None:
    """Run a copy of the network on the calibration images and check what comes out.

    Args:
        model: The network; not changed.
        data: The data.
        device: Where to run.

    Raises:
        InputError: If the network refuses the images, does not return what the task asks for (of a classifier one
            logit per class), returns NaN or infinite values, or a calibration label is outside the classes.

    Cost:
        One pass over the calibration images.
    """
    probe = copied(model).to(device).eval()
    batches = loader(data.calibration, batch=BATCH)
    for images, given in track(batches, "check model"):
        if data.task.has_classes:
            labels = data.task.labels((images, given), "data: a calibration batch")
            outside = labels[(labels < 0) | (labels >= len(data.classes))]
            if len(outside):
                raise InputError(f"data: label {int(outside[0])} is outside 0..{len(data.classes) - 1}")
        try:
            with torch.no_grad():
                outputs: object = probe(images.to(device))
        except Exception as cause:  # whatever a layer raises for a shape that it cannot take
            shape = tuple(images.shape[1:])
            raise InputError(
                f"model: refuses images of shape {shape}{_expectation(model, shape)}: {one_line(cause)}; "
                "`input_shape` C,H,W converts images"
            ) from cause
        _check_outputs(outputs, len(images), data)


def _check_outputs(outputs: object, images: int, data: Data) -> None:
    trouble = data.task.misfit(outputs, images, data.classes)
    if trouble is not None:
        raise InputError(f"model: {trouble}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors_in(outputs)):
        raise InputError("model: returns NaN or infinite values on the calibration images; check `weights`")


def _expectation(model: nn.Module, shape: tuple[int, ...]) -> str:
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels != shape[0]:
            return f" (its first layer '{name}' expects {module.in_channels} channels)"
        if isinstance(module, nn.Conv2d):
            return ""
        if isinstance(module, nn.Linear):
            return f" (its first layer '{name}' expects {module.in_features} features)"
    return ""
