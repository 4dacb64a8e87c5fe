"""The verb `score`: the evidence is put together, checked against what the method needs, and given to it."""

from collections.abc import Iterator
from importlib import import_module

from torch import nn

from causal_prune.data import STANDARD_TASK, Task
from causal_prune.errors import InputError
from causal_prune.importance.evidence import Evidence, Labelled
from causal_prune.importance.methods import METHODS, Parents
from causal_prune.importance.scores import FilterScores
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import copied
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph


@undisturbed
def score(
    graph: FilterGraph,
    moments: FilterMoments,
    *,
    method: str = "structural",
    parents: Parents | None = None,
    seed: int = 0,
    model: nn.Module | None = None,
    labelled: Labelled | None = None,
    task: Task = STANDARD_TASK,
) -> FilterScores:
    """How much every unit matters; units of small scores go first.

    Args:
        graph: From `trace`.
        moments: From `observe`, over the same graph.
        method: A name in `METHODS`.
        parents: For "documented": "chain" for the convolution registered before, as the original does,
            "graph" for the true parents (the default).
        seed: Of all that a method draws at random.
        model: The dense network that `graph` was traced from; it is not changed. Methods of which `METHODS` says that
            they need the network read it.
        labelled: Batches (inputs, labels) of images that the network was not trained on, in a list or a loader;
            the methods in `WITH_LABELS` read them.
        task: What the labels are, and what the network loses against them.

    Returns:
        One score per unit of every prunable group, 0 for a unit without effect; never negative or NaN.

    Raises:
        InputError: If the method is unknown, or lacks the network, the images or the classes that it needs.
    """
    if method not in METHODS:
        raise InputError(f"score: method {method!r} is not one of {', '.join(METHODS)}")
    entry = METHODS[method]
    if "network" in entry.needs and model is None:
        raise InputError(f"importance {method!r} needs the network: give score(..., model=the dense network)")
    if "images" in entry.needs:
        _check_images(method, labelled)
    if "classes" in entry.needs and not task.has_classes:
        raise InputError(f"importance {method!r} needs classes, and {task.name} has none: choose another one")
    own_model = None if model is None else copied(model)
    room = import_module(f"{__package__}.{entry.room}")
    found: FilterScores = getattr(room, entry.function)(
        Evidence(graph, moments, parents or "graph", seed, own_model, labelled, task)
    )
    return found


def _check_images(method: str, labelled: Labelled | None) -> None:
    if labelled is None:
        raise InputError(
            f"importance {method!r} needs labelled images: "
            "give score(..., labelled=batches of (images, labels) held out from training)"
        )
    if isinstance(labelled, Iterator):
        raise InputError(f"importance {method!r}: labelled can be read only once: give a list or a loader")
