"""Tables of the terminal as plain text."""

from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

TEXT_COLUMNS = 100


def tables_as_text(tables: "Iterable[Table]") -> str:
    """Write tables for a log, or for `print`.

    Args:
        tables: They.

    Returns:
        Lines of at most 100 columns, without control codes and without blanks at their ends.
    """
    from rich.console import Console

    file = StringIO()
    console = Console(file=file, width=TEXT_COLUMNS, no_color=True, force_terminal=False)
    for table in tables:
        console.print(table)
    return "\n".join(line.rstrip() for line in file.getvalue().rstrip().splitlines())
