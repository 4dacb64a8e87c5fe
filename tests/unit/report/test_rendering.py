"""Rendering: golden texts, figures that are figures, and pieces that are missing.

To write the golden texts anew after an intended change: `UPDATE_GOLDEN=1 pytest tests/unit/report`; then read
the difference. `golden/<case>.json` is the input and is never written by a test.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from matplotlib import image

from causal_prune.errors import InputError
from causal_prune.report.rendering import render
from causal_prune.report.report import Report
from tests.unit.report import made_reasons

Fake = Callable[..., Report]
GOLDEN = Path(__file__).parent / "golden"
FIGURES = {"accuracy_vs_removed", "latency_accuracy", "widths", "importance", "agreement", "ladder"}


def _rendered(report: Report, folder: Path) -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    report.save(folder / "report.json")
    render(folder)
    return (folder / "report.md").read_text("utf-8"), (folder / "report.html").read_text("utf-8")


def _drawn(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "figures").iterdir()}


@pytest.mark.parametrize("case", ["remove", "zero"])
@pytest.mark.parametrize("kind", ["md", "html"])
def test_the_texts_are_golden(tmp_path: Path, case: str, kind: str) -> None:
    shutil.copy(GOLDEN / f"{case}.json", tmp_path / "report.json")
    render(tmp_path)
    text = (tmp_path / f"report.{kind}").read_bytes()
    text = re.sub(rb"(data:image/png;base64,)[A-Za-z0-9+/=]+", rb"\1", text)
    golden = GOLDEN / f"{case}.{kind}"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        golden.write_bytes(text)
    assert golden.is_file(), f"{golden} is missing; see the top of this file"
    assert text == golden.read_bytes()


def test_the_same_report_gives_the_same_bytes(fake: Fake, tmp_path: Path) -> None:
    _rendered(fake(), tmp_path / "a")
    _rendered(fake(), tmp_path / "b")
    names = ["report.md", "report.html", *(f"figures/{name}.png" for name in FIGURES)]
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_pictures_that_the_report_names_are_shown_and_missing_ones_told(fake: Fake, tmp_path: Path) -> None:
    named = [{"name": "flipped", "title": "Flipped", "caption": "One of 9 images."}]
    report = fake(harm=made_reasons.harm(), pictures=named, drifts=[made_reasons.drift()])
    report.save(tmp_path / "report.json")
    with pytest.raises(InputError, match=r"figures/flipped.png: is missing; make the bundle again"):
        render(tmp_path)
    (tmp_path / "figures" / "flipped.png").write_bytes(b"a picture")
    text, html = _rendered(report, tmp_path)
    assert "![Flipped](figures/flipped.png)" in text and "One of 9 images." in html
    assert "YSBwaWN0dXJl" in html, "it is in the page"
    assert "drift" in _drawn(tmp_path) and "figures/drift.png" in text
    assert "a\\|b" in text and "<th>a|b</th>" in html
    plain, _ = _rendered(fake(), tmp_path / "plain")
    assert "Which images paid" not in plain and "same things" not in plain


@pytest.mark.parametrize("depth", [5, 60])
def test_figures_are_drawn_and_large_enough_to_read(fake: Fake, tmp_path: Path, depth: int) -> None:
    _rendered(fake(depth), tmp_path)
    assert _drawn(tmp_path) == FIGURES
    for name in FIGURES:
        pixels = image.imread(tmp_path / "figures" / f"{name}.png")
        assert pixels.std() > 0.02, f"{name} is blank"
        assert pixels.shape[1] == 960
    rows = image.imread(tmp_path / "figures" / "widths.png").shape[0] / depth
    assert rows >= 34  # at 150 dots per inch: room for a 9 point label per layer


def test_rendering_leaves_matplotlib_as_it_was(fake: Fake, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    _rendered(fake(), tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_missing_pieces_are_left_out_with_a_word(fake: Fake, tmp_path: Path) -> None:
    report = fake(
        curve=None,
        comparison=None,
        importances={},
        layers=[],
        agreement=None,
        parity=None,
        notes=[],
        environment={},
        ladder=None,
    )
    for text in _rendered(report, tmp_path):
        for word in (
            "no curve of accuracy was measured",
            "causal was not compared with random",
            "the report holds no importances",
            "the report lists no layers",
            "Agreement with ablation was not measured",
            "nothing was exported",
            "None.",
        ):
            assert word in text
    assert _drawn(tmp_path) == {"latency_accuracy"}


def test_without_latency_the_report_says_so(fake: Fake, tmp_path: Path) -> None:
    whole = fake()
    bare = {"latency_ms": None, "speedup": None, "onnx_bytes": None}
    report = fake(
        dense=whole.dense.model_copy(update=bare), arms=[arm.model_copy(update=bare) for arm in whole.arms]
    )
    for text in _rendered(report, tmp_path):
        assert "no latency was measured in this run" in text and "its latency was not measured" in text
    assert "latency_accuracy" not in _drawn(tmp_path)


def test_a_stale_figure_goes(fake: Fake, tmp_path: Path) -> None:
    _rendered(fake(), tmp_path)
    _rendered(fake(curve=None), tmp_path)
    assert _drawn(tmp_path) == FIGURES - {"accuracy_vs_removed"}


def test_zero_without_removed_says_that_nothing_stands_beside_it(fake: Fake, tmp_path: Path) -> None:
    for text in _rendered(fake(mode="zero", arms=fake(mode="zero").arms[:1]), tmp_path):
        assert "nothing to set beside it" in re.sub(r"\s+", " ", text)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]


def test_the_html_is_one_file_without_network_or_script(fake: Fake, tmp_path: Path) -> None:
    _, text = _rendered(fake(), tmp_path)
    links = _Links()
    links.feed(text)
    assert links.tags.count("img") == len(FIGURES) and "script" not in links.tags and "link" not in links.tags
    assert all(source.startswith("data:image/png;base64,") for source in links.sources)
    assert "@import" not in text and "url(" not in text


def test_the_markdown_links_to_figures_that_exist(fake: Fake, tmp_path: Path) -> None:
    text, _ = _rendered(fake(), tmp_path)
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert len(links) == len(FIGURES) and all((tmp_path / link).is_file() for link in links)


def test_names_cannot_break_out_of_the_page(fake: Fake, tmp_path: Path) -> None:
    markdown, html = _rendered(fake(title="<script>x</script>", importance="a|b"), tmp_path)
    assert "<script>" not in html and "&lt;script&gt;" in html
    assert "a\\|b" in markdown


def test_only_report_json_is_read(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{not json")
    _rendered(fake(), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["title"] == "digits_cnn"
    with pytest.raises(InputError, match="report.json: cannot be read"):
        render(tmp_path / "figures")


def test_options_and_classes_are_shown_where_a_report_has_them(fake: Fake, tmp_path: Path) -> None:
    named = {"options": {"data": "a|b", "freeze": ["x", "y"]}, "class_names": ("cat", "<dog>")}
    text, page = _rendered(fake(mode="remove").model_copy(update=named), tmp_path)
    assert (
        "Labels and classes: 0 cat, 1 <dog>." in text
        and "| data | a\\|b |" in text
        and "| freeze | x,y |" in text
    )
    assert "<tr><th>1</th><td>&lt;dog&gt;</td></tr>" in page and "<dt>freeze</dt><dd>x,y</dd>" in page
    text, page = _rendered(fake(mode="remove"), tmp_path)
    assert (
        "option in force" not in text and "Options in force" not in page and "Labels and classes" not in text
    )


def test_what_was_shrunk_stands_beside_the_widths_where_anything_was(fake: Fake, tmp_path: Path) -> None:
    report = fake()
    first, *others = report.layers
    shrunk = report.model_copy(update={"layers": (first.model_copy(update={"shrinkage": 0.1234}), *others)})
    lines = _rendered(shrunk, tmp_path / "shrunk")[0].splitlines()
    head = next(k for k, line in enumerate(lines) if line.startswith("| layer | filters before"))
    rows = lines[head : head + 2 + len(report.layers)]
    assert rows[0].endswith("| shrunk by |")
    assert f"`{first.name}`" in rows[2]
    assert rows[2].endswith("| 12.34 % |")
    assert len({line.count("|") for line in rows}) == 1, "a table"
    assert any(line.startswith('"Shrunk by": ') for line in lines)
    assert "shrunk by" not in _rendered(report, tmp_path / "plain")[0]
