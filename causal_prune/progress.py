"""Progress of long work: steps that tick themselves off, and bars; silent as a library, visible from the shell."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

NOTHING = 0.1
"""A step that was left out took less than so many seconds."""
HELD_SECONDS = 10.0
"""What a log shows begins after so long, or with the end of the work."""
T = TypeVar("T")
Shown = Literal["off", "plain", "live"]
Part = Literal["result", "evidence"]
_SHOWN: ContextVar[Shown] = ContextVar("causal_prune_progress_shown", default="off")
_BARS: ContextVar["Progress | None"] = ContextVar("causal_prune_progress_bars", default=None)
_LOG: ContextVar[TextIO | None] = ContextVar("causal_prune_progress_log", default=None)
_STEPS: ContextVar["StepList | None"] = ContextVar("causal_prune_progress_steps", default=None)


@contextmanager
def shown(visible: bool = True, *, live: bool = True) -> Iterator[None]:
    """Show (or hide) progress for everything that runs inside the block.

    Args:
        visible: Whether anything is shown.
        live: Whether a list and bars are drawn on stderr, as in a terminal; else every step is one plain line on
            stdout, as for a log or a pipe.

    Yields:
        Nothing; the former setting returns at the end of the block.
    """
    token = _SHOWN.set(("live" if live else "plain") if visible else "off")
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextmanager
def logged(file: TextIO | None) -> Iterator[None]:
    """Write every step that ends inside the block, and what `log` is told, to a file as well.

    Args:
        file: Open for writing; None for no log.

    Yields:
        Nothing.
    """
    token = _LOG.set(file)
    try:
        yield
    finally:
        _LOG.reset(token)


def log(text: str) -> None:
    """Write a text to the log, with the time; nothing where there is no log.

    Args:
        text: One line or more.
    """
    file = _LOG.get()
    if file is not None:
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        file.write("".join(f"{now} {line.rstrip()}\n" for line in text.splitlines()))
        file.flush()


@dataclass
class Step:
    """One step of long work.

    Attributes:
        name: In a few words.
        part: Whether it makes the result, or says what the result is worth.
        expected: How many seconds it will about take; None where that is not known.
        seconds: How many it took; None while it has not ended.
        remark: What is to be told of it besides.
        running: Whether it is under way.
    """

    name: str
    part: Part = "result"
    expected: float | None = None
    seconds: float | None = None
    remark: str = ""
    running: bool = False


@dataclass
class StepList:
    """The steps of long work, in their order, with what they took.

    Attributes:
        steps: They.
        start: When the list began, on a clock that never goes back.
        held: Lines that are not printed yet.
    """

    steps: list[Step] = field(default_factory=list)
    start: float = field(default_factory=monotonic)
    held: list[str] = field(default_factory=list)

    def named(self, name: str) -> Step:
        """A step; one that was not foreseen comes last.

        Args:
            name: Of the step.

        Returns:
            The step itself.
        """
        found = next((each for each in self.steps if each.name == name), None)
        if found is None:
            ran = (each.part for each in reversed(self.steps) if each.running or each.seconds)
            part: Part = next(ran, "result")
            found = Step(name, part)
            self.steps.append(found)
        return found

    def spent(self, part: Part | None = None) -> float:
        """How long steps took.

        Args:
            part: Those of one part alone; None for all.

        Returns:
            Seconds.
        """
        return sum(each.seconds or 0.0 for each in self.steps if part in (None, each.part))

    def expected(self, part: Part | None = None) -> float:
        """How long steps will about take, as far as that is known.

        Args:
            part: Those of one part alone; None for all.

        Returns:
            Seconds.
        """
        return sum(each.expected or 0.0 for each in self.steps if part in (None, each.part))


@contextmanager
def listed(steps: Sequence[Step]) -> Iterator[StepList]:
    """Show a list of steps, which ticks itself off while they run inside the block.

    A list inside another one adds to it what it did not foresee, and how long its steps will take.

    Args:
        steps: What will be done.

    Yields:
        The list, which knows what every step took.
    """
    outer = _STEPS.get()
    if outer is not None:
        for each in steps:
            known = outer.named(each.name)
            known.expected, known.part = each.expected, each.part
        if outer.expected():
            _tell(f"about {duration(outer.expected())} from here")
        yield outer
        return
    made = StepList(list(steps))
    token = _STEPS.set(made)
    try:
        if _SHOWN.get() == "live":
            log(_foreseen(made))
            with _live(made):
                yield made
        else:
            _tell(_foreseen(made))
            yield made
            _let_go(made)
    finally:
        _STEPS.reset(token)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Run a step of the list that is shown, if there is one; a step may run in several pieces.

    Args:
        name: Of the step.

    Yields:
        Nothing.
    """
    steps = _STEPS.get()
    if steps is None or any(each.running for each in steps.steps):
        yield
        return
    current, start = steps.named(name), monotonic()
    current.running = True
    try:
        yield
    finally:
        current.running = False
        current.seconds = (current.seconds or 0.0) + monotonic() - start
    _tell(_line(current))


