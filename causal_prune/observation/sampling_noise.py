"""How far covariances of few images can be trusted: how much they vary from image to image."""

import torch
from torch import Tensor

from causal_prune.machine import add_up

COLUMNS = 128
"""Inputs of a layer whose covariances are followed image by image; all where there are no more."""


class SamplingNoise:
    """Follows the covariances of some inputs from image to image, and tells how much of them to believe.

    Rows of one image are no independent samples: neighbouring places look alike. Images are. With C_k the mean product
    of the inputs of image k about the mean of all, the covariance is S = mean C_k, and the variance of its entries
    is estimated by Var(S_ij) = sum_k (C_k,ij - S_ij)^2 / (N (N - 1)), however many rows an image has. In units of the
    inputs' deviations, r_ij = S_ij / (d_i d_j), the linear combination of S and of its blocks within a channel that is
    nearest to the true covariance, in mean square, takes
        rho = sum Var(r_ij) / sum r_ij^2
    off the entries between channels (Ledoit and Wolf 2003; Schaefer and Strimmer 2005, table 2, target D, here with the
    channels' own blocks as target and images as samples). It goes to 0 as images grow, as 1 / N.

    The mean of all is known at the end alone, so that C_k is taken about the mean c of the first rows and moved then:
    with a_k the mean of image k about c, and m that of all,
        C_k(m) = C_k(c) - a_k m^T - m a_k^T + m m^T,
    whose sum over images and sum of squares follow from the sums of C_k, C_k^2, C_k,ij a_k,i, a_k a_k^T and a_k.

    Args:
        blocks: Sets of inputs, the groups of a convolution.
        size: Inputs of a block.
        channels: Channels that these belong to; input i to channel i modulo it.
        device: Where to add up.
    """

    def __init__(self, blocks: int, size: int, channels: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        every = torch.randperm(size, generator=generator)[:COLUMNS]
        self.columns = every.sort().values.to(device)
        owner = self.columns % channels
        self.between = owner[:, None] != owner[None, :]
        self.needed = bool(self.between.any())
        self.images = 0
        shape = (blocks, len(every), len(every)) if self.needed else (0, 0, 0)
        self.centre: Tensor | None = None
        self.means = torch.zeros(shape[:2], dtype=torch.float64, device=device)
        self.pairs, self.total, self.squares, self.crossed = (
            torch.zeros(shape, dtype=torch.float64, device=device) for _ in range(4)
        )

    def add(self, rows: Tensor, per_image: int) -> None:
        """Count images.

        Args:
            rows: Shape (blocks, images * rows of an image, size).
            per_image: Rows of an image.
        """
        if not self.needed:
            return
        rows = rows[..., self.columns]
        if self.centre is None:
            self.centre = rows.mean(dim=1)
        each = (rows - self.centre[:, None]).unflatten(1, (-1, per_image))
        means, products = each.mean(dim=2), each.mT @ each / per_image
        self.images += products.shape[1]
        self.means += means.sum(dim=1)
        self.pairs += means.mT @ means
        self.total += products.sum(dim=1)
        self.crossed += torch.einsum("bkij,bki->bij", products, means)
        self.squares += products.square_().sum(dim=1)

    def gather(self, mean: Tensor) -> None:
        """Have everything about the mean of all rows, of all processes.

        Args:
            mean: The mean, shape (blocks, size).
        """
        if not self.needed:
            return
        if self.centre is not None:
            self._move(mean[:, self.columns] - self.centre)
        self.images = int(add_up(torch.tensor([float(self.images)], dtype=torch.float64)))
        self.total, self.squares = add_up(self.total), add_up(self.squares)

    def _move(self, by: Tensor) -> None:
        i, j = by[:, :, None], by[:, None, :]
        e_i, e_j = self.means[:, :, None], self.means[:, None, :]
        own = self.pairs.diagonal(dim1=1, dim2=2)
        self.squares += (
            own[:, :, None] * j**2 + own[:, None, :] * i**2 + self.images * (i * j) ** 2
            - 2 * (self.crossed * j + self.crossed.mT * i)
            + 2 * (self.total + self.pairs) * i * j
            - 2 * (e_i * i * j**2 + e_j * j * i**2)
        )  # fmt: skip
        self.total += self.images * i * j - e_i * j - i * e_j

    def shrinkage(self, covariance: Tensor) -> float:
        """What to take off the covariances between channels, once all is gathered.

        Args:
            covariance: Of all rows, shape (blocks, size, size).

        Returns:
            rho, from 0 to 1; 1 of a single image, of which nothing is known.
        """
        if not self.needed or not self.images:
            return 0.0
        if self.images == 1:
            return 1.0
        picked = covariance[:, self.columns][:, :, self.columns]
        variance = picked.diagonal(dim1=1, dim2=2)
        inverse = torch.where(variance > 0, 1 / variance.clamp_min(1e-300), 0.0)
        scale = inverse[:, :, None] * inverse[:, None, :] * self.between
        spread = (self.squares - self.total.square() / self.images).clamp_min(0)
        noise = float((spread * scale).sum()) / (self.images * (self.images - 1))
        found = float((picked.square() * scale).sum())
        return min(1.0, noise / found) if found > 0 else 0.0
