"""Plans that are not chosen here: one from a file, and that of a cut that another program made."""

from pathlib import Path

from torch import nn

from causal_prune.errors import InputError
from causal_prune.planning.network_cost import share_kept
from causal_prune.report import Target
from causal_prune.surgery import Cuts, LayerCut, PruningPlan, stages_of
from causal_prune.tracing import FilterGraph, Group


def plan_of(graph: FilterGraph, network: nn.Module) -> PruningPlan:
    """The plan that makes a network which torch-pruning has cut of the dense one.

    Saved, it is what `load` and `--plan` need: every arm of a comparison is then as wide as torch-pruning left the
    network.

    Args:
        graph: From `trace`, of the dense network.
        network: From `cut_by_torch_pruning`.

    Returns:
        The plan; its target is the share of the multiply-accumulates that is left.

    Raises:
        InputError: If the network has no record of its cut, or was cut in another way than its graph allows; the layer
            is named.

    Example:
        ``plan_of(cp.trace(dense, example), cut_by_torch_pruning(dense, pruned)).save(Path("plan.json"))``
    """
    stages = stages_of(network)[len(graph.earlier) :]
    if len(stages) != 1:
        raise InputError(
            f"network: {len(stages)} cuts lead to it from the traced one instead of one; give what "
            "`cut_by_torch_pruning` returns, and the graph of the dense network"
        )
    recorded = stages[0].cuts
    kept = {group.name: _kept(group, recorded) for group in graph.prunable}
    cuts = graph.cuts(kept)
    for name in graph.layers:
        if _axes(cuts.layers.get(name)) != _axes(recorded.layers.get(name)):
            why = graph.frozen.get(name, "its channels go with those of other layers")
            raise InputError(f"network: {name} was cut in a way that its graph does not allow ({why})")
    achieved = share_kept(
        graph,
        "keep_macs",
        {name: len(units) for name, units in kept.items()},
        {group.name: _gone_first(group, kept[group.name]) for group in graph.prunable},
    )
    return PruningPlan(Target("keep_macs", achieved, achieved), kept, cuts, graph.earlier)


def given_plan(graph: FilterGraph, path: Path) -> PruningPlan:
    """Read the plan of a file, and see that it is one for this network.

    Args:
        graph: From `trace`.
        path: A `plan.json`.

    Returns:
        The plan, as it was saved.

    Raises:
        InputError: If the file is no plan, or one for another network, for a bundle that was cut before, or for another
            graph of dependencies.
    """
    found = PruningPlan.load(path)
    start = f"`plan` {path}: "
    if found.dependencies != graph.dependencies:
        raise InputError(
            f"{start}was made with {found.dependencies}; add `dependencies` {found.dependencies}"
        )
    if found.earlier != graph.earlier:
        raise InputError(
            f"{start}was made for a network that {len(found.earlier)} cuts had led to, this one has "
            f"{len(graph.earlier)}; give `from_bundle` the bundle that it was made from, or leave it out"
        )
    sizes = {group.name: group.size for group in graph.prunable}
    if unknown := sorted(found.kept_units.keys() ^ sizes.keys()):
        raise InputError(
            f"{start}was made for another network, or with other layers frozen: {unknown[0]} differs"
        )
    for name, units in found.kept_units.items():
        if not units or units != tuple(sorted(set(units))) or units[0] < 0 or units[-1] >= sizes[name]:
            raise InputError(f"{start}was made for another network: {name} has {sizes[name]} units here")
    cuts = graph.cuts(found.kept_units, found.cuts.folds)
    wrong = next((name for name in graph.layers if cuts.layers.get(name) != found.layers.get(name)), None)
    if wrong is not None or cuts != found.cuts:
        raise InputError(f"{start}was made for another network: {wrong or 'what it cuts'} differs")
    return found


def _kept(group: Group, cuts: Cuts) -> tuple[int, ...]:
    """Units of which no producer's channel is gone."""
    gone: set[int] = set()
    for member in group.of_role("producer"):
        cut = cuts.layers.get(member.layer)
        if cut is not None and cut.keep_filters is not None:
            stays = set(cut.keep_filters)
            pairs = zip(member.positions, member.units, strict=True)
            gone |= {unit for position, unit in pairs if position not in stays}
    return tuple(unit for unit in range(group.size) if unit not in gone)


def _axes(cut: LayerCut | None) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    return (None, None) if cut is None else (cut.keep_filters, cut.keep_inputs)


def _gone_first(group: Group, kept: tuple[int, ...]) -> list[int]:
    stays = set(kept)
    return [unit for unit in range(group.size) if unit not in stays] + list(kept)
