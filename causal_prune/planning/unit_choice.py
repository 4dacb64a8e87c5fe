"""Pruning plans: which units go, for a target, and what that asks of every layer."""

from collections.abc import Mapping
from math import isclose
from typing import Literal

import torch
from torch import Tensor

from causal_prune.errors import InputError, TargetError
from causal_prune.importance import FilterScores
from causal_prune.machine import alignment
from causal_prune.planning.allocation import by_curves, equal_shares
from causal_prune.planning.network_cost import share_kept
from causal_prune.planning.targets import Goal
from causal_prune.report import Target, TargetKind
from causal_prune.surgery import PruningPlan
from causal_prune.tracing import FilterGraph, Group


def plan(
    graph: FilterGraph,
    scores: FilterScores,
    *,
    keep_macs: float | None = None,
    keep_params: float | None = None,
    remove_filters: float | None = None,
    remove_silent: bool = False,
    align: int | Literal["auto"] = 1,
) -> PruningPlan:
    """Choose the units that go, so that a target is met from below.

    Where the scores have elimination curves, the removals are spread so that they lose the least for what they save
    (see `allocation.by_curves`), and units go in the order of the curves. Otherwise every prunable group gives up the
    same share of its units, those of the smallest scores; the share is the largest kept one that meets the target,
    found by bisection over the widths that the network can have.

    Args:
        graph: From `trace`.
        scores: One score per unit and prunable group, from `score`; units of small scores go first.
        keep_macs: Share of the multiply-accumulates that stays, in (0, 1).
        keep_params: Share of the parameters of convolutions, linear and normalisation layers that stays, in (0, 1).
        remove_filters: Share of the units that goes, in (0, 1): of all groups together with curves, else of each group.
        remove_silent: Whether exactly those units go that are constant for every input, without changing what the
            network computes: the graph knows them. A few stay to carry constants where a convolution pads with
            zeros.
        align: Widths are multiples of this number, or of a half, a quarter ... of it in groups less than four times
            as wide; "auto" reads the machine. Single units are given back where the target would be missed by more
            than 1 %.

    Returns:
        The plan. Its target is `keep_macs=0.5` where none is given.

    Raises:
        InputError: If two targets are given, one is outside (0, 1), `align` is below 1, or the scores are not the
            graph's.
        TargetError: If nothing is prunable, the target is out of reach (the reachable range is named), or nothing that
            is silent can go.

    Cost: a few dozen evaluations of the cost of the network, no forward pass.
    """
    kind, requested = Goal(
        keep_macs=keep_macs,
        keep_params=keep_params,
        remove_filters=remove_filters,
        remove_silent=remove_silent,
    ).asked
    check_prunable(graph)
    if kind == "remove_silent":
        return plan_silent(graph)
    block = alignment(align)
    for group in graph.prunable:
        _check_scores(group, scores)
    if scores.curves:
        widths = by_curves(graph, scores.curves, orders_of(graph, scores), kind, requested, block)
    else:
        widths = equal_shares(graph, orders_of(graph, scores), kind, requested, block)
    found = plan_widths(graph, scores, widths, kind=kind, requested=requested)
    if found.target.achieved > requested:
        raise TargetError(
            f"{kind}={requested} was missed: {found.target.achieved:.3f} would stay (or go); this is a fault of "
            "the planner, which must not pass in silence"
        )
    return found


def plan_silent(graph: FilterGraph) -> PruningPlan:
    """Let go what is constant already.

    Args:
        graph: From `trace`.

    Returns:
        The plan; of its target, requested is the share of all prunable units that is silent, achieved the share that
        goes.

    Raises:
        TargetError: If there is nothing that can go.
    """
    silence, units = graph.silence, sum(group.size for group in graph.prunable)
    gone = units - sum(len(silence.kept.get(group.name, range(group.size))) for group in graph.prunable)
    if not gone:
        found = (
            f"{silence.count} of {units} filters are silent, and none of them"
            if silence.count
            else "no filter"
        )
        raise TargetError(
            f"remove_silent: {found} can go without changing what the network computes; "
            "ask for a share instead, such as keep_macs=0.5"
        )
    target = Target("remove_silent", silence.count / units, gone / units)
    return PruningPlan(target, silence.kept, graph.cuts(silence.kept, silence.folds), graph.earlier)


