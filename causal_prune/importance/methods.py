"""The table of methods: where each is written, and what it cannot do without."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Parents = Literal["graph", "chain"]
Need = Literal["network", "images", "classes"]


@dataclass(frozen=True)
class Method:
    """A line of the table.

    Attributes:
        room: The file of this wing that holds it.
        needs: What it reads besides the graph and the moments: the dense "network", labelled "images", labels that
            name "classes".
        function: Its name there; takes an `Evidence`, returns `FilterScores`.
    """

    room: str
    needs: tuple[Need, ...] = ()
    function: str = "score"


METHODS: Mapping[str, Method] = {
    "documented": Method("documented"),
    "structural": Method("structural"),
    "magnitude": Method("magnitude"),
    "magnitude_l2": Method("magnitude", function="score_l2"),
    "taylor": Method("taylor", ("network", "images")),
    "geometric_median": Method("geometric_median"),
    "batchnorm_scale": Method("batchnorm_scale", ("network",)),
    "ablation": Method("ablation", ("network", "images")),
    "pcace": Method("pcace", ("network", "images", "classes")),
    "iba": Method("iba", ("network", "images")),
    "random": Method("random"),
}

WITH_LABELS = frozenset(name for name, method in METHODS.items() if "images" in method.needs)
"""Methods that look at the loss."""
