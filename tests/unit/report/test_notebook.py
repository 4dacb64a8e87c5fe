"""Reports where a caller looks at them: plain text, and a part of a page in which every text is escaped."""

from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from causal_prune.report.notebook import as_html, as_text, frontier_html, frontier_text
from causal_prune.report.report import Report
from causal_prune.report.summary import summary_lines
from tests.unit.report.test_frontier import made


class Page(HTMLParser):
    """Counts what is open, and collects the texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert not attrs
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("title", ["net", "<b>a & b</b>"])
def test_a_report_is_a_part_of_a_page(fake: Callable[..., Report], title: str) -> None:
    report = fake().model_copy(update={"title": title})
    page = Page(as_html(report))
    assert page.open == [] and page.tags <= {"h4", "p", "table", "tr", "th", "td"}
    assert title in page.texts and all(line in page.texts for line in summary_lines(report))
    assert report._repr_html_() == as_html(report)
    assert ("least squares" in page.texts) == (report.ladder is not None)


def test_a_report_is_printed_as_its_table_and_sentences(fake: Callable[..., Report]) -> None:
    report = fake()
    text = str(report)
    assert text == as_text(report) and "\x1b" not in text and "…" not in text
    assert all(line in text for line in summary_lines(report)) and "causal" in text
    assert repr(report).startswith("Report(")


def test_a_frontier_is_printed_and_shown(fake: Callable[..., Report]) -> None:
    frontier = made(title="<net>")
    assert str(frontier) == frontier_text(frontier) and frontier.makes in str(frontier)
    page = Page(frontier_html(frontier))
    assert page.open == [] and "<net>" in page.texts and frontier._repr_html_() == frontier_html(frontier)
