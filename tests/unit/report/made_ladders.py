"""Ladders of a report, with believable numbers."""

from typing import Any

MACS = 1_703_750
STATIONS = ("cut", "batchnorm", "least_squares", "fine_tuned")
USUAL: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("magnitude", "equal"): (0.158, 0.499, 0.858, 0.901),
    ("random", "equal"): (0.112, 0.431, 0.842, 0.893),
    ("magnitude", "curves"): (0.463, 0.865, 0.914, 0.929),
    ("random", "curves"): (0.294, 0.804, 0.899, 0.921),
    ("causal", "curves"): (0.555, 0.871, 0.9148, 0.972222),
}


def rung(units: str, widths: str, *stations: float | None, **changes: Any) -> dict[str, Any]:
    """One rung; the random ones at the causal widths have five seeds."""
    seeds = {("random", "curves"): [0, 1, 2, 3, 4], ("random", "equal"): [0]}.get((units, widths), [])
    return {
        "units": units,
        "importance": "direct" if units == "causal" else units,
        "widths": widths,
        "seeds": seeds,
        "macs": MACS - 31 * (widths == "equal"),
        **dict(zip(STATIONS, (*stations, None, None, None), strict=False)),
        **changes,
    }


def ladder(
    *stations: str, only: tuple[tuple[str, str], ...] = tuple(USUAL), **changes: Any
) -> dict[str, Any]:
    """A ladder of some rungs; without the stations that are not named, where any are."""
    gone = {name: None for name in STATIONS if stations and name not in stations}
    rungs = [rung(*key, *USUAL[key], **gone) for key in only]
    return {"rungs": rungs, "left_out": [], **changes}