def passed_over(name: str, why: str) -> None:
    """Say of a step of the list that it is left out.

    Args:
        name: Of the step.
        why: In a few words.
    """
    steps = _STEPS.get()
    if steps is not None:
        current = steps.named(name)
        current.remark, current.expected = why, None
        if not current.running:  # else it is told with its end
            _tell(_line(current))


def duration(seconds: float) -> str:
    """Write a time span as one would say it.

    Args:
        seconds: 0 or more.

    Returns:
        For example "0.4 s", "12 s", "3 min 20 s", "1 h 05 min".

    Example:
        >>> [duration(seconds) for seconds in (0.42, 12.4, 200, 3900)]
        ['0.4 s', '12 s', '3 min 20 s', '1 h 05 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _foreseen(steps: StepList) -> str:
    known = [each.name for each in steps.steps]
    about = f", about {duration(steps.expected())}" if steps.expected() else ""
    count = "1 step" if len(known) == 1 else f"{len(known)} steps"
    return f"{count}{about}: {', '.join(known)}"


def _line(each: Step) -> str:
    """A step as one line, without control codes."""
    told = each.remark if each.seconds is None else duration(each.seconds)
    more = f" ({each.remark})" if each.remark and each.seconds is not None else ""
    return f"{each.name}: {told}{more}"


def _tell(text: str) -> None:
    """Say something in a log, and on stdout where every step is one plain line: stderr is for what is wrong.

    What fails at once prints its error and nothing else, so the first seconds are held back.
    """
    log(text)
    steps = _STEPS.get()
    if _SHOWN.get() != "plain" or steps is None:
        return
    steps.held.append(text)
    if monotonic() - steps.start >= HELD_SECONDS:
        _let_go(steps)


def _let_go(steps: StepList) -> None:
    """Print what was held back."""
    if _SHOWN.get() == "plain" and steps.held:
        sys.stdout.write("".join(f"{line}\n" for line in steps.held))
        sys.stdout.flush()
    steps.held.clear()


@contextmanager
def _live(steps: StepList) -> Iterator[None]:
    from rich.console import Console, Group
    from rich.live import Live

    bars = _columns()
    token = _BARS.set(bars)

    class Screen:
        def __rich__(self) -> Group:
            return Group(_grid(steps), bars)

    try:
        with Live(Screen(), console=Console(stderr=True), refresh_per_second=6):
            yield
    finally:
        _BARS.reset(token)


def _grid(steps: StepList) -> Any:
    from rich.table import Table
    from rich.text import Text

    left = max(0.0, steps.expected() - (monotonic() - steps.start))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold", style="dim")
    for each in steps.steps:
        done = each.seconds is not None and not each.running
        passed = bool(each.remark) and (each.seconds or 0.0) < NOTHING
        mark = "▸" if each.running else "–" if passed else "✓" if done else " "
        about = f"about {duration(each.expected)}" if each.expected and not done else ""
        style = "bold" if each.running else "" if done else "dim"
        time = duration(each.seconds) if done and each.seconds is not None and mark == "✓" else about
        grid.add_row(mark, Text(each.name, style), Text(time, style), each.remark)
    waiting = any(each.seconds is None and not each.remark for each in steps.steps)
    if waiting and steps.expected():
        grid.add_row("", Text(f"about {duration(left)} left", "dim"), "", "")
    return grid


def _columns() -> "Progress":
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
        console=Console(stderr=True),
        transient=True,
    )


@contextmanager
def _bars() -> Iterator["Progress"]:
    """The bars of the list that is shown, or bars of their own."""
    shared = _BARS.get()
    if shared is not None:
        yield shared
        return
    with _columns() as bars:
        yield bars


def track(
    items: Iterable[T],
    label: str,
    *,
    total: int | None = None,
    unit: str = "batch",
    count: Callable[[T], int] | None = None,
) -> Iterator[T]:
    """Iterate over `items` while a bar shows how far it is, at what speed and how long it will take.

    Args:
        items: What to iterate over.
        label: The step, in two or three words.
        total: Number of items where `items` has no length.
        unit: What one item is, in the singular.
        count: Number of images in an item; the bar then shows images per second.

    Yields:
        The items, unchanged.
    """
    if _SHOWN.get() != "live":
        yield from items
        return
    size = total if total is not None else len(items) if isinstance(items, Sized) else None
    with _bars() as bars:
        task = bars.add_task(label, total=size, speed="", unit=unit)
        start, images = monotonic(), 0
        try:
            for item in items:
                yield item
                images += count(item) if count is not None else 0
                speed = (
                    f"{images / max(monotonic() - start, 1e-9):,.0f} images/s" if count is not None else ""
                )
                bars.update(task, advance=1, speed=speed)
        finally:
            if bars is _BARS.get():
                bars.remove_task(task)


@contextmanager
def status(label: str) -> Iterator[None]:
    """Show a spinner on stderr while a piece of work without a count runs.

    Args:
        label: What it is, in two or three words.

    Yields:
        Nothing.
    """
    if _SHOWN.get() != "live":
        yield
        return
    shared = _BARS.get()
    if shared is None:
        from rich.console import Console

        with Console(stderr=True).status(label):
            yield
        return
    task = shared.add_task(label, total=None, speed="", unit="")
    try:
        yield
    finally:
        shared.remove_task(task)
