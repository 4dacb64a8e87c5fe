"""What a comparison gives: arms as they came out, by the part that each plays."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from matplotlib.figure import Figure
from torch import nn

from causal_prune.compensation import LayerRepair
from causal_prune.measure import Cost, Latency, Measured
from causal_prune.onnx_files import Parity
from causal_prune.report import AgreementSummary, Curve, Harm, Ladder, MapDrift, Picture


@dataclass(frozen=True)
class Stages:
    """Quality on the test split at every stage of an arm, from one pass.

    Attributes:
        end: At the end.
        cut: After the cut; None for the dense network, as all that follow.
        batchnorm: After re-estimation of batch norm alone; None where that is no stage of its own.
        compensation: After the repair.
    """

    end: Measured
    cut: Measured | None = None
    batchnorm: Measured | None = None
    compensation: Measured | None = None


@dataclass(frozen=True)
class Exported:
    """An arm as an ONNX file.

    Attributes:
        parity: With the network that it came from.
        size: In bytes.
        latency: Samples.
    """

    parity: Parity
    size: int
    latency: Latency


@dataclass(frozen=True)
class ArmResult:
    """One arm as it came out.

    Attributes:
        name: "dense", "causal", "random", "magnitude" or "causal-removed".
        importance: The method that chose the units; None for the dense network.
        seed: Of the method, where it has one.
        model: The network at the end.
        stages: Quality at every stage.
        cost: Multiply-accumulates and parameters.
        repairs: What compensation did to each layer; empty where it went by batch norm alone.
        exported: As a file; None for an arm that was not exported.
        verdict: Which way to repair was kept, and why; empty where there was nothing to judge.
    """

    name: str
    importance: str | None
    seed: int | None
    model: nn.Module
    stages: Stages
    cost: Cost
    repairs: tuple[LayerRepair, ...] = ()
    exported: Exported | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Outcome:
    """A comparison as it came out.

    Attributes:
        dense: The network before.
        causal: The arm that the bundle ships.
        others: The causal arm's units removed, where they were zeroed; then the rivals.
    """

    dense: ArmResult
    causal: ArmResult
    others: tuple[ArmResult, ...] = ()

    def __iter__(self) -> Iterator[ArmResult]:
        """All arms, in the order of the report."""
        yield from (self.dense, self.causal, *self.others)

    def joined(self, others: Iterable[ArmResult]) -> "Outcome":
        """The same comparison with further arms.

        Args:
            others: They; they come last.

        Returns:
            Another outcome.
        """
        return replace(self, others=(*self.others, *others))

    def each(self, change: Callable[[ArmResult], ArmResult]) -> "Outcome":
        """The same comparison with every arm changed.

        Args:
            change: From an arm to what stands in its place.

        Returns:
            Another outcome.
        """
        return replace(
            self,
            dense=change(self.dense),
            causal=change(self.causal),
            others=tuple(change(arm) for arm in self.others),
        )


@dataclass(frozen=True)
class Sheet:
    """A picture of test images.

    Attributes:
        told: Its name, title and caption in the report.
        figure: The picture.
    """

    told: Picture
    figure: Figure


@dataclass(frozen=True)
class Judged:
    """What is told of a choice besides its arms.

    Attributes:
        curve: Quality against the share of units removed; None where it was not measured.
        agreement: How far the importances rank the units as ablation does; None where that means nothing.
        harm: Which test images were lost and gained; None where no image is right or wrong.
        drifts: Whether the networks look at the same things, by method; none where it was not asked for.
        sheets: Pictures of test images, and what the report says of each.
        remarks: What was left out.
        ladder: Where the quality comes from, step by step; None where it cannot be told.
    """

    curve: Curve | None = None
    agreement: AgreementSummary | None = None
    harm: Harm | None = None
    drifts: tuple[MapDrift, ...] = ()
    sheets: tuple[Sheet, ...] = ()
    remarks: tuple[str, ...] = ()
    ladder: Ladder | None = None
