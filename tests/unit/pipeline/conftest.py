"""A network of two convolutions and a few random images."""

import pytest
from torch import nn

from causal_prune.data.data import Data
from tests.unit.counted_images import Counted
from tests.unit.drawn_weights import drawn


@pytest.fixture
def net() -> nn.Module:
    return drawn(
        nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(32, 3),
        )
    )  # fmt: skip


@pytest.fixture
def data() -> Data:
    train, validation, calibration, test = (Counted(size, seed) for seed, size in enumerate((24, 10, 20, 15)))
    return Data(train, validation, calibration, test, ("a", "b", "c"), "noise", "20 images")