def check_prunable(graph: FilterGraph) -> None:
    """Refuse a network of which nothing can be cut.

    Args:
        graph: From `trace`.

    Raises:
        TargetError: If every layer is frozen; reasons are named.
    """
    if not graph.prunable:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(graph.frozen.items())[:3])
        if not graph.layers:
            raise TargetError(
                "nothing can be pruned: there is no convolution or linear layer of a known kind in the network; "
                "a quantised network is pruned before it is quantised"
            )
        raise TargetError(f"nothing can be pruned: every layer is frozen ({reasons})")


def plan_widths(
    graph: FilterGraph, scores: FilterScores, widths: Mapping[str, int], *, kind: TargetKind, requested: float
) -> PruningPlan:
    """Keep the best units of every group at given widths: what all arms of a comparison share.

    Args:
        graph: From `trace`.
        scores: One score per unit and prunable group.
        widths: Units that stay, by group.
        kind: Kind of the target that the widths answer.
        requested: The share asked for.

    Returns:
        The plan.

    Raises:
        InputError: If a group has no scores, the wrong number of them, or a NaN among them.
    """
    kept: dict[str, tuple[int, ...]] = {}
    for group in graph.prunable:
        _check_scores(group, scores)
        kept[group.name] = group.first(widths[group.name], _best_first(group, scores).tolist())
    orders = orders_of(graph, scores)
    achieved = share_kept(graph, kind, {name: len(units) for name, units in kept.items()}, orders)
    if isclose(achieved, requested, rel_tol=1e-12):
        achieved = requested  # no more than rounding above it
    return PruningPlan(Target(kind, requested, achieved), kept, graph.cuts(kept), graph.earlier)


def orders_of(graph: FilterGraph, scores: FilterScores) -> dict[str, list[int]]:
    """In which order the units of every group go.

    Args:
        graph: From `trace`.
        scores: One score per unit and prunable group.

    Returns:
        By group its units, those that go first in front; at the end those without which a layer would be left without
        a channel.
    """
    return {group.name: group.ranked(_best_first(group, scores).tolist())[::-1] for group in graph.prunable}


def plan_like(graph: FilterGraph, scores: FilterScores, other: PruningPlan) -> PruningPlan:
    """Choose other units such that every layer has the same width as in another plan: for the arms of a comparison.

    Units of one group may have channels in different layers (those of an early and of a late stage in a residual
    stream that is padded); hence as many units of each kind stay as in the other plan.

    Args:
        graph: From `trace`.
        scores: One score per unit and prunable group.
        other: A plan for the same graph.

    Returns:
        The plan; its target is that of `other`.

    Raises:
        InputError: If a group has no scores, the wrong number of them, or a NaN among them.
    """
    kept: dict[str, tuple[int, ...]] = {}
    for group in graph.prunable:
        _check_scores(group, scores)
        rank = {unit: place for place, unit in enumerate(_best_first(group, scores).tolist())}
        before = set(other.kept_units[group.name])
        kept[group.name] = tuple(
            sorted(
                unit
                for kind in group.kinds()
                for unit in sorted(kind, key=rank.__getitem__)[: len(before & set(kind))]
            )
        )
    return PruningPlan(other.target, kept, graph.cuts(kept), graph.earlier)


def _best_first(group: Group, scores: FilterScores) -> Tensor:
    if group.name in scores.curves:
        return scores.curves[group.name].order.flip(0)
    return torch.argsort(scores.groups[group.name], descending=True, stable=True)


def _check_scores(group: Group, scores: FilterScores) -> None:
    values = scores.groups.get(group.name)
    if values is None or values.shape != (group.size,):
        found = "no scores" if values is None else f"scores of shape {tuple(values.shape)}"
        raise InputError(
            f"scores: {found} for the {group.size} units of group {group.name}; score this graph"
        )
    if bool(values.isnan().any()):
        raise InputError(f"scores: the scores of group {group.name} hold NaN")
    curve = scores.curves.get(group.name)
    if scores.curves and (curve is None or len(curve.order) != group.size):
        raise InputError(f"scores: no elimination curve for the {group.size} units of group {group.name}")
