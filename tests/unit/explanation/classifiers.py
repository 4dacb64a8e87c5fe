"""A small classifier that every method explains, and images."""

import torch
from torch import Tensor, nn

from tests.unit.drawn_weights import drawn


class Averaging(nn.Module):
    """Convolutions, one with a rectifier that overwrites its maps, the mean over space, one linear layer."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(dim=(2, 3)))


def network(seed: int = 0) -> Averaging:
    torch.manual_seed(seed)
    return drawn(Averaging()).eval()


def pictures(count: int = 5, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


def last_maps(net: Averaging, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net.body(x)
