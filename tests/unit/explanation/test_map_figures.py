"""Pictures of maps: one scale for both networks, colours that say what they mean."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from causal_prune.explanation.map_figures import MapRow, map_figure, save_picture

RNG = np.random.default_rng(0)


def row(low: float, high: float, caption: str = "a") -> MapRow:
    first, second = (low + (high - low) * RNG.random((4, 5)) for _ in range(2))
    return MapRow(RNG.random((4, 5, 3)), caption, first, second)


def pictures(figure) -> list:
    return [axes for axes in figure.axes if axes.images]


@pytest.mark.parametrize("across", [1, 2])
def test_both_maps_of_an_image_share_a_scale_and_the_difference_is_symmetrical(across: int) -> None:
    rows = [row(0, 3), row(0, 0.1), row(1, 2)]
    figure = map_figure(rows, across=across)
    cells = pictures(figure)
    assert len(cells) == 12
    for k, each in enumerate(rows):
        image, first, second, gap = cells[4 * k : 4 * k + 4]
        np.testing.assert_allclose(image.images[0].get_array(), each.image)
        reach = max(each.first.max(), each.second.max())
        assert first.images[0].get_clim() == second.images[0].get_clim() == (0, reach)
        assert gap.images[0].get_clim() == (-reach, reach), "none is negative"
        np.testing.assert_allclose(gap.images[0].get_array(), each.second - each.first)
    assert [axes.get_title() for axes in cells[1:4]] == ["dense", "compressed", "difference"]
    labels = [axes.get_xlabel() for axes in figure.axes if not axes.images]
    assert labels[-2:] == ["maps: weak  →  strong", "difference: compressed less  ←  0  →  more"]
    figure.canvas.draw()


def test_maps_with_a_sign_are_symmetrical_around_0() -> None:
    figure = map_figure([row(-1, 3), row(0, 1)])
    cells = pictures(figure)
    low, high = cells[1].images[0].get_clim()
    assert low == -high and cells[1].images[0].get_cmap().name == "RdBu_r"
    assert cells[3].images[0].get_clim() == (2 * low, 2 * high), "from one sign to the other"
    assert "speaks against" in [axes.get_xlabel() for axes in figure.axes if not axes.images][-2]
    rounding = MapRow(np.zeros((2, 2, 3)), "a", np.array([[-1e-9, 1.0]]), np.array([[0.0, 1.0]]))
    assert pictures(map_figure([rounding]))[1].images[0].get_cmap().name == "viridis"


def test_a_constant_map_says_so_and_is_finite() -> None:
    flat = MapRow(np.zeros((2, 2, 3)), "a", np.zeros((2, 2)), np.zeros((2, 2)))
    cells = pictures(map_figure([flat]))
    assert cells[1].get_title() == "dense (constant)" and cells[1].images[0].get_clim() == (0, 1)


def test_images_alone_have_no_maps_and_no_legend() -> None:
    figure = map_figure([MapRow(RNG.random((3, 3, 3)), f"number {k}\nof three") for k in range(3)], across=3)
    assert (
        len(figure.axes) == 3
        and [axes.get_title(loc="left") for axes in figure.axes][2] == "number 2\nof three"
    )


def test_without_the_difference_there_is_one_legend() -> None:
    figure = map_figure([row(0, 1)] * 3, difference=False, across=2, heads=("before", "after"))
    assert len(pictures(figure)) == 9
    assert pictures(figure)[1].get_title() == "before"
    assert len([axes for axes in figure.axes if axes.get_xlabel()]) == 1


def test_names_may_hold_what_formulas_are_made_of_and_lines_fit(tmp_path: Path) -> None:
    rows = [replace(row(0, 1), caption="cost$_$ $1-$5 \\foo\n" + "long " * 20), row(0, 1, "漢字")]
    figure = map_figure(rows)
    assert all(len(line) <= 24 for line in pictures(figure)[0].get_title(loc="left").splitlines())
    save_picture(figure, tmp_path / "a.png")
    save_picture(map_figure(rows), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_nothing_is_cut_off(tmp_path: Path) -> None:
    figure = map_figure([row(-1, 1)] * 12)
    save_picture(figure, tmp_path / "a.png")
    edges = imread(tmp_path / "a.png")[..., :3]
    assert all((edge == 1).all() for edge in (edges[0], edges[-1], edges[:, 0], edges[:, -1])), (
        "a white margin"
    )
