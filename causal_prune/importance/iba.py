"""IBA: the information about an image that passes through a filter when the network lets go of what it can spare."""

from functools import partial

import torch
from torch import Tensor, nn

from causal_prune.data import Task
from causal_prune.errors import InputError
from causal_prune.importance.evidence import Evidence, Labelled
from causal_prune.importance.scores import FilterScores, from_filters
from causal_prune.intervention import InformationBottleneck
from causal_prune.network.running import copied, device_of, inputs_for
from causal_prune.network.tensor_trees import tensors_in
from causal_prune.progress import track

IMAGES, COPIES, BETA = 32, 2, 1.0
"""Images that are analysed, noisy copies of each, and the weight of the capacity."""


def score(evidence: Evidence) -> FilterScores:
    """Capacity of a filter's map under an information bottleneck at its layer (see `bottleneck`).

    c_i = mean over images of the sum over space of the capacity of filter i, in nats, with a bottleneck at the raw
    output of its layer fitted to the loss (cross entropy; Schulz et al. 2020). Mean and deviation of the
    layer come from all images, 32 of them, spread evenly, are analysed. The original looks at one image with ten
    noisy copies; here many images with two. beta is 1, where the original's 10 leaves hardly anything in the weak
    channels. A unit's score is the sum over its filters.

    Args:
        evidence: The graph, the dense network, labelled images whose inputs are one tensor, and the seed of the noise.

    Returns:
        The scores, in nats; 0 for a filter that never varies.

    Raises:
        InputError: If an argument is missing, there are no images, or the inputs are more than one tensor.

    Cost: for every layer one pass up to it over all images, and ten forward and backward passes over 64.
    """
    network, batches = copied(evidence.network).eval(), evidence.images
    network.requires_grad_(False)
    inputs, labels = _spread(network, batches, evidence.task)
    device = device_of(network)
    producers = evidence.graph.producers
    filters: dict[str, Tensor] = {}
    for name in track(producers, "iba", unit="layer"):
        bottleneck = InformationBottleneck(network, name, beta=BETA, copies=COPIES, seed=evidence.seed)
        bottleneck.estimate(batches)
        loss = partial(_losses, evidence.task, labels.to(device).repeat(COPIES))
        capacity = bottleneck.analyze(inputs, loss, mode="capacity").double().cpu()
        channel = capacity.dim() - 1 if isinstance(network.get_submodule(name), nn.Linear) else 1
        per_filter = capacity.movedim(channel, 1).flatten(2) if capacity.dim() > 2 else capacity[..., None]
        filters[name] = per_filter.sum(dim=2).mean(dim=0).clamp_min(0)
    return from_filters("iba", "information in nats", evidence.graph, filters)


def _losses(task: Task, labels: Tensor, output: object) -> Tensor:
    place = "the images that are analysed"
    answers = task.answers(output, "dense", place)
    task.check(labels.cpu(), answers, "dense", place)
    return task.losses(answers, labels, "none")


def _spread(network: nn.Module, batches: Labelled, task: Task) -> tuple[Tensor, Tensor]:
    """Some images and labels, spread evenly over all."""
    images: list[Tensor] = []
    labels: list[Tensor] = []
    total = sum(len(task.labels(batch, f"batch {number}")) for number, batch in enumerate(batches, start=1))
    if not total:
        raise InputError("labelled: there are no images")
    wanted = torch.arange(min(IMAGES, total)) * total // min(IMAGES, total)
    start = 0
    for number, batch in enumerate(batches, start=1):
        truth, tensors = task.labels(batch, f"batch {number}"), tensors_in(inputs_for(network, batch))
        if len(tensors) != 1:
            raise InputError(
                f"labelled: the inputs are {len(tensors)} tensors; importance 'iba' takes networks of one"
            )
        places = wanted[(wanted >= start) & (wanted < start + len(truth))] - start
        images.append(tensors[0].cpu()[places])
        labels.append(truth[places])
        start += len(truth)
    return torch.cat(images), torch.cat(labels)
