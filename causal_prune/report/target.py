"""What a target is: a share that is to stay, or one that is to go."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

TargetKind = Literal[
    "keep_macs", "keep_params", "keep_latency", "remove_filters", "remove_silent", "max_drop"
]


@dataclass(frozen=True)
class Target:
    """What was asked for and what the plan gives, most as shares between 0 and 1; the same in a plan and in a report.

    Attributes:
        kind: "keep_macs", "keep_params" and "keep_latency" name the share that stays, "remove_filters" the one that
            goes; "remove_silent" the one that is constant and goes; "max_drop" the quality that may be lost on the
            validation split.
        requested: The share asked for; for "max_drop" a share of right images, or an error in its unit.
        achieved: The share that the plan gives; for "max_drop" what was lost, below 0 where the network became better.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    kind: TargetKind
    requested: float
    achieved: float
