"""What the commands do once their options are read: settings in, values and tables out."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from causal_prune.command_line.settings import RunSettings
from causal_prune.compensation import Method
from causal_prune.data import Data, held_out, loader
from causal_prune.errors import InputError
from causal_prune.fine_tuning import fine_tune
from causal_prune.importance import METHODS, Parents, score
from causal_prune.machine import alignment, check_device, one_thread
from causal_prune.network.running import seeded
from causal_prune.observation import observe
from causal_prune.pipeline import Compressed, compress, layer_entries
from causal_prune.planning import plan
from causal_prune.report import Layer, check_out
from causal_prune.sources import check_fits, load_data, load_model, load_weights, small_resnet
from causal_prune.surgery import Target
from causal_prune.tracing import FilterGraph, trace

if TYPE_CHECKING:
    pass

COMPENSATION: dict[str, Method] = {
    "least-squares": "least_squares",
    "batchnorm": "batchnorm",
    "none": "none",
}
TRAINING_EPOCHS = 40
TRAINING_LR = 0.1
TRAINING_BATCH = 64
"""Of the embedded network; chosen on the validation split of the digits."""
EMBEDDED_EPOCHS = 3


def run_job(settings: RunSettings, *, force: bool, command: str) -> Compressed:
    """The whole flow into a bundle.

    Args:
        settings: The options.
        force: Whether a folder that is no bundle may be replaced.
        command: How the run was started.

    Returns:
        The network, its plan, its report and the folder.

    Raises:
        CausalPruneError: As `compress`, and for a model, weights or data that cannot be used.
    """
    out = settings.out if settings.out is not None else Path("export") / _title(settings)
    check_out(out, force=force)
    _check_method(settings)
    model, data = _dense(settings)
    kind, share = settings.target
    return compress(
        model,
        data,
        **{kind: share},
        importance=settings.importance,
        parents=_parents(settings),
        mode=settings.mode,
        align=settings.align,
        freeze=settings.freeze,
        compensation=COMPENSATION[settings.compensate],
        max_memory=settings.max_memory,
        epochs=_epochs(settings),
        distill=settings.distill,
        arms=settings.arms,
        random_seeds=settings.random_seeds,
        seed=settings.seed,
        threads=settings.threads,
        device=settings.device,
        out=out,
        force=force,
        title=_title(settings),
        command=command,
    )


def dry_run_job(settings: RunSettings) -> tuple[Target, list[Layer]]:
    """Plan without cutting or writing anything.

    Args:
        settings: The options.

    Returns:
        The target, and the widths before and after of every layer.

    Raises:
        CausalPruneError: As `run_job`.
    """
    _check_method(settings)
    kind, share = settings.target
    if kind == "keep_latency":
        raise InputError("--dry-run: cannot tell --keep-latency without exporting; give --keep-macs")
    model, data = _dense(settings)
    graph = trace(model, _example(data), freeze=settings.freeze)
    moments = observe(model, graph, loader(data.calibration), max_memory=settings.max_memory)
    scores = score(
        graph,
        moments,
        method=settings.importance,
        parents=_parents(settings),
        seed=settings.seed,
        model=model,
        labelled=held_out(data.validation),
    )
    planned = plan(graph, scores, align=alignment(settings.align), **{kind: share})
    return planned.target, layer_entries(graph, planned)


def inspect_job(settings: RunSettings) -> FilterGraph:
    """Trace a network without touching it.

    Args:
        settings: `model`, `weights`, `input_shape` (or `data`, for its shape) and `freeze` are read.

    Returns:
        The graph.

    Raises:
        CausalPruneError: If the model or its input cannot be used.
    """
    if settings.model is None:
        return trace(small_resnet(), torch.rand(1, 1, 8, 8), freeze=settings.freeze)
    model = load_model(settings.model, settings.model_arg)
    if settings.weights is not None:
        load_weights(model, settings.weights)
    if settings.input_shape is not None:
        example = torch.rand(1, *settings.input_shape)
    elif settings.data != "digits":
        example = _example(load_data(settings.data, seed=settings.seed))
    else:
        raise InputError(
            "--input-shape: is missing; give the channels,height,width of an image, such as 3,224,224, "
            "or --data, whose images have one"
        )
    return trace(model, example, freeze=settings.freeze)


def _title(settings: RunSettings) -> str:
    if settings.model is None:
        return "digits" if settings.data == "digits" else "small_resnet"
    return settings.model.rpartition(":")[2]


def _check_method(settings: RunSettings) -> None:
    if settings.importance not in METHODS:
        raise InputError(f"--importance: {settings.importance!r} is not one of {', '.join(METHODS)}")


def _parents(settings: RunSettings) -> Parents | None:
    if settings.parents is None and settings.mode == "zero":
        return "chain"
    return settings.parents


def _epochs(settings: RunSettings) -> int:
    if settings.epochs is not None:
        return settings.epochs
    return EMBEDDED_EPOCHS if settings.model is None else 0


def _example(data: Data) -> torch.Tensor:
    images: torch.Tensor = next(iter(loader(data.calibration)))[0]
    return images[:2]


def _dense(settings: RunSettings) -> tuple[nn.Module, Data]:
    """The trained network and its data, checked against each other."""
    check_device(settings.device)
    if settings.model is not None:
        # before the data: a name that is wrong costs no reading of images
        with seeded(settings.seed):
            model = load_model(settings.model, settings.model_arg)
        if settings.weights is not None:
            load_weights(model, settings.weights)
    data = load_data(
        settings.data,
        mean=settings.mean,
        std=settings.std,
        input_shape=settings.input_shape,
        calibration_images=settings.calibration_images,
        seed=settings.seed,
    )
    if settings.model is None:
        model = _embedded(settings, data)
    check_fits(model, data, device=settings.device)
    return model, data


def _embedded(settings: RunSettings, data: Data) -> nn.Module:
    """The small CNN, trained on the spot unless weights are given."""
    images = _example(data)
    with seeded(settings.seed):
        model = small_resnet(len(data.classes), images.shape[1])
    if settings.weights is not None:
        load_weights(model, settings.weights)
        return model.eval()
    with one_thread():
        return fine_tune(
            model,
            loader(data.train, shuffle=True, seed=settings.seed, batch=TRAINING_BATCH),
            epochs=TRAINING_EPOCHS,
            lr=TRAINING_LR,
            seed=settings.seed,
            device=settings.device,
            label="train the dense network",
        ).eval()
