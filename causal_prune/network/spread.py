"""Mean and squared deviations, element by element, of numbers that come in batches."""

from dataclasses import dataclass

import torch
from torch import Tensor

NOTHING = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Spread:
    """What is known of numbers so far, in float64; of nothing yet where it is made without arguments.

    Attributes:
        count: How many there were of every element.
        mean: Their mean.
        squares: Sum of their squared deviations from it.
    """

    count: int = 0
    mean: Tensor = NOTHING
    squares: Tensor = NOTHING

    def with_more(self, count: int, mean: Tensor, squares: Tensor) -> "Spread":
        """That of these and of further numbers together (Chan, Golub and LeVeque 1979, eq. 1.1, for each element).

        Args:
            count: How many more there are.
            mean: Their own mean.
            squares: Their own squared deviations.

        Returns:
            The spread of all.
        """
        total, shift = self.count + count, mean - self.mean
        return Spread(
            total,
            self.mean + shift * (count / total),
            self.squares + squares + shift.square() * (self.count * count / total),
        )
