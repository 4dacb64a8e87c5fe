"""Words and rows for where the quality of a smaller network comes from."""

from itertools import pairwise
from typing import TYPE_CHECKING

from causal_prune.report.ladder import Ladder, Rung, Station
from causal_prune.report.report import Report
from causal_prune.report.wording import kept, plural, quantity
from causal_prune.report.yardstick import Yardstick

if TYPE_CHECKING:
    from rich.table import Table

STATIONS: dict[Station, str] = {
    "cut": "cut",
    "batchnorm": "batch norm",
    "least_squares": "least squares",
    "fine_tuned": "fine-tuned",
}
WIDTHS = {"equal": "equal shares", "curves": "from the curves"}
EQUAL_MACS = 0.01
"""As near to each other as a target is met."""


def ladder_title(yardstick: Yardstick) -> str:
    """What the ladder is called.

    Args:
        yardstick: Of the report.

    Returns:
        For example "Where the accuracy comes from"; nobody asks where an error comes from.
    """
    return f"Where the {yardstick.name if yardstick.better == 'higher' else 'quality'} comes from"


def ladder_told(report: Report) -> str:
    """Say what each step earns, from pruning as it is usually done to the causal arm.

    Args:
        report: The report.

    Returns:
        A sentence, and another on what was left out; empty without a ladder.
    """
    ladder, yardstick = report.ladder, report.yardstick
    if ladder is None:
        return ""
    (rung, station, _), *steps = path = _path(ladder)
    with_norm = " and batch norm re-estimated" if station == "batchnorm" else ", just cut,"
    text = f"{_named(rung)} with {_widths(rung)}{with_norm} has {_quality(rung, station, yardstick)}"
    if rung is not ladder.causal:
        text += _at_macs(report, ladder, rung)
    earned = _earned(path, yardstick)
    if steps:
        last, end, _ = path[-1]
        text += f"; {earned}: {yardstick.text(last.at(end))} in the end"
    text += f" (dense {yardstick.text(report.dense.quality)})."
    if yardstick.better == "lower":
        text += " Lower is better."
    if ladder.causal.widths == "equal":
        text += f" “{report.importance}” has no curves to spread the cut by: all widths are equal shares."
    return f"{text} Left out: {'; '.join(ladder.left_out)}." if ladder.left_out else text


def _path(ladder: Ladder) -> list[tuple[Rung, Station, str]]:
    """Rungs and stations from the usual way to the causal one, and the step that leads to each."""
    causal = ladder.causal
    usual = [ladder.rung(units, "equal") for units in ("magnitude", "random")]
    usual += [ladder.rung(units, causal.widths) for units in ("magnitude", "random")]
    rung = next((each for each in usual if each is not None), causal)
    station: Station = "cut" if rung.batchnorm is None else "batchnorm"
    path = [(rung, station, "")]
    if rung.widths != causal.widths:
        # units that are the causal ones at these widths have no rung of their own
        rung = ladder.rung(rung.units, causal.widths) or causal
        path.append((rung, station, "widths from the curves"))
    if causal.least_squares is not None:
        station = "least_squares"
        path.append((rung, station, "least squares"))
    if rung is not causal:
        path.append((causal, station, "the choice of units"))
    if causal.fine_tuned is not None:
        path.append((causal, "fine_tuned", "fine-tuning"))
    return path


def _earned(path: list[tuple[Rung, Station, str]], yardstick: Yardstick) -> str:
    """What each step adds or takes away; a verb stands once for all steps in a row that share it."""
    told, before = [], ""
    for (rung, station, _), (after, then, step) in pairwise(path):
        first, second = rung.at(station), after.at(then)
        assert first is not None and second is not None, "stations of the causal rung are those of all"
        difference, ending = second - first, "" if step.startswith("widths") else "s"
        number = yardstick.change(abs(difference)).removeprefix("+")
        if yardstick.signed(difference)[0] not in "+−":
            verb, words = "", f"change{ending} nothing"
        elif difference > 0:
            verb, words = "add", f"add{ending} {number}"
        else:
            verb, words = "take", f"take{ending} away {number}"
        told.append(f"{step} {number if verb and verb == before else words}")
        before = verb
    return ", ".join(told)


def _named(rung: Rung) -> str:
    seeds = f" (mean of {plural(len(rung.seeds), 'seed')})" if len(rung.seeds) > 1 else ""
    return f"{rung.units.capitalize()}{seeds}"


def _widths(rung: Rung) -> str:
    return "an equal share from every group" if rung.widths == "equal" else "widths from the curves"


