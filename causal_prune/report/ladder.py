"""Where the quality of a smaller network comes from, as values of a report."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from causal_prune.report.strict import Count, Strict

Station = Literal["cut", "batchnorm", "least_squares", "fine_tuned"]
Widths = Literal["equal", "curves"]


class Rung(Strict):
    """One choice of units at one choice of widths, on its way from the cut to the end.

    `units` is who chose them: "causal" is the arm that the bundle ships, whatever its `importance`. `widths` are
    "equal" where every group gives up the same share of its units, "curves" where the elimination curves say how many
    go from where. The stations are qualities on the test split: after the cut, with batch norm re-estimated and
    nothing else, after the least-squares repair, after fine-tuning; None where there was no such station. With
    several `seeds` each is a mean. `macs` are those of the network with its units removed, also where a run zeroes.
    """

    units: str
    importance: str
    widths: Widths
    seeds: tuple[int, ...] = ()
    macs: Count
    cut: float
    batchnorm: float | None = None
    least_squares: float | None = None
    fine_tuned: float | None = None

    def at(self, station: Station) -> float | None:
        """The quality at a station.

        Args:
            station: Which.

        Returns:
            The quality; None where there is no such station.
        """
        value: float | None = getattr(self, station)
        return value


class Ladder(Strict):
    """The causal arm beside pruning as it is usually done, station by station, all with the same MACs.

    `left_out` says which rung is missing and why: because another one is the same network, or because its target is
    out of reach.
    """

    rungs: Annotated[tuple[Rung, ...], Field(min_length=1)]
    left_out: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> "Ladder":
        if sum(rung.units == "causal" for rung in self.rungs) != 1:
            raise ValueError("rungs hold no single rung of causal units")
        for name in ("batchnorm", "least_squares"):
            if len({getattr(rung, name) is None for rung in self.rungs}) > 1:
                raise ValueError(f"some rungs have the station {name} and others do not")
        return self

    @property
    def causal(self) -> Rung:
        """The arm that the bundle ships."""
        return next(rung for rung in self.rungs if rung.units == "causal")

    @property
    def stations(self) -> tuple[Station, ...]:
        """Those that any rung has, in order."""
        every: tuple[Station, ...] = ("cut", "batchnorm", "least_squares", "fine_tuned")
        return tuple(name for name in every if any(rung.at(name) is not None for rung in self.rungs))

    def rung(self, units: str, widths: Widths) -> Rung | None:
        """Look a rung up.

        Args:
            units: Who chose them.
            widths: Of which kind.

        Returns:
            The rung; None where it was left out.
        """
        return next((each for each in self.rungs if (each.units, each.widths) == (units, widths)), None)
