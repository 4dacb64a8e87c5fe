"""What the plots show, read off the figures, and that no window opens unless one is asked for."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from causal_prune.explanation import cnn_plots
from causal_prune.explanation.cnn_features import Heatmap

SIZE = (4.0, 3.0)
RNG = np.random.default_rng(0)


def picture(figure: Figure, axes: int, image: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[axes].images[image].get_array())


def test_a_row_of_three_for_every_image() -> None:
    maps = [Heatmap(RNG.random((2, 2)), RNG.random((4, 4)), RNG.random((4, 4, 3))) for _ in range(2)]
    figure = cnn_plots.heatmap_rows(maps, alpha=0.3, cmap="viridis", figsize=SIZE, show=False)
    assert len(figure.axes) == 6 and tuple(figure.get_size_inches()) == (4, 6)
    assert [axes.get_title() for axes in figure.axes] == ["image", "heatmap", "overlay"] * 2
    for row, drawn in enumerate(maps):
        np.testing.assert_allclose(picture(figure, 3 * row), drawn.image)
        np.testing.assert_allclose(picture(figure, 3 * row + 1), drawn.heat)
        overlay = figure.axes[3 * row + 2].images
        assert [image.get_alpha() for image in overlay] == [None, 0.3]
        assert overlay[1].get_cmap().name == "viridis" and overlay[1].get_clim() == (0, 1)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_filter_is_a_small_picture_with_its_number(channels: int) -> None:
    weights = torch.randn(5, channels, 3, 3, generator=torch.Generator().manual_seed(channels))
    weights[4] = 2.0
    scores = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    figure = cnn_plots.filters(weights, scores, figsize=SIZE, show=False)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["0: 0.100", "1: 0.200", "2: 0.300", "3: 0.150", "4: 0.250", ""]
    for index in range(4):
        shown = picture(figure, index)
        values = weights[index] if channels == 3 else weights[index].mean(dim=0, keepdim=True)
        expected = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(shown, expected.permute(1, 2, 0).squeeze(-1), atol=1e-6)
    assert (picture(figure, 4) == 0.5).all(), "a flat filter is grey"
    plain = cnn_plots.filters(weights, None, figsize=SIZE, show=False)
    assert [axes.get_title() for axes in plain.axes][:5] == list("01234")


def test_a_box_for_every_layer_in_order() -> None:
    scores = {"stem": np.array([0.1, 0.2, 0.7]), "body.0": np.array([0.5, 0.5])}
    (axes,) = cnn_plots.boxes(scores, figsize=SIZE, show=False).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["stem", "body.0"]
    medians = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
    assert 0.2 in medians and 0.5 in medians
    assert axes.get_ylabel().startswith("importance")


def test_filters_that_answer_alike_lie_close_together() -> None:
    base = RNG.standard_normal((2, 40))
    responses = np.concatenate(
        [base[[0]] + 0.01 * RNG.standard_normal((6, 40)), base[[1]] * 3 + 0.01 * RNG.standard_normal((6, 40))]
    )
    scores = np.linspace(0, 1, 12)
    figure = cnn_plots.tsne("stem", responses, scores, figsize=SIZE, show=False)
    axes = figure.axes[0]
    (points,) = axes.collections
    places = np.asarray(points.get_offsets())
    np.testing.assert_allclose(points.get_array(), scores)
    assert [text.get_text() for text in axes.texts] == [str(k) for k in range(12)]
    assert axes.get_title() == "filters of stem"
    apart = np.linalg.norm(places[:6].mean(0) - places[6:].mean(0))
    assert max(np.linalg.norm(part - part.mean(0), axis=1).max() for part in (places[:6], places[6:])) < apart
    again = cnn_plots.tsne("stem", responses, scores, figsize=SIZE, show=False)
    np.testing.assert_array_equal(places, again.axes[0].collections[0].get_offsets())


def test_filters_that_never_change_are_drawn_too() -> None:
    figure = cnn_plots.tsne("stem", np.ones((4, 9)), np.ones(4) / 4, figsize=SIZE, show=False)
    assert np.isfinite(np.asarray(figure.axes[0].collections[0].get_offsets())).all()


def test_a_window_opens_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(pyplot, "show", lambda: opened.append(True))
    scores = {"a": np.array([0.5, 0.5])}
    cnn_plots.boxes(scores, figsize=SIZE, show=False)
    assert not opened and not pyplot.get_fignums()
    cnn_plots.boxes(scores, figsize=SIZE, show=True)
    assert opened == [True] and len(pyplot.get_fignums()) == 1
    pyplot.close("all")
