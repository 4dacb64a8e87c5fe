"""Sizes of one network side by side: what each keeps, how fast it is, and what it loses without training."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from causal_prune.report.report import checked, read_json
from causal_prune.report.strict import Count, Positive, Strict
from causal_prune.report.time_spent import StepTaken
from causal_prune.report.yardstick import ACCURACY, Yardstick

Above0 = Annotated[float, Field(gt=0)]


class FrontierArm(Strict):
    """One way of choosing units at one size, judged on the validation split."""

    name: str
    seed: int | None
    quality: float
    ci95: tuple[float, float]


class FrontierSize(Strict):
    """One size. All arms share its widths; `onnx_bytes` and the latency are those of the causal one.

    `drop` is what the causal network loses against the dense one, `at_most` the one-sided bound of that. `plan` is a
    file of the folder. Of a size that cannot be reached `unreached` says why, and the rest is None or empty.
    """

    keep: Above0
    macs: Count | None = None
    params: Count | None = None
    onnx_bytes: Count | None = None
    median_ms: Positive | None = None
    speedup: Positive | None = None
    arms: tuple[FrontierArm, ...] = ()
    drop: float | None = None
    at_most: float | None = None
    within: bool = False
    plan: str | None = None
    unreached: str | None = None

    @model_validator(mode="after")
    def _is_told_or_unreached(self) -> Self:
        if (self.unreached is None) != bool(self.arms):
            raise ValueError("a size has arms, or a reason why it cannot be reached")
        return self

    def quality_of(self, name: str) -> tuple[float, ...]:
        """Qualities of the arms of one name.

        Args:
            name: Of the arms.

        Returns:
            One for each seed; empty where there is none.
        """
        return tuple(arm.quality for arm in self.arms if arm.name == name)

    @property
    def causal(self) -> FrontierArm | None:
        """The causal arm; None where the size cannot be reached."""
        return next((arm for arm in self.arms if arm.name == "causal"), None)


class Frontier(Strict):
    """What `causal-prune frontier` found; `frontier.json` is this.

    `dense` is the network before, with every size's fields. `taken` is the place in `sizes` of the smallest network
    that loses at most `max_drop` with the confidence; None where none does. `command` made it, `makes` makes the size
    that is taken.
    """

    schema_version: Literal[1]
    created: str
    title: str
    command: str
    data: str
    images: Count
    calibration: Count
    compensation: str
    importance: str
    yardstick: Yardstick = ACCURACY
    max_drop: Positive
    confidence: Annotated[float, Field(ge=0.5, lt=1)]
    threads: Count
    dense: FrontierSize
    sizes: tuple[FrontierSize, ...]
    taken: Count | None
    makes: str | None
    notes: tuple[str, ...] = ()
    environment: dict[str, str | int | float | bool | None] = Field(default_factory=dict)
    steps: tuple[StepTaken, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and check a `frontier.json`.

        Args:
            path: The file.

        Returns:
            The frontier.

        Raises:
            InputError: Where the file cannot be read, is of another version, or does not fit the schema.
        """
        return checked(cls, read_json(path), path)

    def __str__(self) -> str:
        """The table of the sizes and the sentences that go with it, as the terminal shows them."""
        from causal_prune.report.notebook import frontier_text  # it reads frontiers

        return frontier_text(self)

    def _repr_html_(self) -> str:
        """The same as a notebook shows it."""
        from causal_prune.report.notebook import frontier_html  # it reads frontiers

        return frontier_html(self)

    def save(self, path: Path) -> None:
        """Write it as indented JSON.

        Args:
            path: The file to write.
        """
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8", newline="\n")
