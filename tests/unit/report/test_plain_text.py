"""Tables as plain text."""

import pytest
from rich.table import Table

from causal_prune.report.plain_text import tables_as_text


@pytest.mark.parametrize("forced", [False, True])
def test_text_has_no_codes_whatever_the_terminal_is(monkeypatch: pytest.MonkeyPatch, forced: bool) -> None:
    if forced:
        monkeypatch.setenv("FORCE_COLOR", "1")
    table = Table("[bold]name[/]", "ms", title="[red]title[/]")
    table.add_row("a", "1.5", style="green")
    text = tables_as_text([table, table])
    assert "\x1b" not in text and text.count("title") == 2 and text.count("1.5") == 2
    assert all(line == line.rstrip() and len(line) <= 100 for line in text.splitlines())
