"""The structural score: what the layers that read a unit lose with it, by their own equations."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from causal_prune.filter_graph import FilterGraph, Group, Member
from causal_prune.filter_moments import FilterMoments
from causal_prune.importance.elimination import Equations, direct_effects, eliminate, unique_effects
from causal_prune.importance.scores import EliminationCurve, FilterScores, Parents, from_units
from causal_prune.reading import few_rows

UNIT = "share of the variance of the states that its readers join"


def score(graph: FilterGraph, moments: FilterMoments, *, parents: Parents, seed: int) -> FilterScores:
    """What the consumers of a group cannot reproduce without a unit, once their equations are learned again.

    At a consumer the structural equation is known: Y = W x + b, with x the patches that it reads. S is the covariance
    of *all* that it reads: kept units of this and of other groups, and frozen channels, may all stand in. Of unit j
        direct_j = E|| Y - Y(do x_j = E x_j) ||^2 = tr(W_j S_jj W_j^T),
        unique_j = tr(W_j ([S^-1]_jj)^-1 W_j^T),
    the second being what is left of the first when the other inputs' weights are fitted again by least squares.
    Backward elimination (see `elimination.eliminate`) takes the unit of the least unique effect, re-learns the
    equations, and goes on; it gives the curve.

    All is in units of the state that the consumer's output becomes part of (see `state_flow`): W is multiplied by what
    follows linearly (batch norm's g / sigma), and effects are divided by the total variance of that state: the sum,
    where the output is added into a residual stream, or else the (normalised) output itself. Effects are added over
    the group's consumers. Multiplying a filter and dividing its readers changes nothing. A grouped convolution whose
    blocks go whole reads nothing that stays, hence is no consumer of its own units; depthwise ones only pass on.

    Args:
        graph: From `trace`.
        moments: From `observe`.
        parents: Not used: consumers are read off the graph.
        seed: Not used.

    Returns:
        The scores: the rise of the unexplained share when the unit goes, in the order of elimination, never below
        that of a unit that goes earlier. 0 for a unit that is dead, that nobody reads, or that others reproduce.

    Warns:
        UserWarning: If fewer patches were seen than a layer's patch has numbers.

    Cost: see `eliminate`.
    """
    for name, rows, inputs in few_rows(moments.reads):
        warnings.warn(
            f"{rows} patches cannot determine what reproduces the {inputs} inputs of {name}: give more images",
            stacklevel=3,
        )
    curves = {}
    for group in graph.prunable:
        order, lost = eliminate(equations_of(graph, moments, group), group.size)
        curves[group.name] = EliminationCurve(order, lost)

    def rises(group: Group) -> Tensor:
        curve = curves[group.name]
        result = torch.empty(group.size, dtype=torch.float64)
        result[curve.order] = curve.unexplained.diff().cummax(dim=0).values
        return result

    return replace(from_units("structural", UNIT, graph, rises), curves=curves)


def effects(
    graph: FilterGraph, moments: FilterMoments, effect: Callable[[Equations], Tensor]
) -> dict[str, Tensor]:
    """One effect of every unit, added over the consumers of its group.

    Args:
        graph: From `trace`.
        moments: From `observe`.
        effect: `direct_effects` or `unique_effects`.

    Returns:
        By prunable group one share per unit.
    """
    found = {}
    for group in graph.prunable:
        total = torch.zeros(group.size, dtype=torch.float64)
        for equations in equations_of(graph, moments, group):
            total += effect(equations)
        found[group.name] = total
    return found


def equations_of(graph: FilterGraph, moments: FilterMoments, group: Group) -> list[Equations]:
    """The equations of every layer that reads a group.

    Args:
        graph: From `trace`.
        moments: From `observe`.
        group: A prunable group.

    Returns:
        One entry per consumer.
    """
    return [
        _equations(graph, moments, member, group.size)
        for member in group.of_role("consumer")
        if graph.layers[member.layer].grouping != "blocks" and member.layer in moments.reads
    ]


def _equations(graph: FilterGraph, moments: FilterMoments, member: Member, units: int) -> Equations:
    read, state = moments.reads[member.layer], moments.states[member.layer]
    weight = moments.weights[member.layer] * state.gain[:, None, None]
    scaled = read.equations(weight) / max(state.variance, 1e-300) ** 0.5
    groups, inputs = read.covariance.shape[:2]
    owned: list[list[list[int]]] = [[[] for _ in range(units)] for _ in range(groups)]
    for position, unit in zip(member.positions, member.units, strict=True):
        block, columns = read.columns(position, weight.shape[2])
        if columns[0] not in owned[block][unit]:
            owned[block][unit] += columns
    width = max(len(columns) for block in owned for columns in block)
    table = [[columns + [inputs] * (width - len(columns)) for columns in block] for block in owned]
    return Equations(scaled, read.covariance, torch.tensor(table))


__all__ = ["direct_effects", "effects", "equations_of", "score", "unique_effects"]
