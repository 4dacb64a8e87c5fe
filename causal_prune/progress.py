"""Progress bars for long steps: silent as a library, visible from the command line."""

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from time import monotonic
from typing import TypeVar

T = TypeVar("T")
_SHOWN: ContextVar[bool] = ContextVar("causal_prune_progress_shown", default=False)


@contextmanager
def shown(visible: bool = True) -> Iterator[None]:
    """Show (or hide) progress bars on stderr for everything that runs inside the block.

    Args:
        visible: Whether bars are drawn.

    Yields:
        Nothing; the former setting returns at the end of the block.
    """
    token = _SHOWN.set(visible)
    try:
        yield
    finally:
        _SHOWN.reset(token)


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
    if not _SHOWN.get():
        yield from items
        return
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

    size = total if total is not None else len(items) if isinstance(items, Sized) else None
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=size, speed="")
        start, images = monotonic(), 0
        for item in items:
            yield item
            images += count(item) if count is not None else 0
            speed = f"{images / max(monotonic() - start, 1e-9):,.0f} images/s" if count is not None else ""
            bars.update(task, advance=1, speed=speed)


@contextmanager
def status(label: str) -> Iterator[None]:
    """Show a spinner on stderr while a step without a count runs.

    Args:
        label: The step, in two or three words.

    Yields:
        Nothing.
    """
    if not _SHOWN.get():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield
