"""What the plots show, read off the figures, and that no window opens unless one is asked for."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation.filter_figures import (
    plot_importance_distribution,
    visualize_filter_tsne,
    visualize_first_layer_filters,
    visualize_heatmap_on_input,
    visualize_top_filter_maps,
)
from causal_prune.explanation.response_maps import heatmaps_of, responses_of
from tests.unit.drawn_weights import drawn

SIZE = (4.0, 3.0)
RNG = np.random.default_rng(0)


def picture(figure: Figure, axes: int, image: int = 0) -> np.ndarray:
    return np.asarray(figure.axes[axes].images[image].get_array())


def one_layer(weights: Tensor) -> nn.Conv2d:
    net = nn.Conv2d(weights.shape[1], len(weights), weights.shape[2], bias=False)
    net.weight.data = weights
    return net


def test_a_row_of_three_for_every_image() -> None:
    net, images = drawn(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1))), torch.rand(2, 3, 4, 4)
    figure = visualize_heatmap_on_input(net, images, [0.3, 0.7], alpha=0.3, figsize=SIZE)
    maps = heatmaps_of(net, images, [0.3, 0.7], "0", None, None)
    assert len(figure.axes) == 6 and tuple(figure.get_size_inches()) == (4, 6)
    assert [axes.get_title() for axes in figure.axes] == ["image", "heatmap", "overlay"] * 2
    for row, drawn_map in enumerate(maps):
        np.testing.assert_allclose(picture(figure, 3 * row), drawn_map.image)
        np.testing.assert_allclose(picture(figure, 3 * row + 1), drawn_map.heat)
        overlay = figure.axes[3 * row + 2].images
        assert [image.get_alpha() for image in overlay] == [None, 0.3]
        assert overlay[1].get_cmap().name == "viridis" and overlay[1].get_clim() == (0, 1)
    with pytest.raises(InputError, match="alpha: 2 is not between 0 and 1"):
        visualize_heatmap_on_input(net, images, [0.3, 0.7], alpha=2)


def test_maps_of_the_largest_filters_stand_beside_their_image() -> None:
    net, images = drawn(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1))), torch.rand(3, 3, 4, 6)
    figure = visualize_top_filter_maps(net, images, [0.1, 0.4, np.nan, 0.4, 0.2], n_filters=3)
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "1: 0.400", "3: 0.400", "4: 0.200"]
    assert len(figure.axes) == 12
    maps = responses_of(net, images, "0")[1]
    for row in range(3):
        np.testing.assert_allclose(picture(figure, 4 * row + 2), maps[row, 3])
        scale = figure.axes[4 * row + 2].images[0].get_clim()
        assert scale == (float(maps[:, 3].min()), float(maps[:, 3].max())), "one for all images"
    assert len(visualize_top_filter_maps(net, images[0], np.ones(5), n_filters=9).axes) == 6
    with pytest.raises(InputError, match="n_filters: 0 is not at least 1"):
        visualize_top_filter_maps(net, images, np.ones(5), n_filters=0)
    with pytest.raises(InputError, match="importances: there are none that are finite"):
        visualize_top_filter_maps(net, images, np.full(5, np.nan))


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_every_filter_is_a_small_picture_with_its_number(channels: int) -> None:
    weights = torch.randn(5, channels, 3, 3, generator=torch.Generator().manual_seed(channels))
    weights[4] = 2.0
    scores = np.array([0.1, 0.2, 0.3, 0.15, 0.25])
    figure = visualize_first_layer_filters(one_layer(weights), scores, figsize=SIZE)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["0: 0.100", "1: 0.200", "2: 0.300", "3: 0.150", "4: 0.250", ""]
    for index in range(4):
        shown = picture(figure, index)
        values = weights[index] if channels == 3 else weights[index].mean(dim=0, keepdim=True)
        expected = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(shown, expected.permute(1, 2, 0).squeeze(-1), atol=1e-6)
    assert (picture(figure, 4) == 0.5).all(), "a flat filter is grey"
    plain = visualize_first_layer_filters(one_layer(weights), figsize=SIZE)
    assert [axes.get_title() for axes in plain.axes][:5] == list("01234")


def test_a_box_for_every_layer_in_order() -> None:
    scores = {"stem": np.array([0.1, 0.2, 0.7]), "body.0": np.array([0.5, 0.5])}
    (axes,) = plot_importance_distribution(scores, figsize=SIZE, show=False).axes
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
    figure = visualize_filter_tsne(responses.T, scores, name="stem", figsize=SIZE, show=False)
    axes = figure.axes[0]
    (points,) = axes.collections
    places = np.asarray(points.get_offsets())
    np.testing.assert_allclose(points.get_array(), scores)
    assert [text.get_text() for text in axes.texts] == [str(k) for k in range(12)]
    assert axes.get_title() == "filters of stem"
    apart = np.linalg.norm(places[:6].mean(0) - places[6:].mean(0))
    assert max(np.linalg.norm(part - part.mean(0), axis=1).max() for part in (places[:6], places[6:])) < apart
    again = visualize_filter_tsne(responses.T, scores, name="stem", figsize=SIZE, show=False)
    np.testing.assert_array_equal(places, again.axes[0].collections[0].get_offsets())


def test_filters_that_never_change_are_drawn_too() -> None:
    figure = visualize_filter_tsne(np.ones((9, 4)), np.ones(4) / 4, name="stem", figsize=SIZE, show=False)
    assert np.isfinite(np.asarray(figure.axes[0].collections[0].get_offsets())).all()


def test_a_window_opens_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setattr(pyplot, "show", lambda: opened.append(True))
    scores = {"a": np.array([0.5, 0.5])}
    plot_importance_distribution(scores, figsize=SIZE, show=False)
    assert not opened and not pyplot.get_fignums()
    plot_importance_distribution(scores, figsize=SIZE, show=True)
    assert opened == [True] and len(pyplot.get_fignums()) == 1
    pyplot.close("all")


def test_what_is_not_finite_has_no_box_and_nothing_is_refused() -> None:
    (axes,) = plot_importance_distribution({"a": torch.tensor([0.5, torch.inf]), "b": [np.nan]}).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a"]
    with pytest.raises(InputError, match="importances: there are none that are finite"):
        plot_importance_distribution({"b": [np.nan]})


def test_features_of_another_shape_are_refused() -> None:
    for shape in ((9,), (9, 2), (0, 5)):
        with pytest.raises(InputError, match="features: the shape is .* with 3 filters or more is needed"):
            visualize_filter_tsne(np.ones(shape), np.ones(5))
    with pytest.raises(InputError, match=r"importances: the shape is \(4,\); one for each of 5 filters"):
        visualize_filter_tsne(np.ones((9, 5)), np.ones(4))
