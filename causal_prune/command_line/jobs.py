"""What the commands do once their options are read: settings in, values and tables out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from causal_prune.command_line.settings import RunSettings
from causal_prune.data import Data, loader
from causal_prune.errors import CausalPruneNote, InputError, one_line, warn
from causal_prune.fine_tuning import fine_tune
from causal_prune.machine import check_device, one_thread
from causal_prune.network.running import seeded
from causal_prune.pipeline import (
    Compressed,
    FrontierOptions,
    Options,
    choose,
    compress,
    frontier,
    layer_entries,
    recipe_of,
    steps_of,
)
from causal_prune.planning import NOT_ASKED, SETTLED
from causal_prune.progress import Step, listed, step
from causal_prune.report import Frontier, LayerWidths, Target, check_out
from causal_prune.sources import anchored, check_fits, load_data, load_model, load_weights, small_resnet
from causal_prune.surgery import load
from causal_prune.tracing import FilterGraph, trace

TRAINING_EPOCHS = 40
TRAINING_LR = 0.1
TRAINING_BATCH = 64
"""Of the embedded network; chosen on the validation split of the digits."""
EMBEDDED_EPOCHS = 3
TRAIN, LOAD = "train the dense network", "load network and images"


def run_job(settings: RunSettings, *, command: str) -> Compressed:
    """The whole flow into a bundle.

    Args:
        settings: The options.
        command: How the run was started.

    Returns:
        The network, its plan, its report and the folder.

    Raises:
        CausalPruneError: As `compress`, and for a model, weights or data that cannot be used.
    """
    options, start = _options(settings, command), Path.cwd()
    assert options.out is not None, "it has a default"
    check_out(options.out.expanduser(), force=options.force)
    trained = settings.model is None and settings.from_bundle is None and settings.weights is None
    first = TRAIN if trained else LOAD
    with listed([Step(first), *map(Step, steps_of(options))]):
        with step(first):
            model, data = dense_and_data(settings, start)
        made = compress(model, data, _anchored(options, start))
    return replace(made, bundle=options.out)


def dry_run_job(settings: RunSettings) -> tuple[Target, list[LayerWidths]]:
    """Plan without cutting or writing anything.

    Args:
        settings: The options.

    Returns:
        The target, and the widths before and after of every layer.

    Raises:
        CausalPruneError: As `run_job`.
    """
    start = Path.cwd()
    options = _anchored(_options(settings, ""), start)
    recipe = recipe_of(*dense_and_data(settings, start), options)
    chosen = choose(recipe, options)
    return chosen.plan.target, layer_entries(chosen.graph, chosen.plan, chosen.moments)


def _anchored(options: Options, start: Path) -> Options:
    """The same with paths that count from the folder of the start: a file of the user's may change the folder."""
    paths = {name: getattr(options, name) for name in ("out", "plan")}
    given = {name: anchored(path, start) for name, path in paths.items() if path is not None}
    return options.model_copy(update=given)


def frontier_job(settings: RunSettings, keep: tuple[float, ...], *, command: str) -> tuple[Frontier, Path]:
    """Make a network at several sizes, into a folder.

    Args:
        settings: The options.
        keep: Shares that stay.
        command: How it was started.

    Returns:
        The sizes, and the folder as it was named.

    Raises:
        CausalPruneError: As `frontier`, and for a model, weights or data that cannot be used.
    """
    given, start = _options(settings, command), Path.cwd()
    out = given.out if "out" in settings.model_fields_set else Path(f"{given.out}-frontier")
    assert out is not None, "it has a default"
    check_out(out.expanduser(), force=given.force)
    foreign = [name for name in SETTLED if name != "max_drop" and getattr(settings, name) not in NOT_ASKED]
    if foreign:
        warn(
            f"`{foreign[0]}` of the file is passed over: a frontier is made of the sizes in --keep",
            CausalPruneNote,
        )
    nothing = dict.fromkeys(name for name in SETTLED if name != "max_drop") | {"remove_silent": False}
    untrained = {**(given.in_force or {}), "epochs": 0, "explain": []}
    plain = {"epochs": 0, "explain": (), "out": out, "keep": keep, "in_force": untrained, **nothing}
    options = FrontierOptions.model_construct(**{**dict(given), **plain})
    trained = settings.model is None and settings.from_bundle is None and settings.weights is None
    first = TRAIN if trained else LOAD
    with listed([Step(first)]):
        with step(first):
            model, data = dense_and_data(settings, start)
        found = frontier(model, data, options)
    return found, out


def inspect_job(settings: RunSettings) -> FilterGraph:
    """Trace a network without touching it.

    Args:
        settings: `model`, `weights`, `input_shape` (or `data`, for its shape), `freeze` and `dependencies`
            are read.

    Returns:
        The graph.

    Raises:
        CausalPruneError: If the model or its input cannot be used.
    """
    network, example = _to_trace(settings, Path.cwd())
    return trace(network, example, freeze=settings.freeze, dependencies=settings.dependencies)


