"""What a target is: a share that is to stay, or one that is to go."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

TargetKind = Literal["keep_macs", "keep_params", "keep_latency", "remove_filters", "remove_silent"]


@dataclass(frozen=True)
class Target:
    """What was asked for and what the plan gives, as shares between 0 and 1; the same in a plan and in a report.

    Attributes:
        kind: "keep_macs", "keep_params" and "keep_latency" name the share that stays, "remove_filters" the one that
            goes; "remove_silent" the one that is constant and goes.
        requested: The share asked for.
        achieved: The share that the plan gives.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: TargetKind
    requested: float
    achieved: float
