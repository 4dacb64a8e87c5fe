"""What quality is measured by: its name, its unit, which direction is better, and how its numbers are written."""

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

NONE = "–"  # what was not measured


class Yardstick(BaseModel):
    """The words and units for the quality of a network; every number of it in a report is read with these.

    `name` (such as "accuracy") follows "test" in a sentence; `better` is the direction in which a network is better.
    `kind` is "share" where an image is right or wrong and quality is the share of right ones, 0 to 1, and "number"
    where every image has a number and quality is their mean. A number is written times `scale` with `digits` and its
    `unit`, a difference with `points`; `item` is one of what is judged, in the singular.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(min_length=1)]
    better: Literal["higher", "lower"]
    kind: Literal["share", "number"]
    unit: str = ""
    points: str = ""
    scale: Annotated[float, Field(gt=0)] = 1.0
    digits: Annotated[int, Field(ge=0)] = 3
    item: str = "image"

    @property
    def interval_of(self) -> str:
        """Whose interval is given."""
        return {"share": "Wilson", "number": "Student"}[self.kind]

    @property
    def test(self) -> str:
        """Whose test compares two networks on the same images."""
        return {"share": "McNemar", "number": "Wilcoxon"}[self.kind]

    @property
    def slug(self) -> str:
        """The name as a part of a file's name."""
        return re.sub(r"\W+", "_", self.name.lower())

    @property
    def heading(self) -> str:
        """The name above a column or beside an axis, with the unit where cells go without."""
        return f"{self.name} in {self.unit}" if self.kind == "number" and self.unit else self.name

    @property
    def told(self) -> str:
        """What is measured, for an error."""
        return f"{self.heading} ({self.better} is better)"

    def agrees_with(self, other: "Yardstick") -> bool:
        """Whether numbers of both can be held against each other.

        Args:
            other: Another yardstick; it may write its numbers otherwise.

        Returns:
            Whether name, kind, direction and unit are the same.
        """
        return (self.name, self.kind, self.better, self.unit) == (
            other.name, other.kind, other.better, other.unit,
        )  # fmt: skip

    @property
    def in_columns(self) -> "Yardstick":
        """The same for the cells of a table: a unit that is a word stands in the heading alone."""
        return self if self.kind == "share" else self.model_copy(update={"unit": "", "points": ""})

    def gain(self, difference: float) -> float:
        """How much better the first of two networks is.

        Args:
            difference: Quality of the first less that of the second.

        Returns:
            Above 0 where the first is better.
        """
        return difference if self.better == "higher" else -difference

    def text(self, quality: float | None, digits: int | None = None) -> str:
        """Write a quality with its unit.

        Args:
            quality: The number, or None.
            digits: After the point; None for the usual ones.

        Returns:
            For example "97.50 %"; a dash for None.
        """
        return NONE if quality is None else self._with(self.unit, self._number(quality, digits))

    def spread(self, mean: float, deviation: float) -> str:
        """Write a mean with a standard deviation.

        Args:
            mean: Of qualities.
            deviation: Of the same.

        Returns:
            For example "94.44 ± 1.20 %".
        """
        return self._with(self.unit, f"{self._number(mean)} ± {self._number(deviation)}")

    def interval(self, bounds: tuple[float, float]) -> str:
        """Write an interval.

        Args:
            bounds: Lower and upper bound.

        Returns:
            For example "95.1 to 98.8 %".
        """
        digits = max(self.digits - 1, 0)
        return self._with(self.unit, " to ".join(self._number(bound, digits) for bound in bounds))

    def signed(self, difference: float) -> str:
        """Write a difference without its unit.

        Args:
            difference: Of two qualities.

        Returns:
            For example "+1.20" or "−0.30"; zero has no sign.
        """
        number = self._number(abs(difference))
        return number if float(number) == 0 else ("+" if difference > 0 else "−") + number

    def change(self, difference: float | None) -> str:
        """Write a difference with its unit.

        Args:
            difference: Of two qualities, or None.

        Returns:
            For example "+1.20 pp"; a dash for None.
        """
        return NONE if difference is None else self._with(self.points, self.signed(difference))

    def _number(self, quality: float, digits: int | None = None) -> str:
        return f"{self.scale * quality:.{self.digits if digits is None else digits}f}"

    def _with(self, unit: str, text: str) -> str:
        return f"{text} {unit}" if unit else text


ACCURACY = Yardstick(
    name="accuracy", better="higher", kind="share", unit="%", points="pp", scale=100, digits=2
)
"""That of reports which do not say: the first ones knew no other."""
