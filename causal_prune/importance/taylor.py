"""Taylor: filters go first whose weights the loss depends on least, to first order (Molchanov et al. 2019)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from causal_prune.data import Task
from causal_prune.errors import InputError
from causal_prune.importance.evidence import Evidence, Labelled
from causal_prune.importance.scores import FilterScores, from_filters
from causal_prune.network.layer_matrices import matrix_of
from causal_prune.network.running import attempt, copied, device_of, inputs_for
from causal_prune.progress import track


def score(evidence: Evidence) -> FilterScores:
    """Sum over a filter's weights of |weight * gradient of the mean loss|.

    t_i = sum_s |w_s dL/dw_s|, with L the mean loss of the images (cross entropy) and s the weights of filter i; a
    unit's score is the sum over its filters. Molchanov et al. 2019 ("Importance Estimation for Neural Network Pruning",
    eq. 8) take (sum_s w_s dL/dw_s)^2 of every batch; the sum of absolute values, as in torch-pruning, does not
    vanish where a batch norm makes the loss independent of a filter's scale, and does not depend on the batches.

    Args:
        evidence: The graph, the dense network (a copy is run, in eval mode) and labelled images.

    Returns:
        The scores, in the unit of the loss; 0 for a filter without weights.

    Raises:
        InputError: If an argument is missing, there are no images, or the labels do not fit the outputs.

    Cost: one forward and one backward pass over the images.
    """
    network, images = copied(evidence.network).eval(), evidence.images
    network.requires_grad_(True)
    producers = {name: network.get_submodule(name) for name in evidence.graph.producers}
    gradients = _gradients(network, images, producers, evidence.task)
    with torch.no_grad():
        filters = {
            name: matrix_of(module, _weight(module) * gradients[name])
            .flatten(0, 1)
            .double()
            .abs()
            .sum(dim=1)
            .cpu()
            for name, module in producers.items()
        }
    unit = f"change of the loss in {evidence.task.loss_unit}, to first order"
    return from_filters("taylor", unit, evidence.graph, filters)


def _gradients(
    network: nn.Module, images: Labelled, producers: Mapping[str, nn.Module], task: Task
) -> dict[str, Tensor]:
    """Gradients of the mean loss over all images; 0 for a layer that no batch reached."""
    device, count = device_of(network), 0
    totals = {name: torch.zeros_like(_weight(module)) for name, module in producers.items()}
    for number, batch in enumerate(track(images, "taylor"), start=1):
        place = f"batch {number}"
        labels = task.labels(batch, place)
        if not len(labels):
            continue
        # weights that weight norm or its like computes are tensors of one forward pass
        with torch.enable_grad(), parametrize.cached():
            outputs = task.answers(
                attempt(
                    "score: the network", network, inputs_for(network, batch, device), f"{place} of labelled"
                ),
                "dense",
                place,
            )
            task.check(labels, outputs, "dense", place)
            loss = task.losses(outputs, labels.to(device), "sum")
            weights = [_weight(module) for module in producers.values()]
            parts = torch.autograd.grad(loss, weights, allow_unused=True)
        for name, part in zip(producers, parts, strict=True):
            if part is not None:
                totals[name] += part
        count += len(labels)
    if count == 0:
        raise InputError("labelled: there are no images")
    return {name: total / count for name, total in totals.items()}


def _weight(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight
