"""What a caller may say about the arms of a comparison."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from causal_prune.errors import InputError
from causal_prune.options import Flag, Must, Natural, OptionValues, names_in

Arm = Literal["causal", "random", "magnitude"]


SEEDS = 5
"""Random arms, where no number is given and there is time for them."""


class Rivals(OptionValues):
    """How much is to be shown of what the result is worth, and what the causal choice of units is compared with."""

    panel: ClassVar[str] = "Evidence"

    evidence: Annotated[
        Literal["none", "quick", "full"],
        Must("'none', 'quick' or 'full'"),
        Field(
            description="What is made besides the result: nothing; as much as takes no longer than the result did, in "
            "samples; or all."
        ),
    ] = "quick"
    arms: Annotated[
        tuple[Arm, ...],
        BeforeValidator(names_in),
        Must("a list of causal, random and magnitude"),
        Field(description="What is compared."),
    ] = ("causal", "random", "magnitude")
    random_seeds: Annotated[
        Natural | None,
        Must("a whole number of at least 1"),
        Flag(default="5; with --evidence quick as many of them as there is time for"),
        Field(description="Number of random arms."),
    ] = None

    @model_validator(mode="after")
    def _arms_of_a_comparison(self) -> Self:
        if "causal" not in self.arms:
            raise InputError("arms: 'causal' is missing; it is what the other arms are compared with")
        if len(set(self.arms)) < len(self.arms):
            raise InputError(f"arms: {','.join(self.arms)} names an arm twice")
        if self.evidence == "none" and self.random_seeds is not None:
            raise InputError(
                "`evidence`: none runs no random arms; leave `random_seeds` out, or ask for quick"
            )
        return self

    @property
    def seeds(self) -> int:
        """How many random arms are run at most."""
        return SEEDS if self.random_seeds is None else self.random_seeds

    @property
    def in_two(self) -> bool:
        """Whether most random arms wait until the ladder is made, in case time runs out."""
        return self.evidence == "quick" and not self.named

    @property
    def named(self) -> bool:
        """Whether the arms were asked for one by one, so that time is no reason to leave one out."""
        return self.random_seeds is not None or self.arms != Rivals.model_fields["arms"].default
