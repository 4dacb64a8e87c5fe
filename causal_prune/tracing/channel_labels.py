"""Follow channels through a network by labelling them: which filters end up in which positions of which tensors.

Every filter of a convolution or linear layer gets a label, an integer. While the network runs once on the
example input, a tensor of labels travels beside every activation: operations that only move data are applied
to the labels themselves, element-wise operations unite the labels that meet, and a layer that mixes channels
reads the labels at its input and hands out fresh ones. Labels that are united go or stay together. An operation
that is not understood freezes the labels that it touches, with a reason; nothing is guessed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

FIXED = 0
"""The label of what no cut may touch: the network's input, constants, results of unknown operations."""


class LabelSets:
    """Disjoint sets of labels (union-find with path halving); a set may be frozen, with a reason."""

    def __init__(self) -> None:
        self._parent: list[int] = [FIXED]
        self._reason: dict[int, str] = {}

    def fresh(self, count: int) -> Tensor:
        """Hand out `count` new labels, each alone in its set.

        Args:
            count: How many.

        Returns:
            int64 of shape (count,).
        """
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def find(self, label: int) -> int:
        """Representative of the set that holds `label`.

        Args:
            label: A label.

        Returns:
            The representative; equal for two labels exactly if they are united.
        """
        parent = self._parent
        while parent[label] != label:
            parent[label] = parent[parent[label]]
            label = parent[label]
        return label

    def unite(self, a: int, b: int, reason: str) -> None:
        """Unite two sets; uniting with FIXED freezes.

        Args:
            a: A label.
            b: A label.
            reason: Why the set is frozen where one of the two is FIXED.
        """
        if FIXED in (a, b):
            self.freeze((a, b), reason)
            return
        a, b = self.find(a), self.find(b)
        if a == b:
            return
        low, high = min(a, b), max(a, b)
        self._parent[high] = low
        if high in self._reason:
            self._reason.setdefault(low, self._reason.pop(high))

    def freeze(self, labels: Iterable[int], reason: str) -> None:
        """Freeze the sets of `labels`; the first reason given to a set stays.

        Args:
            labels: Labels; FIXED is passed over.
            reason: Why, in a user's words.
        """
        for label in labels:
            if label != FIXED:
                self._reason.setdefault(self.find(label), reason)

    def reason(self, label: int) -> str | None:
        """Why the set of `label` is frozen, or None where it is not.

        Args:
            label: A label.

        Returns:
            The reason or None.
        """
        return self._reason.get(self.find(label))


class Regions:
    """Disjoint sets of stretches of the network; a set may be wide: it needs all channels."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._wide: set[int] = set()

    def fresh(self) -> int:
        """Open a region.

        Returns:
            Its number.
        """
        self._parent.append(len(self._parent))
        return len(self._parent) - 1

    def find(self, region: int) -> int:
        """Representative of a region.

        Args:
            region: A region.

        Returns:
            The representative; equal for two regions exactly if they are united.
        """
        while self._parent[region] != region:
            self._parent[region] = region = self._parent[self._parent[region]]
        return region

    def unite(self, a: int, b: int) -> None:
        """Make two regions one; it is wide if one of them was.

        Args:
            a: A region.
            b: A region.
        """
        a, b = self.find(a), self.find(b)
        low, high = min(a, b), max(a, b)
        self._parent[high] = low
        if high in self._wide:
            self._wide.add(low)

    def widen(self, region: int) -> None:
        """Let all tensors of a region keep all channels.

        Args:
            region: A region.
        """
        self._wide.add(self.find(region))

    def is_wide(self, region: int) -> bool:
        """Whether a region keeps all channels.

        Args:
            region: A region.

        Returns:
            False where its tensors shrink with a cut.
        """
        return self.find(region) in self._wide


@dataclass(frozen=True)
class Labels:
    """What is known of one tensor.

    A region is a stretch of the network in which every tensor has the same form: either all channels, or only those
    that stay. Inside a region run functions of the user's code; at its borders stand modules, where channels can be
    picked or put back.

    Attributes:
        ids: int64 of the tensor's shape, expanded (stride 0) along every dimension in which it is constant;
            None where every element is FIXED.
        parents: Layers whose outputs reach the tensor without passing another layer.
        region: The stretch of the network that the tensor lives in; None where it has no channels.
        data: Whether its values depend on the network's input.
    """

    ids: Tensor | None = None
    parents: frozenset[str] = field(default_factory=frozenset)
    region: int | None = None
    data: bool = False


def canonical(ids: Tensor) -> Tensor | None:
    """Bring a label tensor to the form that `Labels.ids` promises.

    Args:
        ids: int64 of any shape.

    Returns:
        The same values, expanded along the dimensions in which they are constant; None where all are FIXED.
    """
    shape = ids.shape
    if ids.numel() == 0 or not bool(ids.any()):
        return None
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1:
            first = ids.narrow(dim, 0, 1)
            if ids.stride(dim) == 0 or bool((ids == first).all()):
                ids = first
    return ids.contiguous().expand(shape)


def varying_dims(ids: Tensor | None) -> tuple[int, ...]:
    """Dimensions along which a canonical label tensor changes: where the channels are.

    Args:
        ids: `Labels.ids`.

    Returns:
        The dimensions, ascending.
    """
    if ids is None:
        return ()
    return tuple(dim for dim in range(ids.dim()) if ids.shape[dim] > 1 and ids.stride(dim) != 0)


def compact(ids: Tensor) -> Tensor:
    """One element for every dimension along which a canonical label tensor is constant.

    Args:
        ids: `Labels.ids`, not None.

    Returns:
        int64 of the same number of dimensions.
    """
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1 and ids.stride(dim) == 0:
            ids = ids.narrow(dim, 0, 1)
    return ids


def meeting_pairs(a: Tensor, b: Tensor) -> Tensor:
    """Pairs of labels that meet in an element-wise operation of two tensors.

    Args:
        a: Canonical labels.
        b: Canonical labels, broadcastable with `a`.

    Returns:
        int64 of shape (pairs, 2), every pair once.
    """
    x, y = torch.broadcast_tensors(compact(a), compact(b))
    pairs = torch.stack((x.reshape(-1), y.reshape(-1)), dim=1)
    return pairs if len(pairs) == 1 else torch.unique(pairs, dim=0)


def broadcast_labels(ids: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Labels of the result of an element-wise operation: the first operand's that are not FIXED.

    Args:
        ids: Canonical labels of the operands, all broadcastable to `shape`.
        shape: Shape of the result.

    Returns:
        int64 of shape `shape`, not canonical.
    """
    result = compact(ids[0])
    for other in ids[1:]:
        result = torch.where(result == FIXED, compact(other), result)
    return result.expand(shape)
