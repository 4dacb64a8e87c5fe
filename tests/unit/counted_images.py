"""Images that can be learned, and count how often each is fetched."""

from collections import Counter

import torch
from torch import Tensor
from torch.utils.data import Dataset


class Counted(Dataset[tuple[Tensor, int]]):
    """Random images with labels that can be learned; counts how often each is fetched."""

    def __init__(self, size: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.images = torch.randn(size, 2, 6, 6, generator=draw)
        self.labels = (self.images.mean((2, 3))[:, 0] > 0).long() + (
            self.images.mean((2, 3))[:, 1] > 0
        ).long()
        self.fetched: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        self.fetched[index] += 1
        return self.images[index], int(self.labels[index])
