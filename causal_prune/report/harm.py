"""Which images pay for a smaller network, as values of a report."""

from typing import Annotated

from pydantic import Field, model_validator

from causal_prune.report.strict import Count, Share, Strict


class ArmHarm(Strict):
    """Images on which one arm and the dense network differ in being right; `p` is McNemar's, exact and two-sided."""

    name: str
    seed: int | None
    lost: Count
    gained: Count
    p: Share


class ClassHarm(Strict):
    """The same of the causal arm, of the test images of one class.

    `p_holm` is `p` corrected for the number of classes (Holm 1979).
    """

    label: Count
    name: str
    total: Annotated[int, Field(ge=1)]
    lost: Count
    gained: Count
    p: Share
    p_holm: Share

    @model_validator(mode="after")
    def _flips_are_images(self) -> "ClassHarm":
        if self.lost + self.gained > self.total:
            raise ValueError(f"class {self.label} has {self.total} images but more that changed")
        return self

    @property
    def change(self) -> float:
        """Of the class's accuracy, -1 to 1."""
        return (self.gained - self.lost) / self.total


class Exemplar(Strict):
    """A test image on which most arms predict another class than the dense network.

    `image` is its position in the test split, `arms` the class that most of the disagreeing arms name, `disagreeing`
    how many there are.
    """

    image: Count
    label: Count
    dense: Count
    arms: Count
    disagreeing: Annotated[int, Field(ge=1)]


class Exemplars(Strict):
    """Pruning-identified exemplars (Hooker et al. 2019, "What do compressed deep neural networks forget?").

    `population` counts the arms that vote, `count` the images on which more than half of them disagree with dense,
    `images` the first of these, most disagreement first. `dense_right` and `causal_right` are shares of the `count`
    images that the two networks have right; None where there are none.
    """

    population: Annotated[int, Field(ge=1)]
    count: Count
    images: tuple[Exemplar, ...]
    dense_right: Share | None
    causal_right: Share | None


class Harm(Strict):
    """Which test images were lost and which were gained, by arm and by class.

    Lost: the dense network was right, the compressed one is wrong. Gained: the reverse. `worst` is the label of the
    class whose accuracy fell most; None where none fell.
    """

    arms: tuple[ArmHarm, ...]
    classes: tuple[ClassHarm, ...]
    worst: Count | None
    exemplars: Exemplars

    @property
    def causal(self) -> ArmHarm:
        """Of the arm that the bundle ships."""
        return next(arm for arm in self.arms if arm.name == "causal")
