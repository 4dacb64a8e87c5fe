"""What ties labels together once a network has run: shared weights, branches on data, borders of modules."""

from torch import nn

from causal_prune.tracing.channel_labels import FIXED
from causal_prune.tracing.channel_tracer import ChannelTracer, Crossing
from causal_prune.tracing.layer_rules import TraceRecord


def freeze_branches(tracer: ChannelTracer) -> None:
    """Freeze what crosses into code that asks for values: it may do anything at the next image.

    Args:
        tracer: What a run has left.
    """
    for crossing in tracer.crossings:
        owners = {crossing.module, crossing.module.rpartition(".")[0]} if crossing.module else {""}
        for owner in owners & tracer.branching:
            place = f" in {owner}" if owner else ""
            tracer.sets.freeze(crossing.labels, f"a branch or a number depends on the images{place}")


def tie_shared_weights(tracer: ChannelTracer, record: TraceRecord) -> None:
    """Let layers that share one weight be cut alike, or not at all.

    Args:
        tracer: What a run has left.
        record: What the layers were.
    """
    owners: dict[int, str] = {}
    for name, module in record.modules.items():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter):
            continue
        first = owners.setdefault(id(weight), name)
        if first == name:
            continue
        reason = f"shares its weight with {first}"
        known, other = record.layers.get(first), record.layers.get(name)
        if known is None or other is None:
            for layer in (known, other):
                if layer is not None:
                    tracer.sets.freeze((*layer.out_labels, *layer.in_labels), reason)
            continue
        pairs = [(known.out_labels, other.out_labels), (known.in_labels, other.in_labels)]
        if bool(getattr(module, "transposed", False)) != bool(
            getattr(record.modules[first], "transposed", False)
        ):
            pairs = [(known.out_labels, other.in_labels), (known.in_labels, other.out_labels)]
        for left, right in pairs:
            if len(left) != len(right):  # the shared weight stands for different axes: grouped against dense
                tracer.sets.freeze((*left, *right), reason)
            for a, b in zip(left, right, strict=False):
                tracer.sets.unite(a, b, reason)


def join_calls(tracer: ChannelTracer) -> None:
    """Let all calls of a module meet its borders in one form; a border that differs from call to call is none.

    Args:
        tracer: What a run has left.
    """
    calls: dict[tuple[str, str, int], list[Crossing]] = {}
    for crossing in tracer.crossings:
        calls.setdefault((crossing.module, crossing.side, crossing.leaf), []).append(crossing)
    tracer.crossings = []
    for crossings in calls.values():
        first, *others = crossings
        alike = {(c.dim, tuple(tracer.sets.find(label) for label in c.labels)) for c in crossings}
        for other in others if len(alike) == 1 else ():
            tracer.regions.unite(first.before, other.before)
            tracer.regions.unite(first.after, other.after)
        if len(alike) == 1:
            tracer.crossings.append(first)
        else:
            for crossing in crossings:
                tracer.regions.unite(crossing.before, crossing.after)


def settle_regions(tracer: ChannelTracer, record: TraceRecord) -> None:
    """Freeze what a layer would read cut where it must stay whole, and spare pairs of adapters.

    Args:
        tracer: What a run has left.
        record: What the layers were.
    """
    regions = tracer.regions
    for region, labels in record.cut_regions:
        if regions.is_wide(region):
            tracer.sets.freeze(
                labels, "a function that counts channels by position stands directly beside the layer"
            )
    cut = {regions.find(region) for region, _ in record.cut_regions}
    borders = [(c.before, c.after) for c in tracer.crossings if _moves(tracer, c)]
    changed = True
    while changed:
        changed = False
        votes: dict[int, int] = {}
        for before, after in borders:
            a, b = regions.find(before), regions.find(after)
            if a != b:
                votes[a] = votes.get(a, 0) + (1 if regions.is_wide(b) else -1)
                votes[b] = votes.get(b, 0) + (1 if regions.is_wide(a) else -1)
        for region, vote in votes.items():
            if vote > 0 and region not in cut and not regions.is_wide(region):
                regions.widen(region)
                changed = True


def _moves(tracer: ChannelTracer, crossing: Crossing) -> bool:
    """Whether any of the channels that cross may be cut."""
    return any(label != FIXED and tracer.sets.reason(label) is None for label in crossing.labels)
