"""Figures of filters, what they weigh and where they respond: drawn without a window unless one is asked for.

The first four are those of the documented class (applybn 0.1.4), which `CausalCNNExplainer` draws with these functions;
they take any network and any importances. All return the figure; with `show` they open a window as well.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation.response_maps import (
    Scale,
    colours_of,
    convolution_of,
    heatmaps_of,
    importances_of,
    numbers_of,
    responses_of,
)
from causal_prune.network.ambient_modes import undisturbed

Size: TypeAlias = tuple[float, float]


@undisturbed
def visualize_heatmap_on_input(
    model: nn.Module,
    images: Tensor,
    importances: ArrayLike,
    *,
    layer: str | None = None,
    alpha: float = 0.5,
    cmap: str = "viridis",
    figsize: Size = (15, 5),
    mean: Scale = None,
    std: Scale = None,
    show: bool = False,
) -> Figure:
    """Draw each image, the importance-weighted sum of a layer's maps, and both over each other.

    Args:
        model: A network; it is not changed.
        images: One image (C, H, W) or a batch (N, C, H, W), as the network reads them, with 1 or 3 channels.
        importances: Of the layer's filters, shape (filters,).
        layer: Name of a convolution; None for the first one.
        alpha: Opacity of the map in the overlay, 0 to 1.
        cmap: Colour map of matplotlib.
        figsize: Of one row, in inches.
        mean: What was subtracted from the channels, to show images in their colours; without one number for each
            channel they are stretched to 0..1.
        std: What the channels were divided by.
        show: Whether to open a window.

    Returns:
        The figure, a row of three for every image; a map is scaled to 0..1 for itself.

    Raises:
        InputError: If images, layer or importances do not fit.

    Cost: a forward pass.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> len(visualize_heatmap_on_input(net, torch.rand(2, 3, 8, 8), [0.1, 0.2, 0.3, 0.4]).axes)
        6
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: {alpha} is not between 0 and 1")
    maps = heatmaps_of(model, images, importances, layer, mean, std)
    figure = _figure((figsize[0], figsize[1] * len(maps)), show)
    grid = figure.subplots(len(maps), 3, squeeze=False)
    for row, drawn in zip(grid, maps, strict=True):
        row[0].imshow(drawn.image)
        row[1].imshow(drawn.heat, cmap=cmap, vmin=0, vmax=1)
        row[2].imshow(drawn.image)
        row[2].imshow(drawn.heat, cmap=cmap, vmin=0, vmax=1, alpha=alpha)
        for axes, title in zip(row, ("image", "heatmap", "overlay"), strict=True):
            axes.set_title(title)
            axes.axis("off")
    return _done(figure, show)


