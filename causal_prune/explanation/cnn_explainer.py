"""`CausalCNNExplainer`: the documented interface of applybn 0.1.4 over the documented score."""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError, warn
from causal_prune.explanation.cnn_features import Array, collect, frobenius_norm
from causal_prune.explanation.response_maps import Heatmap, Scale, heatmaps_of
from causal_prune.importance import structural_equations
from causal_prune.measure import evaluate
from causal_prune.network.ambient_modes import plain_modes
from causal_prune.network.running import attempt, copied, device_of
from causal_prune.observation import FeatureMoments, moments_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Node(TypedDict):
    """One convolution of the chain; parents and children are its neighbours' indices."""

    name: str
    layer: nn.Conv2d
    filters: int
    parents: list[int]
    children: list[int]


class CausalCNNExplainer:
    """Filter importances by linear equations between the filters' norms, along the chain of convolutions.

    Code written for applybn's class runs after changing its import; the numbers are the same. See
    `importance.documented` for the definition and for what it is worth: it does not reliably beat random. What
    differs is listed here on purpose. Collecting runs in eval mode and leaves the model's modes and device alone.
    Collecting or learning again starts afresh, where the original mixes old and new scores,
    (old + raw) / (1 + sum raw). Convolutions that never ran are left out of the chain, with a warning. Plots return
    their figure and show it only on request.

    Args:
        model: The network; it is not changed.
        device: Where to compute; None for where the model is.

    Attributes:
        model: The network.
        device: Where to compute.
        conv_layers: (name, module) of every Conv2d, in registration order.
        dag: By index in `conv_layers` a convolution with its neighbours in the chain.
        filter_outputs: By index the features that were collected, shape (images, filters).
        parent_outputs: By index the features of the parent; absent for the first of the chain.
        filter_importances: By index the importances, shape (filters,); empty before learning.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
        >>> explainer = CausalCNNExplainer(net)
        >>> explainer.collect_data([torch.rand(32, 1, 5, 5)])
        >>> explainer.learn_structural_equations()
        >>> float(explainer.get_filter_importances()[0].sum().round(6))
        1.0
    """

    model: nn.Module
    device: torch.device
    conv_layers: list[tuple[str, nn.Conv2d]]
    dag: dict[int, Node]
    filter_outputs: dict[int, Array]
    parent_outputs: dict[int, Array]
    filter_importances: dict[int, Array]

    def __init__(self, model: nn.Module, device: torch.device | str | None = None) -> None:
        self.model = model
        self.device = device_of(model) if device is None else torch.device(device)
        self.conv_layers = [
            (name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)
        ]
        if not self.conv_layers:
            raise InputError("model: there is no Conv2d in it, so there is nothing to explain")
        self.filter_outputs = {}
        self.parent_outputs = {}
        self.filter_importances = {}
        self.dag = self._chain(range(len(self.conv_layers)))

    def _chain(self, indices: Sequence[int]) -> dict[int, Node]:
        names = [name for name, _ in self.conv_layers]
        modules = [module for _, module in self.conv_layers]
        after = dict(pairwise(indices))
        before = {child: parent for parent, child in after.items()}
        return {
            index: Node(
                name=names[index],
                layer=modules[index],
                filters=modules[index].out_channels,
                parents=[before[index]] if index in before else [],
                children=[after[index]] if index in after else [],
            )
            for index in indices
        }

    def collect_data(
        self, data_loader: Iterable[Any], frobenius_norm_func: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        """Run images through the network and keep one number per image and filter.

        Args:
            data_loader: Batches: tensors, mappings of tensors, or tuples whose first entry holds the inputs.
            frobenius_norm_func: From a raw output of shape (images, filters, H, W) to features of shape
                (images, filters); None for the Frobenius norm over space. A convolution that is called more than
                once is summed over its calls, in squares.

        Raises:
            InputError: If there are no images, an output is NaN or infinite, or the function returns another shape.
        """
        with self._running() as model:
            self.filter_outputs = collect(
                [(name, model.get_submodule(name)) for name, _ in self.conv_layers],
                lambda inputs: attempt("the model", model, inputs, "a batch of the loader"),
                data_loader,
                frobenius_norm_func or frobenius_norm,
                device=self.device,
            )
        for index, (name, _) in enumerate(self.conv_layers):
            if index not in self.filter_outputs:
                warn(f"{name} never ran; it is left out of the chain")
        self.dag = self._chain(list(self.filter_outputs))
        self.parent_outputs = {
            index: self.filter_outputs[node["parents"][0]]
            for index, node in self.dag.items()
            if node["parents"]
        }
        self.filter_importances = {}

    def learn_structural_equations(self) -> None:
        """Fit every filter on the filters of the convolution before, and sum what each contributes.

        Raises:
            InputError: If no data were collected, or of one image only.
        """
        if not self.filter_outputs:
            raise InputError("learn_structural_equations: there are no data; call collect_data first")
        features = {}
        for index, node in self.dag.items():
            layers = (*map(str, node["parents"]), str(index))
            joint = np.concatenate([self.filter_outputs[int(k)] for k in layers], axis=1)
            features[str(index)] = FeatureMoments(
                layers, moments_of(torch.from_numpy(joint)), torch.arange(joint.shape[1])
            )
        parents = {str(index): [str(k) for k in node["parents"]] for index, node in self.dag.items()}
        filters = {str(index): node["filters"] for index, node in self.dag.items()}
        found = structural_equations(features, parents, filters)
        self.filter_importances = {int(index): values.numpy() for index, values in found.items()}

    def get_filter_importances(self) -> dict[int, Array]:
        """The importances, by index in `conv_layers`.

        Returns:
            Shape (filters,) each; they sum to 1 over a layer.

        Raises:
            InputError: If nothing was learned yet.
        """
        if not self.filter_importances:
            raise InputError(
                "there are no importances; call collect_data, then learn_structural_equations, first"
            )
        return dict(self.filter_importances)

    def prune_filters_by_importance(self, percent: float) -> nn.Module:
        """Set the least important filters of every convolution to 0, in a copy.

        Args:
            percent: In [0, 100): floor(filters * percent / 100) per layer, at least 1 where percent > 0; of equal
                importances the first go.

        Returns:
            The copy, of the same shapes.

        Raises:
            InputError: If nothing was learned yet, or `percent` is out of range.
        """
        scores = self.get_filter_importances()
        counts = self._counts(percent)
        return self._zeroed(
            {index: np.argsort(scores[index], kind="stable")[: counts[index]].tolist() for index in self.dag}
        )

    def prune_random_filters(self, percent: float) -> nn.Module:
        """Set as many filters of every convolution to 0, drawn by Python's `random`.

        Args:
            percent: As in `prune_filters_by_importance`; `random.seed` decides which filters go.

        Returns:
            The copy, of the same shapes.

        Raises:
            InputError: If `percent` is out of range.
        """
        counts = self._counts(percent)
        return self._zeroed(
            {index: random.sample(range(node["filters"]), counts[index]) for index, node in self.dag.items()}
        )

    def _counts(self, percent: float) -> dict[int, int]:
        if not 0 <= percent < 100:
            raise InputError(f"percent: {percent} is not in [0, 100)")
        least = 1 if percent > 0 else 0
        return {
            index: max(least, math.floor(node["filters"] * percent / 100)) for index, node in self.dag.items()
        }

    def _zeroed(self, filters: dict[int, list[int]]) -> nn.Module:
        copy = copied(self.model)
        with torch.no_grad():
            for index, gone in filters.items():
                layer = copy.get_submodule(self.conv_layers[index][0])
                assert isinstance(layer, nn.Conv2d)
                layer.weight[gone] = 0
                if layer.bias is not None:
                    layer.bias[gone] = 0
        return copy

    def evaluate_model(self, model: nn.Module, data_loader: Iterable[Any]) -> float:
        """Share of images that a network classifies right.

        Args:
            model: The network; its mode and device stay.
            data_loader: Batches (inputs, labels).

        Returns:
            The accuracy, 0..1.

        Raises:
            InputError: As `measure.evaluate`.
        """
        return evaluate({"model": model}, data_loader, device=self.device)["model"].value

    def heatmaps(
        self,
        image_tensor: Tensor,
        *,
        mean: Scale = IMAGENET_MEAN,
        std: Scale = IMAGENET_STD,
    ) -> list[Heatmap]:
        """Where the first convolution responds, weighted by its filters' importances.

        Args:
            image_tensor: One image (C, H, W) or a batch (N, C, H, W) with 1 or 3 channels.
            mean: What was subtracted from the channels, to show the image in its colours; with None, and for one
                channel, it is stretched to 0..1.
            std: What they were divided by.

        Returns:
            One per image.

        Raises:
            InputError: If nothing was learned yet, or the shape is another one.
        """
        with self._running() as model:
            return heatmaps_of(model, image_tensor, self._of_first(), self._first_name(), mean, std)

    def visualize_heatmap_on_input(
        self,
        image_tensor: Tensor,
        alpha: float = 0.5,
        cmap: str = "viridis",
        figsize: tuple[float, float] = (15, 5),
        *,
        mean: Scale = IMAGENET_MEAN,
        std: Scale = IMAGENET_STD,
        show: bool = False,
    ) -> "Figure":
        """Draw image, heatmap and both over each other, one row per image.

        Args:
            image_tensor: As in `heatmaps`.
            alpha: Opacity of the heatmap, 0..1.
            cmap: Colour map of matplotlib.
            figsize: Of one row, in inches.
            mean: As in `heatmaps`.
            std: As in `heatmaps`.
            show: Whether to open a window.

        Returns:
            The figure.

        Raises:
            InputError: As `heatmaps`.
        """
        from causal_prune.explanation.filter_figures import visualize_heatmap_on_input

        importances, first = self._of_first(), self._first_name()
        with self._running() as model:
            return visualize_heatmap_on_input(
                model,
                image_tensor,
                importances,
                layer=first,
                alpha=alpha,
                cmap=cmap,
                figsize=figsize,
                mean=mean,
                std=std,
                show=show,
            )

    def visualize_first_layer_filters(
        self, n_filters: int = 16, figsize: tuple[float, float] = (12, 8), *, show: bool = False
    ) -> "Figure":
        """Draw the weights of the first convolution.

        Args:
            n_filters: How many at most, at least 1.
            figsize: In inches.
            show: Whether to open a window.

        Returns:
            The figure; a filter whose weights are all the same is grey.

        Raises:
            InputError: If `n_filters` is below 1.
        """
        from causal_prune.explanation.filter_figures import visualize_first_layer_filters

        importances = self.filter_importances.get(next(iter(self.dag)))
        return visualize_first_layer_filters(
            self.model, importances, layer=self._first_name(), n_filters=n_filters, figsize=figsize, show=show
        )

    def plot_importance_distribution(
        self, figsize: tuple[float, float] = (10, 6), *, show: bool = False
    ) -> "Figure":
        """Draw the importances of every convolution as boxes.

        Args:
            figsize: In inches.
            show: Whether to open a window.

        Returns:
            The figure.

        Raises:
            InputError: If nothing was learned yet.
        """
        from causal_prune.explanation.filter_figures import plot_importance_distribution

        scores = self.get_filter_importances()
        named = {self.conv_layers[index][0]: values for index, values in scores.items()}
        return plot_importance_distribution(named, figsize=figsize, show=show)

    def visualize_filter_tsne(
        self, layer_idx: int = 0, figsize: tuple[float, float] = (8, 6), *, show: bool = False
    ) -> "Figure":
        """Draw the filters of a layer by the likeness of their responses to the images (t-SNE, seed 0).

        Args:
            layer_idx: Index in `conv_layers`.
            figsize: In inches.
            show: Whether to open a window.

        Returns:
            The figure; colours are importances.

        Raises:
            InputError: If the layer has no importances, or fewer than 3 filters.
        """
        from causal_prune.explanation.filter_figures import visualize_filter_tsne

        scores = self.get_filter_importances()
        if layer_idx not in scores:
            raise InputError(f"layer_idx: {layer_idx} is not one of {', '.join(map(str, scores))}")
        if len(scores[layer_idx]) < 3:
            raise InputError(
                f"layer_idx: layer {layer_idx} has fewer than 3 filters; nothing can be laid out"
            )
        features, name = self.filter_outputs[layer_idx], self.conv_layers[layer_idx][0]
        return visualize_filter_tsne(features, scores[layer_idx], name=name, figsize=figsize, show=show)

    def _first_name(self) -> str:
        """The first convolution of the chain."""
        return self.conv_layers[next(iter(self.dag))][0]

    def _of_first(self) -> Array:
        return self.get_filter_importances()[next(iter(self.dag))]

    @contextmanager
    def _running(self) -> Iterator[nn.Module]:
        """A copy of the network, in eval mode, on the device."""
        with plain_modes():
            yield copied(self.model).to(self.device).eval()
