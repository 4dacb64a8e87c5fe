"""Render a bundle's `report.json` as text and figures; reads nothing else, but for the pictures that it names."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from causal_prune.errors import InputError
from causal_prune.report import ladder_words, reasons, tables, wording
from causal_prune.report.figures import Plate, draw_figures
from causal_prune.report.report import Picture, Report
from causal_prune.report.size_words import HEADS, search_rows, search_told
from causal_prune.report.verdict import headline, standing
from causal_prune.report.yardstick import NONE

UNITS = ("%", "pp", "ms", "images", "seeds")


def render(folder: Path) -> None:
    """Write `report.md`, `report.html` and `figures/*.png` from `report.json` and the pictures that it names.

    The same `report.json` gives the same text, byte for byte. The HTML is one file that needs no network
    and no script.

    Args:
        folder: Holds `report.json`; receives the rest, replacing older renderings.

    Raises:
        InputError: Where `report.json` is missing or does not fit the schema, or a picture that it names is missing.
    """
    report = Report.load(folder / "report.json")
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    plates = draw_figures(report, figures)
    plates += [_picture(picture, figures) for picture in report.pictures]
    for plate in plates:
        if not plate.drawn:
            (figures / f"{plate.name}.png").unlink(missing_ok=True)
    for name in ("report.md", "report.html"):
        (folder / name).write_text(
            _fill(f"{name}.j2", report, plates, figures), encoding="utf-8", newline="\n"
        )


def _fill(template: str, report: Report, plates: list[Plate], figures: Path) -> str:
    environment = Environment(
        loader=PackageLoader("causal_prune.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=template.startswith("report.html"),
    )
    environment.filters.update(cell=_cell, firm=_firm)

    def image(plate: Plate) -> str:
        return base64.b64encode((figures / f"{plate.name}.png").read_bytes()).decode("ascii")

    answer, choice = headline(report)
    return environment.get_template(template).render(
        report=report,
        plates={plate.name: plate for plate in plates},
        image=image,
        words=wording,
        reasons=reasons,
        steps=ladder_words,
        answer=answer,
        choice=choice,
        standing=standing(report),
        yardstick=report.yardstick,
        NONE=NONE,
        rows=tables.arm_rows(report),
        sides=tables.side_rows(report),
        disagreements=tables.disagreements(report),
        size_heads=HEADS,
        sizes=() if report.search is None else search_rows(report.search, report.yardstick),
        sizes_told="" if report.search is None else search_told(report.search, report.yardstick),
        frozen=tables.frozen_rows(report),
        curve=tables.curve_rows(report),
        classes=tables.class_rows(report),
        options=tables.option_rows(report),
    )


def _picture(picture: Picture, figures: Path) -> Plate:
    if not (figures / f"{picture.name}.png").is_file():
        raise InputError(f"{figures / picture.name}.png: is missing; make the bundle again")
    return Plate(picture.name, picture.title, picture.caption, drawn=True)


def _cell(text: object) -> str:
    # a bar or a line break would end the cell of a Markdown table
    return str(text).replace("|", "\\|").replace("\n", " ")


def _firm(text: str) -> str:
    # a number must not be parted from its unit at the end of a line
    for unit in UNITS:
        text = text.replace(f" {unit}", f"\u00a0{unit}")
    return text.replace("p = ", "p\u00a0=\u00a0")
