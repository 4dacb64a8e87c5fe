"""What a method returns: scores of units and filters, and elimination curves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from causal_prune.tracing import FilterGraph, Group


@dataclass(frozen=True)
class EliminationCurve:
    """What is lost when more and more units of one group go.

    Attributes:
        order: Units in the order in which backward elimination removes them, int64 of shape (units,).
        unexplained: unexplained[r] is the share of the state's variance that the units kept after r removals cannot
            reproduce, summed over the group's consumers; float64 of shape (units + 1,), 0 at first, never falling.
        price: price[r] = (sum over consumers of the root of the share)^2, of the same shape: what is lost together, at
            most. The errors that a lost unit makes at its several readers follow from the same lost values; where they
            meet again they add up, not their squares (Minkowski). The same as `unexplained` where there is one
            consumer.
    """

    order: Tensor
    unexplained: Tensor
    price: Tensor


@dataclass(frozen=True)
class FilterScores:
    """How much every unit matters.

    Attributes:
        method: Name in `METHODS`.
        unit: What a score of 1 means.
        groups: By prunable group one score per unit, float64 of shape (units,), not negative.
        layers: By producer one score per filter, float64 of shape (filters,); NaN for filters never cut.
        curves: By prunable group what is lost for every number of units removed; empty for methods that do not know.
    """

    method: str
    unit: str
    groups: Mapping[str, Tensor]
    layers: Mapping[str, Tensor]
    curves: Mapping[str, EliminationCurve] = field(default_factory=dict)


def from_filters(method: str, unit: str, graph: FilterGraph, filters: Mapping[str, Tensor]) -> FilterScores:
    """Scores of units from scores of filters: the sum over the filters that a unit holds.

    Args:
        method: Name in `METHODS`.
        unit: What a score of 1 means.
        graph: From `trace`.
        filters: By producer one score per filter.

    Returns:
        The scores.
    """
    groups = {}
    for group in graph.prunable:
        total = torch.zeros(group.size, dtype=torch.float64)
        for member in group.of_role("producer"):
            if member.layer in filters:
                total.index_add_(0, torch.tensor(member.units), filters[member.layer][list(member.positions)])
        groups[group.name] = total
    return FilterScores(method, unit, groups, dict(filters))


def from_units(method: str, unit: str, graph: FilterGraph, score: Callable[[Group], Tensor]) -> FilterScores:
    """Scores of filters from scores of units: every filter has the score of its unit.

    Args:
        method: Name in `METHODS`.
        unit: What a score of 1 means.
        graph: From `trace`.
        score: Gives one score per unit of a group, shape (units,).

    Returns:
        The scores.
    """
    groups = {group.name: score(group) for group in graph.prunable}
    layers: dict[str, Tensor] = {}
    for group in graph.prunable:
        for member in group.of_role("producer"):
            layer = layers.setdefault(
                member.layer, torch.full((member.extent,), torch.nan, dtype=torch.float64)
            )
            layer[list(member.positions)] = groups[group.name][list(member.units)]
    return FilterScores(method, unit, groups, layers)
