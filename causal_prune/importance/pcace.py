"""PCACE: how strongly a filter's map, by its principal components, moves with the logit of a class."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causal_prune.data import Task
from causal_prune.errors import InputError
from causal_prune.importance.evidence import Evidence, Labelled
from causal_prune.importance.scores import FilterScores, from_filters
from causal_prune.network.hooks import outputs_of
from causal_prune.network.row_groups import rows_of_labels
from causal_prune.network.running import (
    as_taken,
    batch_size,
    call,
    device_of,
    inputs_of,
    joined_batches,
    modes_kept,
    on_device,
)
from causal_prune.progress import track

IMAGES, FEWEST = 300, 10
"""Images of the class at most, as in the paper, and at least."""
COMPONENTS = 3
PERMUTATIONS = 20
Array = NDArray[np.float64]


def score(evidence: Evidence) -> FilterScores:
    """Correlation of a filter's transformed components with the transformed logit, above that of chance.

    For the images of one class: the raw maps of a filter, one row per image, are standardised, reduced to their first
    k = 3 principal components z_1..z_k, and given with the class's logit y to ACE (alternating conditional
    expectations, Breiman and Friedman 1985), which finds phi_1..phi_k and theta such that sum_m phi_m(z_m) explains
    theta(y) best. The score is corr(sum_m phi_m(z_m), theta(y)) (Casacuberta et al. 2021, "PCACE"), minus the mean of
    the same with the logits permuted, for 20 filters spread over the ranks: with 300 images ACE finds a correlation
    of .4 between numbers that have nothing to do with each other, and more with fewer. Never below 0. The published
    script correlates the first component's transform only and misses what lies in the others.

    The class is the one with the most images, its 300 first are taken; a unit's score is the sum over its filters.

    Args:
        evidence: The graph, the dense network, labelled images, and the seed of the permutations.

    Returns:
        The scores; 0 for a filter whose map does not vary.

    Raises:
        InputError: If an argument is missing, or no class has 10 images.

    Cost: one forward pass of the class's images in one batch, and one ACE per filter: a tenth of a second with 100
        images, a third with 300.
    """
    network, images = evidence.network, evidence.images
    producers = evidence.graph.producers
    inputs, label = _of_one_class(images, evidence.task)
    components, logits = _components(network, producers, inputs, label, evidence.task)
    filters: dict[str, Tensor] = {}
    rows = [row for per_layer in components.values() for row in per_layer]
    found, chance = correlations(rows, logits, seed=evidence.seed)
    floor = float(np.mean(chance)) if chance else 0.0
    start = 0
    for name, per_layer in components.items():
        values = found[start : start + len(per_layer)]
        filters[name] = (torch.tensor(values, dtype=torch.float64) - floor).clamp_min(0)
        start += len(per_layer)
    return from_filters("pcace", "correlation with a class's logit above chance", evidence.graph, filters)


def correlations(
    rows: Sequence[Sequence[Array]], logits: Array, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Correlations of filters with a class's logit, and what chance gives.

    Args:
        rows: Components of each filter (see `correlation`).
        logits: Shape (images,).
        permutations: Filters, spread over the ranks, whose logits are permuted.
        seed: Of the permutations.

    Returns:
        One per filter; and one per permutation, none where no filter correlates at all.

    Cost: one ACE each.
    """
    generator = np.random.default_rng(seed)
    found = [correlation(row, logits) for row in track(rows, "pcace", unit="filter")]
    varied = [int(k) for k in np.argsort(found, kind="stable") if found[k] > 0]
    chosen = [varied[k * len(varied) // permutations] for k in range(permutations)] if varied else []
    return found, [correlation(rows[k], generator.permutation(logits)) for k in chosen]


def correlation(components: Sequence[Array], logits: Array) -> float:
    """Correlation of the sum of the transformed components with the transformed logit, by ACE.

    Args:
        components: Each of shape (images,); those without variance must be left out.
        logits: Shape (images,).

    Returns:
        0 to 1; 0 where there are no components or the logits do not vary.
    """
    from ace.ace import ACESolver  # it imports pyplot, which no other method needs

    if not components or np.ptp(logits) == 0:
        return 0.0
    solver = ACESolver()
    solver.specify_data_set(list(components), logits)
    # ACE reports its progress on stdout, and divides by 0 where a transform vanishes
    with contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        solver.solve()
        rho = float(np.corrcoef(np.sum(solver.x_transforms, axis=0), solver.y_transform)[0, 1])
    return max(rho, 0.0) if np.isfinite(rho) else 0.0


def principal_components(maps: Tensor, most: int = COMPONENTS) -> list[Array]:
    """Scores of the images on the first principal components of standardised maps.

    Args:
        maps: Shape (images, positions).
        most: How many at most.

    Returns:
        Up to `most` arrays of shape (images,), those of largest variance first; fewer where the rank is lower. The
        sign of each makes its largest entry positive.
    """
    centred = maps.double() - maps.double().mean(dim=0)
    spread = centred.std(dim=0, correction=0)
    # a map that is the same for all images differs by rounding only
    usable = spread > 1e-6 * maps.double().abs().amax(dim=0).clamp_min(1e-30)
    standard = centred[:, usable] / spread[usable]
    if not standard.numel():
        return []
    values, vectors = torch.linalg.eigh(standard @ standard.mT)
    found = []
    for value, vector in zip(values.flip(0)[:most], vectors.flip(1).mT[:most], strict=True):
        if value > 1e-9 * values.max():
            signed = vector * vector[vector.abs().argmax()].sign()
            found.append((signed * value.sqrt()).cpu().numpy())
    return found


def _of_one_class(images: Labelled, task: Task) -> tuple[list[object], int]:
    """Inputs of the class with the most images, in parts."""
    counts = torch.zeros(0, dtype=torch.int64)
    for number, batch in enumerate(images, start=1):
        labels = task.labels(batch, f"batch {number}")
        if bool((labels < 0).any()):
            raise InputError(f"label {int(labels.min())} in batch {number} is below 0")
        more = labels.bincount(minlength=len(counts))
        more[: len(counts)] += counts
        counts = more
    if not len(counts) or not int(counts.sum()):
        raise InputError("labelled: there are no images")
    label = int(counts.argmax())
    if int(counts[label]) < FEWEST:
        raise InputError(
            f"labelled: no class has {FEWEST} images, which importance 'pcace' needs; the commonest has "
            f"{int(counts[label])}"
        )
    return list(_chosen(images, label, task)), label


def _chosen(images: Labelled, label: int, task: Task) -> Iterator[object]:
    left = IMAGES
    for number, batch in enumerate(images, start=1):
        labels = task.labels(batch, f"batch {number}")
        places = (labels == label).nonzero().flatten()[:left]
        if len(places):
            left -= len(places)
            yield rows_of_labels(inputs_of(batch), places, len(labels))


def _components(
    network: nn.Module, producers: Sequence[str], parts: Sequence[object], label: int, task: Task
) -> tuple[dict[str, list[list[Array]]], Array]:
    """By layer and filter its components, and the logits: the maps of all filters come from one pass."""
    (inputs,) = joined_batches(parts)
    found: dict[str, list[list[Array]]] = {}

    def see(name: str, module: nn.Module, output: Tensor) -> None:
        if len(output) != batch_size(inputs):
            raise InputError(
                f"importance 'pcace' needs one row per image, and {name} returns {len(output)} "
                f"for {batch_size(inputs)} rows of the batch: choose another one"
            )
        channel = output.dim() - 1 if isinstance(module, nn.Linear) else 1
        maps = output.detach().movedim(channel, 0).flatten(2 if output.dim() > 2 else 1)
        rows = maps.reshape(maps.shape[0], len(output), -1)
        if name not in found:  # of a layer that is called again the first call counts
            found[name] = [principal_components(row) for row in rows]

    device = device_of(network)
    layers = {name: network.get_submodule(name) for name in producers}
    with torch.no_grad(), modes_kept(network), outputs_of(layers, see):
        network.eval()
        logits = task.answers(
            call(network, as_taken(network, on_device(inputs, device))), "dense", "the class"
        )
    if len(logits) != batch_size(inputs):
        raise InputError(
            f"importance 'pcace' needs one row per answer: the network returns {len(logits)} "
            f"for {batch_size(inputs)} rows of the batch: choose another one"
        )
    task.check(torch.full((len(logits),), label), logits, "dense", "the class")
    return found, logits[:, label].double().cpu().numpy()
