"""The structural score: what the layers that read a unit lose with it, by their own equations."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from causal_prune.importance.elimination import Equations, direct_effects, eliminate, unique_effects
from causal_prune.importance.evidence import Evidence
from causal_prune.importance.scores import EliminationCurve, FilterScores, from_units
from causal_prune.observation import FilterMoments
from causal_prune.progress import track
from causal_prune.tracing import FilterGraph, Group, Member

UNIT = "share of the states that its readers join, by what the outputs lose with them"


def score(evidence: Evidence) -> FilterScores:
    """What the consumers of a group cannot reproduce without a unit, once their equations are learned again.

    At a consumer the structural equation is known: Y = W x + b, with x the patches that it reads. S is the covariance
    of *all* that it reads, shrunk between channels by what few images leave open (see `SamplingNoise`): kept units of
    this and of other groups, and frozen channels, may all stand in. Of unit j
        direct_j = E|| Y - Y(do x_j = E x_j) ||^2 = tr(W_j S_jj W_j^T),
        unique_j = tr(W_j ([S^-1]_jj)^-1 W_j^T),
    the second being what is left of the first when the other inputs' weights are fitted again by least squares.
    Backward elimination (see `elimination.eliminate`) takes the unit of the least unique effect, re-learns the
    equations, and goes on; it gives the curve.

    All is in units of the state s that the consumer's output becomes part of (see `state_flow`): the sum, where it is
    added into a residual stream, or else the (normalised) output itself. W is multiplied by what follows linearly
    (batch norm's g / sigma), a squared residual of filter i is divided by Var(s_i), and the shares are averaged over
    the channels of the state with weights d_i / sum_k d_k, d_i how much the network's outputs move when channel i is
    lost, to first order (see `worth_of_channels`). Effects are added over the group's consumers. Dividing by the
    total variance of the state instead, that is d_i = Var(s_i), would depend on the scale of its channels; this does
    not: multiplying a filter and dividing its readers changes no score of any group.

    Of a group that only functions with parameters of the user's own read (`F.linear(x, self.matrix)`), a unit counts
    by its share of the group's squared weights.

    A grouped convolution whose blocks go whole reads nothing that stays, hence is no consumer of its own units;
    depthwise ones only pass on.

    Args:
        evidence: The graph and the moments of what its layers read; consumers are read off the graph.

    Returns:
        The scores: the rise of the unexplained share when the unit goes, in the order of elimination, never below
        that of a unit that goes earlier. 0 for a unit that is dead, that nobody reads, or that others reproduce.

    Cost: see `eliminate`.
    """
    graph, moments = evidence.graph, evidence.moments
    curves = {}
    equations = equations_of(graph, moments, worth_of_channels(moments))
    for group in track(graph.prunable, "score", unit="group"):
        if not equations[group.name] and any(member.reads for member in group.members):
            curves[group.name] = _by_weights(group, moments)
            continue
        order, lost = eliminate(equations[group.name], group.size)
        curves[group.name] = EliminationCurve(order, lost.sum(dim=0), lost.sqrt().sum(dim=0).square())

    def rises(group: Group) -> Tensor:
        curve = curves[group.name]
        result = torch.empty(group.size, dtype=torch.float64)
        result[curve.order] = curve.unexplained.diff().cummax(dim=0).values
        return result

    return replace(from_units("structural", UNIT, graph, rises), curves=curves)


def _by_weights(group: Group, moments: FilterMoments) -> EliminationCurve:
    """The curve of a group that only functions with parameters of the user's own read: shares of squared weights.

    Args:
        group: The group.
        moments: From `observe`.

    Returns:
        The curve; what those functions make of the channels is not known.
    """
    squares = torch.zeros(group.size, dtype=torch.float64)
    for member in group.of_role("producer"):
        rows = moments.weights[member.layer].square().sum((1, 2))
        for position, unit in zip(member.positions, member.units, strict=True):
            squares[unit] += rows[position]
    shares = squares / squares.sum().clamp_min(1e-300)
    order = torch.argsort(shares, stable=True)
    lost = torch.cat((shares.new_zeros(1), shares[order].cumsum(0)))
    return EliminationCurve(order, lost, lost)


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
    equations = equations_of(graph, moments, worth_of_channels(moments))
    for group in graph.prunable:
        total = torch.zeros(group.size, dtype=torch.float64)
        for each in equations[group.name]:
            total += effect(each)
        found[group.name] = total
    return found


def equations_of(
    graph: FilterGraph, moments: FilterMoments, worth: Mapping[str, Tensor]
) -> dict[str, list[Equations]]:
    """The equations of every layer that reads a group.

    Args:
        graph: From `trace`.
        moments: From `observe`.
        worth: By consumer what each channel of the state that it joins counts, shape (filters,).

    Returns:
        By prunable group one entry per consumer.
    """
    return {
        group.name: [
            _equations(moments, member, group.size, worth[member.layer])
            for member in group.of_role("consumer")
            if graph.layers[member.layer].grouping != "blocks" and member.layer in moments.reads
        ]
        for group in graph.prunable
    }


def worth_of_channels(moments: FilterMoments) -> dict[str, Tensor]:
    """What each channel of the states counts: by how much the outputs move if it is lost, to first order.

    d_i = Var(s_i) * sum over positions of E (dz / ds_i)^2, with z the outputs (see `OutputEffects`). Where that is not
    known, all channels count alike.

    Args:
        moments: From `observe`.

    Returns:
        By consumer one number per filter, not negative.
    """
    worth = {}
    for name, state in moments.states.items():
        effects = moments.effects.get(name, torch.zeros_like(state.variance))
        gain = state.gain.square()
        found = torch.where(gain > 0, effects / gain.clamp_min(1e-300), 0.0) * state.variance
        worth[name] = found if bool((found > 0).any()) else torch.ones_like(found)
    return worth


def _equations(moments: FilterMoments, member: Member, units: int, worth: Tensor) -> Equations:
    read, state = moments.reads[member.layer], moments.states[member.layer]
    varies = state.variance > 1e-12 * state.variance.max()
    each = torch.where(varies, worth, 0.0)
    # a squared residual of a filter becomes its share of its channel's variance, times the share that this counts
    rows = (each / each.sum().clamp_min(1e-300) / state.variance.clamp_min(1e-300)).sqrt() * state.gain
    weight = moments.weights[member.layer] * torch.where(varies, rows, 0.0)[:, None, None]
    groups, inputs = read.covariance.shape[:2]
    owned: list[list[list[int]]] = [[[] for _ in range(units)] for _ in range(groups)]
    for position, unit in zip(member.positions, member.units, strict=True):
        block, columns = read.columns(position, weight.shape[2])
        if columns[0] not in owned[block][unit]:
            owned[block][unit] += columns
    width = max(len(columns) for block in owned for columns in block)
    table = [[columns + [inputs] * (width - len(columns)) for columns in block] for block in owned]
    own = read.own(weight.shape[2])
    covariance = read.believed(weight.shape[2])
    return Equations(read.equations(weight), covariance, torch.tensor(table), read.shrinkage, own, read.rank)


__all__ = ["direct_effects", "effects", "equations_of", "score", "unique_effects", "worth_of_channels"]
