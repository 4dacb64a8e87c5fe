"""What a caller may say about fine-tuning."""

from typing import Annotated, ClassVar

from pydantic import Field

from causal_prune.options import Count, Flag, Must, Number, OptionValues, Switch


class Tuning(OptionValues):
    """How a network is trained after the cut and the repair."""

    panel: ClassVar[str] = "How"

    epochs: Annotated[
        Count,
        Flag(default="3 for the embedded model, else 0"),
        Field(description="Epochs of fine-tuning after the cut."),
    ] = 0
    lr: Annotated[
        Number,
        Field(gt=0, description="Highest learning rate of the fine-tuning."),
        Must("a number above 0"),
    ] = 0.01
    distill: Annotated[Switch, Field(description="Fine-tune with the dense network as the teacher.")] = True
