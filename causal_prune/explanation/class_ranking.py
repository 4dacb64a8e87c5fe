"""Filters of a layer by what their maps tell of a class (PCACE)."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation.feature_maps import AT_ONCE, at_least_one, explained, layer_of, scores_of
from causal_prune.importance import correlations, principal_components
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.hooks import outputs_of

FEWEST = 10


@dataclass(frozen=True)
class PcaceRanking:
    """Filters of one layer by their correlation with one class.

    Attributes:
        layer: The layer.
        class_index: The class.
        order: Filters, the strongest first; int64 of shape (filters,).
        scores: Correlation of each filter, 0 to 1, in the order of the filters; 0 for one whose map does not vary.
        floor: The mean correlation with permuted scores of the class, 0 to 1: what so few images give by chance.
        ceiling: The largest of those: a filter above it is not explained by chance.
    """

    layer: str
    class_index: int
    order: NDArray[np.int64]
    scores: NDArray[np.float64]
    floor: float
    ceiling: float

    @property
    def above_floor(self) -> NDArray[np.float64]:
        """`scores` less the floor, never below 0: what a pruning score uses."""
        return np.maximum(self.scores - self.floor, 0.0)


@undisturbed
def pcace_ranking(
    model: nn.Module,
    images: Tensor,
    class_index: int,
    layer: str | None = None,
    *,
    components: int = 3,
    permutations: int = 20,
    seed: int = 0,
) -> PcaceRanking:
    """Rank filters by how much their maps tell of a class's score (Casacuberta et al. 2021, "PCACE").

    A filter's maps, one row per image, are standardised and reduced to their first principal components; ACE
    (Breiman and Friedman 1985) finds transforms of these and of the class's score such that the sum of the former
    explains the latter best; their correlation is the filter's. The published script correlates the first component's
    transform only. See `importance.pcace` for the same as a pruning score.

    Args:
        model: A classifier; it is not changed.
        images: Images of the class, as the network reads them; shape (N, C, H, W), 10 or more, 300 in the paper.
        class_index: Whose score is explained.
        layer: As for `grad_cam`.
        components: Principal components of each map, at least 1. Chance gives .20 with 3 and .54 with 10 at 300 images.
        permutations: Filters, spread over the ranks, whose correlation with permuted scores is the floor; at least 1.
        seed: Of the permutations.

    Returns:
        The ranking, with the floor that it must be read against.

    Raises:
        InputError: As `grad_cam`, and if there are fewer than 10 images, or a number is out of range.

    Cost: a forward pass, and a third of a second for every filter with 300 images.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))
        >>> ranking = pcace_ranking(net, torch.rand(30, 1, 5, 5), 1, "0")
        >>> sorted(ranking.order.tolist())
        [0, 1, 2, 3]
    """
    verb = "pcace_ranking"
    about = explained(verb, model, images, class_index)
    at_least_one(verb, components=components, permutations=permutations)
    if len(about.images) < FEWEST:
        raise InputError(
            f"{verb}: {len(about.images)} images of the class are too few; give {FEWEST} or more"
        )
    name = layer_of(verb, about, layer)
    maps: list[Tensor] = []
    logits: list[Tensor] = []

    def see(_: str, __: nn.Module, output: Tensor) -> None:
        maps.append(output.detach().cpu())

    with torch.no_grad():
        for part in about.images.split(AT_ONCE):
            runs = len(maps)
            with outputs_of({name: about.model.get_submodule(name)}, see):
                logits.append(scores_of(verb, about.model, part)[:, class_index].cpu())
            del maps[runs + 1 :]  # of a layer that runs again the first call counts
    whole = torch.cat(maps).flatten(2)
    target = torch.cat(logits).double().numpy()
    rows = [principal_components(whole[:, k], components) for k in range(whole.shape[1])]
    found, chance = correlations(rows, target, permutations=permutations, seed=seed)
    scores = np.array(found)
    return PcaceRanking(
        layer=name,
        class_index=int(class_index),
        order=np.argsort(-scores, kind="stable").astype(np.int64),
        scores=scores,
        floor=float(np.mean(chance)) if chance else 0.0,
        ceiling=max(chance, default=0.0),
    )
