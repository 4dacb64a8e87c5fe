"""A small network and its images as files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

FACTORY = """
from torch import nn


def net(width=6):
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)
    )
"""


@dataclass(frozen=True)
class Disk:
    """Where a network and its images lie.

    Attributes:
        model: For `--model`.
        data: For `--data`: 60 training and 12 test images of shape (1, 6, 6), three classes.
    """

    model: str
    data: str

    @property
    def flags(self) -> tuple[str, ...]:
        """Both, as flags."""
        return ("--model", self.model, "--data", self.data)


def written(folder: Path) -> Disk:
    """Write both into a folder."""
    (folder / "nets.py").write_text(FACTORY, encoding="utf-8")
    draw = np.random.default_rng(3)
    images = draw.integers(0, 255, (72, 6, 6, 1)).astype(np.uint8)
    labels = np.arange(72) % 3
    np.savez(
        folder / "noise.npz",
        train_images=images[:60],
        train_labels=labels[:60],
        test_images=images[60:],
        test_labels=labels[60:],
    )
    return Disk(f"{folder / 'nets.py'}:net", f"npz:{folder / 'noise.npz'}")
