"""The guard: which way to repair is best, judged on images that none of them has seen."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from causal_prune.network.comparing import ComparisonError
from causal_prune.network.row_groups import groups_in, row_groups_of
from causal_prune.network.running import batch_size, call, copied
from causal_prune.network.tensor_trees import tensors_in

FEWEST = 4
"""With fewer images none can be kept from the candidates."""
TRUSTED = 24
"""Fewer images than this have chosen the filters that are left, so that these look better on them than they are, and a
guard of them errs; `tests/property/test_never_worse.py` holds it to account."""
GUARDED = 6
"""One image in so many is kept from the candidates."""
FEW = 64
"""Of fewer images than this every one judges in turn."""
FOLDS = 3
MOST = 256
"""At most so many images judge."""


@dataclass(frozen=True)
class Verdict:
    """Which candidate stays.

    Attributes:
        best: Its name.
        measure: What was measured, per image.
        images: How many images judged.
        means: The mean of the measure of every candidate, by name; lower is better.
        behind: By candidate how much worse it is than the best: mean difference on the same images and its standard
            error.
    """

    best: str
    measure: str
    images: int
    means: Mapping[str, float]
    behind: Mapping[str, tuple[float, float]]

    def __str__(self) -> str:
        """One sentence."""
        others = [
            f"{name} {self.means[name]:.3g} ({gap:+.2g}, standard error {error:.1g})"
            for name, (gap, error) in self.behind.items()
        ]
        told = f"{self.measure} {self.means[self.best]:.3g}"
        return f"{self.best} was kept: {told} on {self.images} images that made none of them; {', '.join(others)}"


def splits(batches: Sequence[Any], together: int) -> list[tuple[list[Any], list[Any]]]:
    """Split images into those that make the candidates and those that judge them.

    Of few images every one judges, in turn: the candidates are made as often as there are folds, each time of the
    other images.

    Args:
        batches: Inputs.
        together: Rows that stay together, from `rows_together`.

    Returns:
        Batches of both, once or for every fold; nothing where there are too few images.
    """
    total = sum(groups_in(batch, together) for batch in batches)
    if total < FEWEST:
        return []
    if total < FEW:
        return [_split(batches, together, FOLDS, fold) for fold in range(FOLDS)]
    every = max(GUARDED, -(-total // MOST))
    return [_split(batches, together, every, every // 2)]


def _split(batches: Sequence[Any], together: int, every: int, which: int) -> tuple[list[Any], list[Any]]:
    making, judging, before = [], [], 0
    for batch in batches:
        size = groups_in(batch, together)
        chosen = (torch.arange(size) + before) % every == which
        before += size
        if not bool(chosen.all()):
            making.append(row_groups_of(batch, ~chosen, together))
        if bool(chosen.any()):
            judging.append(row_groups_of(batch, chosen, together))
    return making, judging


def divergences(
    dense: nn.Module, candidates: Mapping[str, nn.Module], batches: Sequence[Any], device: str | torch.device
) -> tuple[str, dict[str, Tensor]]:
    """How far candidates are from the dense network, image by image.

    The measure is the Kullback-Leibler divergence KL(softmax(dense) || softmax(candidate)) of an image where outputs
    are class scores (one row of at least two numbers per image), or else the squared error as a share of the mean
    square of the dense network's output.

    Args:
        dense: In eval mode, on `device`.
        candidates: By name.
        batches: Inputs that made none of the candidates, on `device`.
        device: Where to compute.

    Returns:
        What is measured, and by candidate one number per image (per row of the output).

    Raises:
        ComparisonError: If outputs are no numbers, or not one row per image.

    Cost: a forward pass of every network over the images.
    """
    wanted = [_first(call(dense, batch)) for batch in batches]
    if any(len(each) != batch_size(batch) for each, batch in zip(wanted, batches, strict=True)):
        raise ComparisonError("outputs are not one row per image")
    scores = all(each.dim() == 2 and each.shape[1] > 1 for each in wanted)
    size = sum(float(each.double().square().sum()) for each in wanted) / sum(map(len, wanted))
    measure: Callable[[Tensor, Tensor], Tensor] = _divergence if scores else _error_relative_to(size)
    found = {
        name: torch.cat(list(_measured(model, batches, wanted, measure, device)))
        for name, model in candidates.items()
    }
    return ("mean KL to the dense network" if scores else "mean relative squared error"), found


def decide(measure: str, found: Mapping[str, Tensor]) -> Verdict:
    """Choose among candidates.

    The first one is taken unless another is ahead of it by more than one standard error of their mean difference on the
    same images (the rule of Breiman et al. 1984, section 3.4.3); of several, that of the least mean.

    Args:
        measure: What was measured.
        found: By candidate one number per image, the simplest first.

    Returns:
        The verdict.
    """
    safe = {name: values.nan_to_num(nan=torch.inf) for name, values in found.items()}
    first = next(iter(safe))
    means = {name: float(values.mean()) for name, values in safe.items()}
    ahead = [first]
    for name, values in safe.items():
        gap, error = _gap(safe[first] - values)
        if name != first and (gap > error or means[first] == torch.inf > means[name]):
            ahead.append(name)
    best = min(ahead, key=means.__getitem__)
    behind = {name: _gap(values - safe[best]) for name, values in safe.items() if name != best}
    return Verdict(best, measure, len(safe[best]), means, behind)


def _measured(
    model: nn.Module,
    batches: Sequence[Any],
    wanted: Sequence[Tensor],
    measure: Callable[[Tensor, Tensor], Tensor],
    device: str | torch.device,
) -> Iterator[Tensor]:
    network = copied(model).to(device).eval()
    for batch, expected in zip(batches, wanted, strict=True):
        found = _first(call(network, batch))
        if found.shape != expected.shape:
            raise ComparisonError(f"outputs of shape {tuple(found.shape)} and {tuple(expected.shape)}")
        yield measure(found, expected).double().cpu()


def _first(output: Any) -> Tensor:
    floating = [each.detach() for each in tensors_in(output) if each.is_floating_point() and each.numel()]
    if not floating:
        raise ComparisonError("no output is a number with a fraction")
    return floating[0] if floating[0].dim() else floating[0][None]


def _divergence(found: Tensor, wanted: Tensor) -> Tensor:
    ours, theirs = (functional.log_softmax(each.double(), dim=1) for each in (found, wanted))
    return functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)


def _error_relative_to(size: float) -> Callable[[Tensor, Tensor], Tensor]:
    def error(found: Tensor, wanted: Tensor) -> Tensor:
        return (found.double() - wanted.double()).square().flatten(1).sum(dim=1) / max(size, 1e-300)

    return error


def _gap(differences: Tensor) -> tuple[float, float]:
    """Their mean and its standard error."""
    count = len(differences)
    error = float(differences.std()) / sqrt(count) if count > 1 else float("inf")
    return float(differences.mean()), error
