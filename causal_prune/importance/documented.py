"""The documented causal score: linear structural equations between the filters' Frobenius norms (applybn 0.1.4)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from causal_prune.errors import InputError, warn
from causal_prune.importance.evidence import Evidence
from causal_prune.importance.scores import FilterScores, from_filters
from causal_prune.observation import FeatureMoments


def score(evidence: Evidence) -> FilterScores:
    """Sum over the children of the absolute coefficients with which a filter enters their equations.

    F_i is the Frobenius norm over space of filter i's raw output, one number per image. Least squares with
    intercept fits F_i = b_0 + sum_j b_ji F_j + e over the parents' filters; the score of j is sum_i |b_ji|,
    divided by its sum over the layer. A layer without children scores 1 / filters everywhere.

    It is kept because the method's authors document it. It does not reliably beat random, and it is bound to
    scale: multiplying a filter by 8 and dividing its readers by 8 divides its score by 8.

    Args:
        evidence: The graph, the moments of the filters' norms, and which parents count: "chain" reproduces the
            original, "graph" uses the true ones.

    Returns:
        The scores; the scores of a layer sum to 1.

    Raises:
        InputError: If there is only one image.

    Cost: one least-squares solve per convolution, cubic in the number of its parents' filters.
    """
    graph, moments = evidence.graph, evidence.moments
    filters = {name: layer.filters for name, layer in graph.layers.items() if layer.kind == "conv"}
    shares = structural_equations(moments.features, graph.parents(evidence.parents), filters)
    return from_filters("documented", "share of the layer's causal effect", graph, shares)


def structural_equations(
    features: Mapping[str, FeatureMoments], parents: Mapping[str, Sequence[str]], filters: Mapping[str, int]
) -> dict[str, Tensor]:
    """The definition of `score`, on features alone.

    Args:
        features: By child the joint moments of its features and those of other layers.
        parents: By child the layers whose features enter its equations.
        filters: By layer the number of its features.

    Returns:
        By layer one share per filter, float64; they sum to 1.

    Raises:
        InputError: If there is only one image.

    Warns:
        CausalPruneWarning: If there are no more images than parents of a filter.
    """
    totals = {name: torch.zeros(count, dtype=torch.float64) for name, count in filters.items()}
    for child, joint in features.items():
        images = joint.family.count
        if images < 2:
            raise InputError(
                "calibration: one image determines no equation; give more images than filters per layer"
            )
        sources = [name for name in parents.get(child, ()) if name in joint.layers]
        if not sources:
            continue
        widths = [filters[name] for name in sources]
        if images <= sum(widths):
            warn(
                f"{images} images cannot determine the equations of {child}, which has "
                f"{sum(widths)} parents; the minimum-norm solution is used"
            )
        coefficients = _coefficients(joint, filters, sources, child)
        for name, part in zip(sources, coefficients.abs().sum(dim=1).split(widths), strict=True):
            totals[name] += part
    return {
        name: total / total.sum() if float(total.sum()) > 0 else torch.full_like(total, 1 / len(total))
        for name, total in totals.items()
    }


def _coefficients(
    joint: FeatureMoments, filters: Mapping[str, int], sources: Sequence[str], child: str
) -> Tensor:
    """Least-squares coefficients of all filters of `child` on all filters of `sources`, minimum norm."""
    offsets, start = {}, 0
    for name in joint.layers:
        offsets[name] = torch.arange(start, start := start + filters[name])
    rows, columns = torch.cat([offsets[name] for name in sources]), offsets[child]
    scatter = joint.moments.scatter
    gram, cross = scatter[rows][:, rows], scatter[rows][:, columns]
    # centred rows span one dimension less than there are; what rounding leaves beyond that is no variance
    rank = min(joint.moments.count - 1, len(gram))
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal().square()
    regular = pivots.min() > pivots.max() * len(pivots) * torch.finfo(torch.float64).eps
    if rank == len(gram) and not failed and regular:
        return torch.cholesky_solve(cross, factor)
    values, vectors = torch.linalg.eigh(gram)
    # minimum-norm solution: directions without variance get no coefficient
    usable = values > values.max().clamp_min(0) * len(values) * torch.finfo(torch.float64).eps
    usable[: len(gram) - rank] = False
    inverse = torch.where(
        usable, 1 / torch.where(usable, values, torch.ones_like(values)), torch.zeros_like(values)
    )
    coefficients: Tensor = vectors @ (inverse[:, None] * (vectors.mT @ cross))
    return coefficients
