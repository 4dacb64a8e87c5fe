"""What a caller may say about the arms of a comparison."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from causal_prune.errors import InputError
from causal_prune.options import Must, Natural, OptionValues, names_in

Arm = Literal["causal", "random", "magnitude"]


class Rivals(OptionValues):
    """Which other ways of choosing units the causal one is compared with."""

    panel: ClassVar[str] = "Evidence"

    arms: Annotated[
        tuple[Arm, ...],
        BeforeValidator(names_in),
        Must("a list of causal, random and magnitude"),
        Field(description="What is compared."),
    ] = ("causal", "random", "magnitude")
    random_seeds: Annotated[Natural, Field(description="Number of random arms.")] = 5

    @model_validator(mode="after")
    def _arms_of_a_comparison(self) -> Self:
        if "causal" not in self.arms:
            raise InputError("arms: 'causal' is missing; it is what the other arms are compared with")
        if len(set(self.arms)) < len(self.arms):
            raise InputError(f"arms: {','.join(self.arms)} names an arm twice")
        return self