def visualize_first_layer_filters(
    model: nn.Module,
    importances: ArrayLike | None = None,
    *,
    layer: str | None = None,
    n_filters: int = 16,
    figsize: Size = (12, 8),
    show: bool = False,
) -> Figure:
    """Draw the weights of a convolution as small pictures.

    Args:
        model: A network.
        importances: Of its filters, for the titles; None for their numbers alone.
        layer: Name of a convolution; None for the first one.
        n_filters: How many at most, at least 1.
        figsize: In inches.
        show: Whether to open a window.

    Returns:
        The figure: three channels are shown as colours, of others the mean; a filter whose weights are all the same is
        grey.

    Raises:
        InputError: If the layer is none, or `n_filters` or the importances do not fit.

    Example:
        >>> len(visualize_first_layer_filters(nn.Conv2d(3, 5, 3), n_filters=4).axes)
        4
    """
    if n_filters < 1:
        raise InputError(f"n_filters: {n_filters} is not at least 1")
    _, convolution = convolution_of(model, layer)
    weights = convolution.weight.detach().double().cpu()
    scores = None if importances is None else importances_of(importances, len(weights))
    weights = weights[:n_filters]
    figure = _figure(figsize, show)
    columns = int(np.ceil(len(weights) ** 0.5))
    grid = figure.subplots(-(-len(weights) // columns), columns, squeeze=False).ravel()
    for index, axes in enumerate(grid):
        axes.axis("off")
        if index < len(weights):
            picture = weights[index] if weights.shape[1] == 3 else weights[index].mean(dim=0, keepdim=True)
            low, high = float(picture.min()), float(picture.max())
            picture = (picture - low) / (high - low) if high > low else picture * 0 + 0.5
            axes.imshow(picture.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_title(f"{index}" if scores is None else f"{index}: {scores[index]:.3f}", fontsize=8)
    return _done(figure, show)


def plot_importance_distribution(
    importances: Mapping[str, ArrayLike], *, figsize: Size = (10, 6), show: bool = False
) -> Figure:
    """Draw the importances of every layer as a box.

    Args:
        importances: By name of the layer, of shape (filters,), such as `FilterScores.layers`; what is not finite, as
            of filters that cannot go, is left out.
        figsize: In inches.
        show: Whether to open a window.

    Returns:
        The figure.

    Raises:
        InputError: If there are none.

    Example:
        >>> len(plot_importance_distribution({"conv1": [0.1, 0.2], "conv2": [0.5, 0.4, 0.1]}).axes[0].get_xticks())
        2
    """
    values = {name: numbers_of(each).ravel() for name, each in importances.items()}
    finite = {name: each[np.isfinite(each)] for name, each in values.items()}
    drawn = {name: each for name, each in finite.items() if len(each)}
    if not drawn:
        raise InputError("importances: there are none that are finite")
    figure = _figure(figsize, show)
    axes = figure.subplots()
    axes.boxplot(list(drawn.values()))
    axes.set_xticks(range(1, len(drawn) + 1), list(drawn), rotation=90)
    axes.set_ylabel("importance")
    return _done(figure, show)


def visualize_filter_tsne(
    features: ArrayLike,
    importances: ArrayLike,
    *,
    name: str = "",
    figsize: Size = (8, 6),
    show: bool = False,
) -> Figure:
    """Draw the filters of a layer in the plane, those that respond alike close together (t-SNE, seed 0).

    Args:
        features: What each filter gives for each image, such as the Frobenius norm of its map; shape (images, filters).
            They are standardised per filter.
        importances: Of the filters, shape (filters,), for the colours.
        name: Of the layer, for the title.
        figsize: In inches.
        show: Whether to open a window.

    Returns:
        The figure.

    Raises:
        InputError: If there are fewer than 3 filters, or shapes do not fit.

    Example:
        >>> len(visualize_filter_tsne(np.random.default_rng(0).random((20, 5)), np.ones(5)).axes)
        2
    """
    from sklearn.manifold import TSNE

    responses = numbers_of(features).T
    if responses.ndim != 2 or len(responses) < 3 or not responses.shape[1]:
        shape = responses.T.shape
        raise InputError(
            f"features: the shape is {shape}; (images, filters) with 3 filters or more is needed"
        )
    scores = importances_of(importances, len(responses))
    centred = responses - responses.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    rows = centred / np.where(spread > 0, spread, 1)
    perplexity = min(30.0, (len(rows) - 1) / 3)
    # a start that does not depend on the data's variance: equal filters have none
    places = TSNE(perplexity=perplexity, random_state=0, init="random").fit_transform(rows)
    figure = _figure(figsize, show)
    axes = figure.subplots()
    drawn = axes.scatter(places[:, 0], places[:, 1], c=scores)
    for index, (x, y) in enumerate(places):
        axes.annotate(str(index), (x, y), fontsize=7)
    axes.set_title(f"filters of {name}" if name else "filters")
    figure.colorbar(drawn, label="importance")
    return _done(figure, show)


@undisturbed
def visualize_top_filter_maps(
    model: nn.Module,
    images: Tensor,
    importances: ArrayLike,
    *,
    layer: str | None = None,
    n_filters: int = 6,
    cmap: str = "viridis",
    size: float = 1.8,
    mean: Scale = None,
    std: Scale = None,
    show: bool = False,
) -> Figure:
    """Draw each image beside the maps of a layer's most important filters.

    Args:
        model: A network; it is not changed.
        images: As in `visualize_heatmap_on_input`.
        importances: Of the layer's filters, shape (filters,); the largest are drawn, those that are not finite are not.
        layer: Name of a convolution; None for the first one.
        n_filters: How many at most, at least 1.
        cmap: Colour map of matplotlib.
        size: Of one picture, in inches.
        mean: As in `visualize_heatmap_on_input`.
        std: As in `visualize_heatmap_on_input`.
        show: Whether to open a window.

    Returns:
        The figure: a row for every image, a column for every filter, whose maps share one scale over the images.

    Raises:
        InputError: If images, layer, importances or `n_filters` do not fit.

    Cost: a forward pass.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        >>> figure = visualize_top_filter_maps(net, torch.rand(2, 3, 8, 8), [0.1, 0.2, 0.3, 0.4], n_filters=2)
        >>> [axes.get_title() for axes in figure.axes[:3]]
        ['image', '3: 0.400', '2: 0.300']
    """
    if n_filters < 1:
        raise InputError(f"n_filters: {n_filters} is not at least 1")
    name, convolution = convolution_of(model, layer)
    scores = importances_of(importances, convolution.out_channels)
    order = [int(k) for k in np.argsort(-scores, kind="stable") if np.isfinite(scores[k])][:n_filters]
    if not order:
        raise InputError("importances: there are none that are finite")
    batch, maps = responses_of(model, images, name)
    shown = [colours_of(image, mean, std) for image in batch]
    figure = _figure((size * (1 + len(order)), size * len(shown) + 0.3), show)
    grid = figure.subplots(len(shown), 1 + len(order), squeeze=False)
    limits = {k: (float(maps[:, k].min()), float(maps[:, k].max())) for k in order}
    for row, image, responses in zip(grid, shown, maps, strict=True):
        row[0].imshow(image)
        for axes, k in zip(row[1:], order, strict=True):
            axes.imshow(responses[k].numpy(), cmap=cmap, vmin=limits[k][0], vmax=limits[k][1])
        for axes in row:
            axes.axis("off")
    for axes, title in zip(grid[0], ["image", *(f"{k}: {scores[k]:.3f}" for k in order)], strict=True):
        axes.set_title(title, fontsize=9)
    return _done(figure, show)


def _figure(size: Size, show: bool) -> Figure:
    options: dict[str, Any] = {"figsize": size, "layout": "constrained"}
    if not show:
        return Figure(**options)
    from matplotlib import pyplot

    return pyplot.figure(**options)


def _done(figure: Figure, show: bool) -> Figure:
    if show:
        from matplotlib import pyplot

        pyplot.show()
    return figure