def inspect_both_job(settings: RunSettings) -> tuple[FilterGraph, FilterGraph]:
    """Trace a network by our labels and by torch-pruning's graph.

    Args:
        settings: As for `inspect_job`.

    Returns:
        Both graphs, ours first.

    Raises:
        CausalPruneError: As `inspect_job`, and if torch-pruning can make no graph.
    """
    network, example = _to_trace(settings, Path.cwd())
    labels = trace(network, example, freeze=settings.freeze)
    return labels, trace(network, example, freeze=settings.freeze, dependencies="torch-pruning")


def _to_trace(settings: RunSettings, start: Path) -> tuple[nn.Module, torch.Tensor]:
    if settings.from_bundle is not None:
        model, data = dense_and_data(settings, start)
        return model, _example(data)
    if settings.model is None:
        return _small(settings), torch.rand(1, 1, 8, 8)
    model = load_model(settings.model, settings.model_arg, within=start)
    if settings.weights is not None:
        load_weights(model, settings.weights, within=start)
    if settings.input_shape is not None:
        return model, torch.rand(1, *settings.input_shape)
    if settings.data != "digits":
        return model, _example(load_data(settings.data, seed=settings.seed, within=start))
    raise InputError(
        "--input-shape: is missing; give the channels,height,width of an image, such as 3,224,224, "
        "or --data, whose images have one"
    )


def _title(settings: RunSettings) -> str:
    if settings.model is None:
        return settings.data if settings.data in ("digits", "noisy-digits") else "small_resnet"
    source, _, name = settings.model.rpartition(":")
    if source in ("torchvision", "timm"):
        return name
    return f"{Path(source).stem if source.endswith('.py') else source.rpartition('.')[2]}:{name}"


def _options(settings: RunSettings, command: str) -> Options:
    """The options of `compress`, with the defaults of a command."""
    given = settings.model_fields_set
    title = _title(settings)
    again = settings.from_bundle
    folder = title.rpartition(":")[2] if again is None else f"{again.resolve().name}-again"
    defaults = {
        "out": Path("export") / folder,
        "epochs": EMBEDDED_EPOCHS if settings.model is None and again is None else 0,
        "parents": "chain" if settings.mode == "zero" else None,
    }
    filled = settings.model_copy(
        update={name: value for name, value in defaults.items() if name not in given}
    )
    return filled.part(Options).model_copy(
        update={"title": title, "command": command or settings.command, "in_force": filled.by_key()}
    )


def _example(data: Data) -> torch.Tensor:
    images: torch.Tensor = next(iter(loader(data.calibration)))[0]
    return images[:2]


def dense_and_data(settings: RunSettings, start: Path) -> tuple[nn.Module, Data]:
    """The trained network and its data, checked against each other.

    Args:
        settings: Where they come from.
        start: Relative paths count from here: a file of the user's may change the working folder.

    Returns:
        Both.

    Raises:
        CausalPruneError: If one cannot be used, or they do not fit each other.
    """
    check_device(settings.device)
    if settings.model is not None and settings.from_bundle is None:
        # before the data: a name that is wrong costs no reading of images
        with seeded(settings.seed):
            model = load_model(settings.model, settings.model_arg, within=start)
        if settings.weights is not None:
            load_weights(model, settings.weights, within=start)
    data = load_data(
        settings.data,
        mean=settings.mean,
        std=settings.std,
        input_shape=settings.input_shape,
        calibration_images=settings.calibration_images,
        seed=settings.seed,
        within=start,
    )
    if settings.from_bundle is not None:
        model = load(anchored(settings.from_bundle, start), lambda: bare_network(settings, data, start))
    elif settings.model is None:
        model = _embedded(settings, data, start)
    check_fits(model, data, device=settings.device)
    return model, data


def bare_network(settings: RunSettings, data: Data, start: Path) -> nn.Module:
    """The network that a bundle was first cut from, with any weights.

    Args:
        settings: Where it comes from.
        data: Its images.
        start: As for `dense_and_data`.

    Returns:
        The network.
    """
    if settings.model is not None:
        return load_model(settings.model, settings.model_arg, within=start)
    return _small(settings, data.task.width(data.classes), _example(data).shape[1])


def _small(settings: RunSettings, classes: int = 10, channels: int = 1) -> nn.Module:
    given: dict[str, Any] = {"num_classes": classes, "in_channels": channels, **settings.model_arg}
    try:
        return small_resnet(**given)
    except Exception as cause:  # whatever torch raises for a width that is none
        raise InputError(
            f"model_arg: the embedded network raised {one_line(cause)}; it takes `width`"
        ) from cause


def _embedded(settings: RunSettings, data: Data, start: Path) -> nn.Module:
    """The small CNN, trained on the spot unless weights are given."""
    images = _example(data)
    with seeded(settings.seed):
        model = _small(settings, data.task.width(data.classes), images.shape[1])
    if settings.weights is not None:
        load_weights(model, settings.weights, within=start)
        return model.eval()
    with one_thread():
        return fine_tune(
            model,
            loader(data.train, shuffle=True, seed=settings.seed, batch=TRAINING_BATCH),
            epochs=TRAINING_EPOCHS,
            lr=TRAINING_LR,
            seed=settings.seed,
            task=data.task,
            device=settings.device,
            label="train the dense network",
        ).eval()
