"""What a caller may say about the repair."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from causal_prune.options import Bytes, Flag, Must, OptionValues

RepairMethod = Literal["least_squares", "batchnorm", "none"]
REPAIRS: dict[RepairMethod, str] = {
    "least_squares": "least squares",
    "batchnorm": "batch-norm re-estimation",
    "none": "none",
}
"""The methods as the report names them."""


def _spelt(value: object) -> object:
    """Take true and false for the best repair and none, and dashes for underscores."""
    if isinstance(value, bool):
        return "least_squares" if value else "none"
    return value.replace("-", "_") if isinstance(value, str) else value


class Repair(OptionValues):
    """How a cut network is repaired without labels."""

    panel: ClassVar[str] = "How"

    compensation: Annotated[
        RepairMethod,
        BeforeValidator(_spelt),
        Must("least-squares, batchnorm or none"),
        Flag("compensate", alone="least-squares", off="none"),
        Field(
            description="Repair the cut network without training: least-squares (the default), batchnorm or none."
        ),
    ] = "least_squares"
    max_memory: Annotated[
        Bytes | None,
        Must("a number of bytes above 0, such as 4GB or 512MiB"),
        Flag(default="half of what is free"),
        Field(description="What statistics and the repair may take, such as 4GB."),
    ] = None
