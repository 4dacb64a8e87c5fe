"""What a method returns, and what all methods share."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.observation import FilterMoments
from causal_prune.tracing import FilterGraph, Group

Parents = Literal["graph", "chain"]
Labelled: TypeAlias = Iterable[Any]
"""Batches (inputs, labels) that can be iterated over more than once."""


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


class Method(Protocol):
    """What every entry of `METHODS` can be called as."""

    def __call__(
        self,
        graph: FilterGraph,
        moments: FilterMoments,
        *,
        parents: Parents,
        seed: int,
        model: nn.Module | None,
        labelled: Labelled | None,
    ) -> FilterScores:
        """Score every unit of every prunable group."""
        ...


def network_for(method: str, model: nn.Module | None) -> nn.Module:
    """The network, for a method that cannot do without.

    Args:
        method: Name in `METHODS`.
        model: What the caller gave.

    Returns:
        The network.

    Raises:
        InputError: If there is none.
    """
    if model is None:
        raise InputError(f"importance {method!r} needs the network: give score(..., model=the dense network)")
    return model


def images_for(method: str, labelled: Labelled | None) -> Labelled:
    """The labelled images, for a method that cannot do without.

    Args:
        method: Name in `METHODS`.
        labelled: What the caller gave.

    Returns:
        The batches.

    Raises:
        InputError: If there are none, or they can be read only once.
    """
    if labelled is None:
        raise InputError(
            f"importance {method!r} needs labelled images: "
            "give score(..., labelled=batches of (images, labels) held out from training)"
        )
    if isinstance(labelled, Iterator):
        raise InputError(f"importance {method!r}: labelled can be read only once: give a list or a loader")
    return labelled


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
