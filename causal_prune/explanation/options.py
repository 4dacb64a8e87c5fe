"""What a caller may say about the maps of a run."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from causal_prune.options import Flag, Must, OptionValues, names_in

MapMethod = Literal[
    "saliency",
    "smooth_grad",
    "integrated_gradients",
    "cam",
    "grad_cam",
    "grad_cam_plus_plus",
    "smooth_grad_cam_plus_plus",
    "information_bottleneck",
]
USUAL: tuple[MapMethod, ...] = ("grad_cam", "saliency")
"""What is compared where it is not said: a map of the last layer's and one of the pixels."""


def _methods(value: object) -> object:
    """Take a truth value for the usual methods or none."""
    if isinstance(value, bool):
        return USUAL if value else ()
    return () if value == "none" else names_in(value)


class Reasons(OptionValues):
    """Whether a run tells how far the networks look at the same things."""

    panel: ClassVar[str] = "Evidence"

    explain: Annotated[
        tuple[MapMethod, ...],
        BeforeValidator(_methods),
        Must(f"a list of {', '.join(MapMethod.__args__)}"),
        Flag(default="none", alone=",".join(USUAL), off="none"),
        Field(
            description=f"Drift of every arm's attribution maps from the dense network's; alone: {','.join(USUAL)}."
        ),
    ] = ()
