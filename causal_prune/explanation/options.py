"""What a caller may say about the maps of a run."""

from typing import Annotated, ClassVar, Literal, get_args

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


def methods_in(value: object) -> object:
    """Take names of methods, each once, as they may be written.

    Args:
        value: Names with dashes or underscores, "all" among them for every method; True for the usual ones; False or
            "none" for none.

    Returns:
        Names; what cannot be a list of them is returned as it is.
    """
    if isinstance(value, bool):
        return USUAL if value else ()
    names = () if value == "none" else names_in(value)
    if not isinstance(names, list | tuple):
        return names
    plain = [name.replace("-", "_") if isinstance(name, str) else name for name in names]
    return tuple(dict.fromkeys(get_args(MapMethod) if "all" in plain else plain))


class Reasons(OptionValues):
    """Whether a run tells how far the networks look at the same things."""

    panel: ClassVar[str] = "Evidence"

    explain: Annotated[
        tuple[MapMethod, ...],
        BeforeValidator(methods_in),
        Must(f"a list of {', '.join(get_args(MapMethod))}"),
        Flag(default="none", alone=",".join(USUAL), off="none"),
        Field(
            description=f"Drift of every arm's attribution maps from the dense network's; alone: {','.join(USUAL)}."
        ),
    ] = ()
