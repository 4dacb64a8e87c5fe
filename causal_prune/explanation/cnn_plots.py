"""The plots of `CausalCNNExplainer`: drawn without a window unless one is asked for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from causal_prune.explanation.cnn_features import Array, Heatmap

Size = tuple[float, float]


def heatmap_rows(maps: Sequence[Heatmap], *, alpha: float, cmap: str, figsize: Size, show: bool) -> Figure:
    """Image, heatmap and overlay, one row per image.

    Args:
        maps: What is shown.
        alpha: Opacity of the heatmap in the overlay.
        cmap: Colour map of matplotlib.
        figsize: Of one row, in inches.
        show: Whether to open a window.

    Returns:
        The figure.
    """
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


def filters(weights: Tensor, scores: Array | None, *, figsize: Size, show: bool) -> Figure:
    """Weights of filters as small pictures.

    Args:
        weights: Shape (filters, channels, height, width).
        scores: Importances for the titles, or None.
        figsize: In inches.
        show: Whether to open a window.

    Returns:
        The figure.
    """
    figure = _figure(figsize, show)
    columns = int(np.ceil(len(weights) ** 0.5))
    grid = figure.subplots(-(-len(weights) // columns), columns, squeeze=False).ravel()
    for index, axes in enumerate(grid):
        axes.axis("off")
        if index < len(weights):
            # three channels are colours; of others the mean is shown
            picture = weights[index] if weights.shape[1] == 3 else weights[index].mean(dim=0, keepdim=True)
            low, high = float(picture.min()), float(picture.max())
            picture = (picture - low) / (high - low) if high > low else picture * 0 + 0.5
            axes.imshow(picture.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axes.set_title(f"{index}" if scores is None else f"{index}: {scores[index]:.3f}", fontsize=8)
    return _done(figure, show)


def boxes(scores: Mapping[str, Array], *, figsize: Size, show: bool) -> Figure:
    """Importances of every layer as a box.

    Args:
        scores: By name of the layer.
        figsize: In inches.
        show: Whether to open a window.

    Returns:
        The figure.
    """
    figure = _figure(figsize, show)
    axes = figure.subplots()
    axes.boxplot(list(scores.values()))
    axes.set_xticks(range(1, len(scores) + 1), list(scores), rotation=90)
    axes.set_ylabel("importance (share of the layer)")
    return _done(figure, show)


def tsne(name: str, responses: Array, scores: Array, *, figsize: Size, show: bool) -> Figure:
    """Filters in the plane, alike ones close together.

    Args:
        name: Of the layer.
        responses: Shape (filters, images); standardised per filter.
        scores: Importances, shape (filters,).
        figsize: In inches.
        show: Whether to open a window.

    Returns:
        The figure.
    """
    from sklearn.manifold import TSNE

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
    axes.set_title(f"filters of {name}")
    figure.colorbar(drawn, label="importance (share of the layer)")
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
