"""The search for the smallest network that loses no more than was allowed."""

from typing import Annotated, Literal

from pydantic import Field

from causal_prune.report.strict import Count, Positive, Strict


class SizeTried(Strict):
    """One network that was cut, repaired and judged on validation images.

    `drop` is what it loses against the dense network, `at_most` the one-sided bound of that.
    """

    macs_kept: Annotated[float, Field(gt=0, le=1)]
    quality: float
    drop: float
    at_most: float
    within: bool


class SizeSearch(Strict):
    """What was tried for `max_drop`, in that order, and what ended it.

    `bound_by` is "max_drop" where a smaller network would lose too much, "keep_latency" where the network was fast
    enough before that. `latency_kept` is None where no latency was asked for or timed.
    """

    max_drop: Positive
    confidence: Annotated[float, Field(ge=0.5, lt=1)]
    images: Count
    dense: float
    tried: tuple[SizeTried, ...]
    bound_by: Literal["max_drop", "keep_latency"]
    keep_latency: float | None = None
    latency_kept: float | None = None
