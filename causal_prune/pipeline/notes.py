"""Sentences for the report on what was done and left undone."""

from collections.abc import Iterator

from causal_prune.comparison import ArmResult, Chosen
from causal_prune.data import Data
from causal_prune.machine import alignment
from causal_prune.pipeline.options import Options


def notes(data: Data, options: Options, chosen: Chosen, views: int = 1) -> Iterator[str]:
    """What a reader should know of the choice.

    Args:
        data: The images.
        options: What was asked for.
        chosen: What is known of the network.
        views: Of every calibration image.

    Yields:
        Sentences.
    """
    graph, block = chosen.graph, alignment(options.align)
    yield from chosen.doubts
    yield f"calibration: {data.calibration_source}"
    if views > 1:
        yield f"the repair had {views} views of each image: itself, and zoomed crops, half of them mirrored"
    if block > 1:
        yield f"widths are multiples of up to {block}, the block of ONNX Runtime's convolutions here"
    if options.plan is not None:
        yield f"the units that went are those of the plan {options.plan}, not chosen in this run"
    if options.importance == "documented":
        yield f"the documented score was computed over the {options.parents or 'graph'} of convolutions"
    for group in graph.groups:
        if group.frozen is not None and len(group.of_role("producer")) > 1:
            layers = ", ".join(member.layer for member in group.of_role("producer"))
            yield f"frozen together, because {group.frozen}: {layers}"
    if any(group.approximate for group in graph.prunable):
        yield "a normalisation over channels makes removal differ from silencing in some layers (approximate)"
    if graph.uncounted:
        yield f"not counted in the MACs, as no formula is known: {', '.join(graph.uncounted)}"
    yield from chosen.moments.notes


def repairs(causal: ArmResult) -> Iterator[str]:
    """What a reader should know of the repair.

    Args:
        causal: The arm that the bundle ships.

    Yields:
        Sentences.
    """
    if causal.verdict:
        yield f"compensation of the causal arm: {causal.verdict}"
    kept = [repair for repair in causal.repairs if repair.outcome == "kept"]
    if causal.repairs:
        refitted = sum(repair.outcome == "refitted" for repair in causal.repairs)
        joined = {name for repair in causal.repairs for name in repair.together}
        together = f", {len(joined)} of them together with the layer that reads them" if joined else ""
        yield f"compensation refitted {refitted} of {len(causal.repairs)} layers of the causal arm{together}"
    for repair in kept:
        yield f"compensation left the weights of {repair.layer} as they were cut: {repair.reason}"
    for repair in causal.repairs:
        if repair.remark:
            yield f"compensation of {repair.layer}: {repair.remark}"
