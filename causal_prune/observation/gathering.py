"""Count, mean and centred scatter of rows of numbers, gathered batch by batch and merged without loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from causal_prune.machine import add_up, processes

TRIANGLE = 128
"""Scatters at least this wide are accumulated in four block rows, above the diagonal only."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and centred scatter of rows of numbers, in float64; mergeable without loss.

    Attributes:
        count: Number of rows.
        mean: Of shape (..., p).
        scatter: Sum of (x - mean)(x - mean)^T, of shape (..., p, p).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @property
    def covariance(self) -> Tensor:
        """Scatter divided by the count, of shape (..., p, p)."""
        return self.scatter / max(self.count, 1)

    def picked(self, columns: Tensor) -> "Moments":
        """Moments of some columns alone.

        Args:
            columns: Indices along p.

        Returns:
            The moments of these columns in this order.
        """
        return Moments(self.count, self.mean[..., columns], self.scatter[..., columns, :][..., columns])


def moments_of(rows: Tensor) -> Moments:
    """Moments of a batch of rows.

    Args:
        rows: Shape (..., n, p). Centred before they are multiplied: raw sums lose everything where mean >> deviation.

    Returns:
        Moments over n.
    """
    rows = rows.double()
    mean = rows.mean(dim=-2, keepdim=True)
    centred = rows - mean
    return Moments(rows.shape[-2], mean.squeeze(-2), centred.mT @ centred)


class Gathering:
    """Moments that grow in place: Chan's merge without a second matrix of the size of the scatter.

    Args:
        blocks: Number of separate sets of columns, such as the groups of a convolution.
        parts: Columns come in this many parts of equal size whose scatters are added up; means are kept apart.
        size: Columns of one part.
        device: Where to add up.
    """

    def __init__(self, blocks: int, parts: int, size: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(blocks, parts, size, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(blocks, size, size, dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Merge a batch of rows.

        Args:
            rows: Shape (blocks, n, parts, size), float64, on the device; centred in place.
        """
        n = rows.shape[1]
        mean = rows.mean(dim=1)
        rows.sub_(mean.unsqueeze(1))
        total = self.count + n
        difference = mean - self.mean
        self.mean += difference * (n / total)
        between = difference * (self.count * n / total) ** 0.5
        self.count = total
        self._multiply(rows.flatten(1, 2))
        self._multiply(between)

    def shift_to(self, mean: Tensor) -> None:
        """Let the scatter be that about another point than the mean.

        Args:
            mean: The point, of the shape of `mean`.
        """
        self._multiply((self.mean - mean) * self.count**0.5)
        self.mean = mean

    def _multiply(self, rows: Tensor) -> None:
        size = rows.shape[2]
        if size == 1:  # a product of vectors for every block would be slower by far
            self.scatter += rows.square().sum(dim=1, keepdim=True)
            return
        if size < TRIANGLE:
            self.scatter.baddbmm_(rows.mT, rows)
            return
        step = -(-size // 4)
        for block, scatter in zip(rows, self.scatter, strict=True):
            for start in range(0, size, step):
                scatter[start : start + step, start:].addmm_(
                    block[:, start : start + step].mT, block[:, start:]
                )

    def result(self) -> Moments:
        """The moments, with the scatter whole.

        Returns:
            Moments of shape (blocks, size); the mean is that over the parts. They share memory with the gathering.
        """
        size = self.scatter.shape[1]
        if size >= TRIANGLE:
            step = -(-size // 4)
            for start in range(step, size, step):
                self.scatter[:, start : start + step, :start] = self.scatter[
                    :, :start, start : start + step
                ].mT
        return Moments(self.count * self.mean.shape[1], self.mean.mean(dim=1), self.scatter)


def gather_all(gathering: Gathering) -> None:
    """Give every process the moments of all processes' rows.

    With K the mean of all rows, S_i the scatter of process i about its own mean m_i and n_i its rows,
    sum_i (S_i + n_i (m_i - K)(m_i - K)^T) is the scatter of all rows about K. It is Chan's merge with a shift that all
    agree on, so that one sum is enough; a process without rows adds nothing.

    Args:
        gathering: This process's moments; becomes that of all.
    """
    if processes() == 1:
        return
    own = gathering.mean * gathering.count
    sums = add_up(torch.cat((own.new_tensor([float(gathering.count)]), own.flatten())))
    total = int(sums[0])
    mean = sums[1:].reshape(own.shape) / max(total, 1)
    gathering.shift_to(mean)
    gathering.scatter = add_up(gathering.scatter)
    gathering.count, gathering.mean = total, mean
