"""All images and all labels of a split."""

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


def labels_of(part: Dataset[tuple[Tensor, float]]) -> list[float]:
    return [label for _, labels in DataLoader(part, batch_size=50) for label in labels.tolist()]


def images_of(part: Dataset[tuple[Tensor, float]]) -> Tensor:
    return torch.cat([images for images, _ in DataLoader(part, batch_size=50)])
