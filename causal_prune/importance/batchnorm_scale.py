"""Batch-norm scale: channels that their batch norm multiplies by little go first (Liu et al. 2017, slimming)."""

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.importance.evidence import Evidence
from causal_prune.importance.scores import FilterScores, from_units
from causal_prune.network.layer_kinds import BatchNorm
from causal_prune.tracing import Group


def score(evidence: Evidence) -> FilterScores:
    """Sum over the batch norms that carry a unit of the absolute scale.

    s_j = sum |gamma_j| (Liu et al. 2017, "Learning Efficient Convolutional Networks through Network Slimming",
    section 3; gamma is the batch norm's weight). The original trains with an L1 penalty on gamma first; here the
    network is taken as it is. A group that no batch norm with a weight carries is multiplied by 1: all its units
    score 1.

    Args:
        evidence: The graph and the dense network.

    Returns:
        The scores; 0 for a channel that every batch norm multiplies by 0.

    Raises:
        InputError: If no prunable group has a batch norm, or `model` is missing.
    """
    network = evidence.network
    totals = {group.name: _scales(group, network) for group in evidence.graph.prunable}
    if totals and all(total is None for total in totals.values()):
        raise InputError(
            "importance 'batchnorm_scale' reads the scales of batch norms, and no group has any: "
            "choose another importance"
        )

    def scales(group: Group) -> Tensor:
        total = totals[group.name]
        return torch.ones(group.size, dtype=torch.float64) if total is None else total

    return from_units("batchnorm_scale", "batch-norm scale", evidence.graph, scales)


def _scales(group: Group, network: nn.Module) -> Tensor | None:
    total: Tensor | None = None
    modules = dict(network.named_modules())
    for member in group.of_role("passenger"):
        module = modules.get(member.layer)
        # a layer's two axes hold the same channels here: one is enough
        if isinstance(module, BatchNorm) and module.affine and member.axis == "out":
            total = torch.zeros(group.size, dtype=torch.float64) if total is None else total
            scale = module.weight.detach().double().abs().cpu()
            total.index_add_(0, torch.tensor(member.units), scale[list(member.positions)])
    return total
