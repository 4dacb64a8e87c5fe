"""Standard output that holds JSON and nothing else: what anybody else prints goes to stderr."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def left_to_json(wanted: bool) -> Iterator[None]:
    """Send to stderr what is printed inside the block, also by C code and by programs that it starts.

    Args:
        wanted: Whether stdout is for JSON.

    Yields:
        Nothing.
    """
    if not wanted:
        yield
        return
    stdout, kept = sys.stdout, _diverted()
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout
        if kept is not None:
            os.dup2(kept, 1)
            os.close(kept)


def _diverted() -> int | None:
    """A copy of the descriptor of stdout, which then is that of stderr; None where stdout is no file of the system."""
    try:
        real = sys.stdout.fileno() == 1
    except (io.UnsupportedOperation, AttributeError, ValueError):
        return None
    if not real:
        return None
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    return kept