def _quality(rung: Rung, station: Station, yardstick: Yardstick) -> str:
    number = yardstick.text(rung.at(station))
    if yardstick.kind == "share":
        return f"{number} of test {yardstick.item}s right"
    return f"a test {yardstick.name} of {number}"


def _at_macs(report: Report, ladder: Ladder, rung: Rung) -> str:
    removed = " once removed" if report.mode == "zero" else ""
    if equal_macs(rung, ladder.causal):
        return f" at the same MACs{removed}"
    return f" at {kept(rung.macs, ladder.causal.macs)} of the causal arm's MACs{removed}"


def equal_macs(one: Rung, other: Rung) -> bool:
    """Whether two rungs may be said to have the same MACs.

    Args:
        one: A rung.
        other: Another one.

    Returns:
        Whether they differ by no more than the MACs of two plans with one target may.
    """
    return abs(one.macs - other.macs) <= EQUAL_MACS * max(one.macs, other.macs)


def ladder_heads(report: Report) -> list[str]:
    """Headings of the ladder's table.

    Args:
        report: A report with a ladder.

    Returns:
        One for each column of `ladder_rows`.
    """
    assert report.ladder is not None, "asked of reports with a ladder alone"
    return ["units", "widths", "MACs (kept)", *(STATIONS[each] for each in report.ladder.stations)]


def ladder_rows(report: Report) -> list[list[str]]:
    """The ladder as a table.

    Args:
        report: The report.

    Returns:
        One row for each rung, the causal one last: units, widths, MACs and the quality at every station that any rung
        has. None without a ladder.
    """
    ladder, yardstick = report.ladder, report.yardstick.in_columns
    if ladder is None:
        return []
    return [
        [
            _row_name(rung),
            WIDTHS[rung.widths],
            f"{quantity(rung.macs)} ({kept(rung.macs, report.dense.macs)})",
            *(yardstick.text(rung.at(each)) for each in ladder.stations),
        ]
        for rung in ladder.rungs
    ]


def _row_name(rung: Rung) -> str:
    return _short_name(rung) if rung.importance == rung.units else f"{rung.units} ({rung.importance})"


def _short_name(rung: Rung) -> str:
    return f"{rung.units}, {plural(len(rung.seeds), 'seed')}" if len(rung.seeds) > 1 else rung.units


def ladder_rows_told(report: Report) -> str:
    """Say how the table of the ladder is read.

    Args:
        report: A report with a ladder.

    Returns:
        A few sentences.
    """
    yardstick, ladder = report.yardstick, report.ladder
    assert ladder is not None, "asked of reports with a ladder alone"
    several = " Of several seeds: the mean." if any(len(each.seeds) > 1 for each in ladder.rungs) else ""
    stations = {
        "cut": "cut: nothing was done after the cut",
        "batchnorm": "batch norm: its statistics re-estimated, and nothing else",
        "least_squares": "least squares: what the repair without labels kept",
        "fine_tuned": "fine-tuned: at the end",
    }
    removed = " MACs are those of the networks once their units are removed." if report.mode == "zero" else ""
    return (
        f"Test {yardstick.heading} of {plural(report.split.test, yardstick.item)} ({yardstick.better} is better); the "
        "intervals are about as wide as those of the arms. Equal shares: every group gives up the same share of its "
        f"units. {'; '.join(stations[each] for each in ladder.stations).capitalize()}. A dash: not done."
        f"{several}{removed} In another order the steps would have other shares of the whole."
    )


def ladder_table(report: Report) -> "Table | None":
    """Lay the ladder out for the terminal.

    Args:
        report: The report.

    Returns:
        A rich table of at most 80 columns; None without a ladder.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    if report.ladder is None:
        return None
    table = Table(
        title=ladder_title(report.yardstick),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        caption=f"test {report.yardstick.heading}; random of several seeds: the mean",
        caption_justify="left",
    )
    table.add_column("units", no_wrap=True)
    table.add_column("widths", no_wrap=True)
    for heading in ("MACs kept", *(STATIONS[each] for each in report.ladder.stations)):
        table.add_column(heading.replace(" ", "\n").replace("-", "-\n"), justify="right", no_wrap=True)
    for rung, row in zip(report.ladder.rungs, ladder_rows(report), strict=True):
        shown = (_short_name(rung), row[1], kept(rung.macs, report.dense.macs), *row[3:])
        table.add_row(*map(escape, shown), style="bold" if rung is report.ladder.causal else None)
    return table
