"""Targets: how small a network is to become."""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, JsonValue, model_validator

from causal_prune.errors import InputError
from causal_prune.options import Flag, Must, Natural, Number, OptionValues, Share, Switch, flag_of
from causal_prune.report import TargetKind

TARGETS: tuple[TargetKind, ...] = get_args(TargetKind)
SETTLED = (*TARGETS, "plan")
"""What settles how small a network becomes."""
TOGETHER = {"keep_latency", "max_drop"}
"""Targets of which both may be given: whichever is reached first ends it."""
NOT_ASKED = (None, False)
"""Values of a target that is none."""
STANDARD: tuple[TargetKind, float] = ("keep_macs", 0.5)
"""The target where none is given."""


class Goal(OptionValues):
    """How small a network is to become: a target or a plan, and what widths have to be multiples of."""

    panel: ClassVar[str] = "How small"

    keep_macs: Annotated[
        Share | None,
        Must("between 0 and 1 (0.5 keeps half of the MACs)"),
        Flag(default="0.5"),
        Field(description="Target: share of the multiply-accumulates that stays."),
    ] = None
    keep_params: Annotated[
        Share | None,
        Must("between 0 and 1 (0.5 keeps half of the parameters)"),
        Field(description="Target: share of the parameters that stays."),
    ] = None
    keep_latency: Annotated[
        Share | None,
        Must("between 0 and 1 (0.5 keeps half of the median latency)"),
        Field(description="Target: share of the median ONNX Runtime latency that stays, on this machine."),
    ] = None
    remove_filters: Annotated[
        Share | None,
        Must("between 0 and 1 (0.3 removes three filters in ten)"),
        Field(description="Target: share of the filters that goes."),
    ] = None
    remove_silent: Annotated[
        Switch,
        Field(
            description="Target: the filters that are constant already, as masks leave them; no output changes."
        ),
    ] = False
    max_drop: Annotated[
        Annotated[Number, Field(gt=0)] | None,
        Must("above 0 (0.01 is one point of accuracy)"),
        Field(
            description="Target: the smallest network that loses no more than this on the validation split, 0.01 for "
            "one point of accuracy; errors in their unit. May stand beside keep-latency."
        ),
    ] = None
    confidence: Annotated[
        Annotated[Number, Field(ge=0.5, lt=1)],
        Must("at least 0.5 and below 1"),
        Field(description="How sure it must be that no more than max-drop is lost, one-sided."),
    ] = 0.95
    plan: Annotated[
        Path | None,
        Must("the path of a plan.json"),
        Field(description="Make what this plan.json says, instead of choosing; in place of a target."),
    ] = None
    align: Annotated[
        Literal["auto"] | Natural,
        Must("'auto' or a whole number of at least 1"),
        Field(
            description="Widths are multiples of this where a layer is wide enough; auto reads the machine."
        ),
    ] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _one_target(cls, values: Any) -> Any:
        given = [name for name in SETTLED if isinstance(values, dict) and values.get(name) not in NOT_ASKED]
        if "plan" in given and len(given) > 1:
            raise InputError(f"`plan`: a plan says how small the network becomes; leave `{given[0]}` out")
        if len(given) > 1 and not TOGETHER.issuperset(given):
            raise InputError(f"`{given[0]}` and `{given[1]}` are two targets; give one")
        return values

    @property
    def asked(self) -> tuple[TargetKind, float]:
        """Kind and share of the target; half of the MACs where none is given."""
        shares = {name: getattr(self, name) for name in TARGETS}
        return next(((name, share) for name, share in shares.items() if share not in NOT_ASKED), STANDARD)

    def by_key(self) -> dict[str, JsonValue]:
        """The options as a file writes them, with the target that is aimed at where none was given.

        Returns:
            Plain values by key.
        """
        kind, share = self.asked
        target = {} if self.plan is not None else {flag_of(type(self), kind).name: share}
        return {**super().by_key(), **target}
