"""What a target is: a share that is to stay, or one that is to go."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

TargetKind = Literal["keep_macs", "keep_params", "keep_latency", "remove_filters"]


class Target(BaseModel):
    """What was asked and what was reached, both as the share that `kind` names (0..1)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: TargetKind
    requested: float
    achieved: float
