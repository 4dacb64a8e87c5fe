"""Views of images: mirror images and zoomed crops, so that a few images stand for more that were not seen."""

from collections.abc import Sized
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset

from causal_prune.data.data import BATCH, Images, loader
from causal_prune.errors import InputError

SMALLEST_CROP = 0.85
"""A crop's sides are at least this share of the image's."""
ENOUGH = 512
"""So many views are made where a source of data says that they are harmless."""
MOST = 4
"""More views of an image than this are not made unasked."""


class Views(Dataset[tuple[Tensor, float]]):
    """So many views of every image after each other: the image, then crops of it, each second one mirrored.

    A crop has the image's shape of sides, is drawn anew for every view (of k in 0 ... from a generator that k seeds,
    sides uniform in 0.85 to 1, place uniform), and is resized to the size of the image by bilinear interpolation. The
    labels are those of the images.

    Args:
        images: A map-style data set of pairs (image of shape (channels, height, width), label).
        count: Views of each image, the image itself among them.
    """

    def __init__(self, images: Images, count: int) -> None:
        self.images, self.count = images, count

    def __len__(self) -> int:
        """Return the number of views of all images."""
        return self.count * len(cast(Sized, self.images))

    def __getitem__(self, index: int) -> tuple[Tensor, float]:
        """Return a view and its label.

        Args:
            index: Position: views of one image stand side by side.

        Returns:
            Both.

        Raises:
            IndexError: Beyond the last view.
            InputError: If an item holds no image of shape (channels, height, width).
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        image, label = self.images[index // self.count]
        if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
            raise InputError(
                "views: calibration items hold no image of numbers with a fraction, of shape (channels, height, "
                "width), of which there are views; `views` 1 takes them as they are"
            )
        number = index % self.count
        return (image if number == 0 else _cropped(image, index, mirrored=number % 2 == 1)), label


def _cropped(image: Tensor, seed: int, *, mirrored: bool) -> Tensor:
    draw = torch.rand(3, generator=torch.Generator().manual_seed(seed)).tolist()
    side = SMALLEST_CROP + (1 - SMALLEST_CROP) * draw[0]
    height, width = (max(1, round(side * extent)) for extent in image.shape[1:])
    top, left = (
        round(share * (whole - part))
        for share, whole, part in zip(draw[1:], image.shape[1:], (height, width), strict=True)
    )
    crop = image[None, :, top : top + height, left : left + width]
    view = interpolate(crop, size=image.shape[1:], mode="bilinear", align_corners=False)[0]
    return view.flip(2) if mirrored else view


def views_unasked(images: int, *, harmless: bool) -> int:
    """How many views of every image are taken where nobody asked.

    Args:
        images: How many there are.
        harmless: Whether mirror images and crops show what the images show.

    Returns:
        1 where they may not, or images are enough.
    """
    return max(1, min(MOST, ENOUGH // max(images, 1))) if harmless else 1


def loader_of_views(images: Images, count: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of views; those of one image stand side by side in one batch.

    Args:
        images: The images.
        count: Views of each.

    Returns:
        A loader of (views, labels).
    """
    return loader(Views(images, count) if count > 1 else images, batch=count * max(1, BATCH // count))
