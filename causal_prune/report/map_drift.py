"""Whether networks still look at the same things, as values of a report."""

from typing import Annotated

from pydantic import Field

from causal_prune.report.strict import Count, Share, Strict

Correlation = Annotated[float, Field(ge=-1.0000001, le=1.0000001)]


class NetworkDrift(Strict):
    """Maps of one network against those of the dense one, means over the images that can be compared.

    Images that both classify alike and whose maps are not constant are `compared`; `constant` counts images of which
    one map is constant, `disagreeing` those that the two classify differently; of these, too, `spearman_disagreeing` is
    the mean. None where there are none.
    """

    name: str
    seed: int | None
    compared: Count
    constant: Count
    disagreeing: Count
    spearman: Correlation | None
    iou: Share | None
    pointing: Share | None
    spearman_disagreeing: Correlation | None


class DriftDifference(Strict):
    """Rank correlation of the causal arm's maps with dense's less that of random arms, on the same images.

    Those are images that both classify as the dense network does.

    `mean` is over the seeds of random, `ci95` Student's interval over them (None of one seed); `wins_of` counts the
    seeds that causal beats.
    """

    mean: float
    ci95: tuple[float, float] | None
    wins_of: tuple[Count, Count]


class MapDrift(Strict):
    """Drift of every arm by one method, and what it must be read against.

    `unlearned`: the dense network with its weights in random order, so that nothing is learned; its means are
    over all images, however it classifies them. `repeated`: the dense network's own maps drawn a second time, with
    another seed or, of a
    method without one, on images with a little noise.
    """

    method: str
    images: Annotated[int, Field(ge=1)]
    networks: tuple[NetworkDrift, ...]
    unlearned: NetworkDrift
    repeated: NetworkDrift
    causal_minus_random: DriftDifference | None
