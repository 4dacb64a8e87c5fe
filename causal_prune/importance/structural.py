"""The structural score: the effect of a unit on the layers that read it, by their own equations."""

import torch
from torch import Tensor, nn

from causal_prune.filter_graph import FilterGraph, Group, Member
from causal_prune.filter_moments import FilterMoments
from causal_prune.importance.scores import FilterScores, Labelled, Parents, from_units


def score(
    graph: FilterGraph,
    moments: FilterMoments,
    *,
    parents: Parents,
    seed: int,
    model: nn.Module | None = None,
    labelled: Labelled | None = None,
) -> FilterScores:
    """Direct effect of do(unit = its mean) on every consumer, as a share of the variance of its output.

    At a consumer the structural equation is known: Y = W x + b, with x the patches that it reads. With S_jj
    the covariance of the patches of unit j,
        direct_j = E|| Y - Y(do x_j = E x_j) ||^2 / E|| Y - E Y ||^2 = tr(W_j S_jj W_j^T) / tr Cov(Y),
    summed over the consumers of the group. Multiplying a filter and dividing its readers changes nothing.

    Args:
        graph: From `trace`.
        moments: From `observe`.
        parents: Not used: consumers are read off the graph.
        seed: Not used.
        model: Not used.
        labelled: Not used.

    Returns:
        The scores; 0 for a unit that is constant or that nobody reads.

    Cost: one small matrix product per unit and consumer.
    """

    def effect(group: Group) -> Tensor:
        total = torch.zeros(group.size, dtype=torch.float64)
        for member in group.of_role("consumer"):
            explained = _direct(moments, graph, member, group)
            total += explained / moments.outputs[member.layer].sum().clamp_min(1e-300)
        return total

    return from_units("structural", "share of the consumers' output variance", graph, effect)


def _direct(moments: FilterMoments, graph: FilterGraph, member: Member, group: Group) -> Tensor:
    covariance = moments.patches[member.layer, group.name].covariance
    weight, groups = moments.weights[member.layer], graph.layers[member.layer].groups
    inside, outside = weight.shape[1], weight.shape[0] // groups
    taps = weight.shape[2]
    owned: dict[int, list[int]] = {}
    for position, unit in zip(member.positions, member.units, strict=True):
        owned.setdefault(unit, []).append(position)
    result = torch.zeros(group.size, dtype=torch.float64)
    for unit, positions in owned.items():
        rows = weight.new_zeros(weight.shape[0], len(positions), taps)
        for k, position in enumerate(positions):
            block = position // inside if groups > 1 else 0
            members = slice(block * outside, (block + 1) * outside)
            rows[members, k] = weight[members, position % inside]
        flat = rows.flatten(1)
        size = flat.shape[1]
        result[unit] = ((flat @ covariance[unit, :size, :size]) * flat).sum()
    return result
