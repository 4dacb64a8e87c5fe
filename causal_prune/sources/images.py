"""Labelled images as data sets: uint8 in memory or in files, float32 inputs on the way out."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from PIL.ImageFile import ImageFile
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision.transforms.functional import pil_to_tensor, rgb_to_grayscale

from causal_prune.errors import InputError

GREY_MODES = ("1", "L", "LA")
DEEP_MODES = ("I", "F")
WHITE, DEEP_WHITE = 255, 65535
"""The largest values of 8 and of 16 bits."""
DEEP_COLOURS = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
"""How Pillow reads colours of 16 bits, and how it would read them if the lower half came first."""


@dataclass(frozen=True)
class InputFormat:
    """How stored pixels become inputs of a network.

    Attributes:
        shape: Channels, height and width of an input.
        mean: Subtracted per channel, after scaling to [0, 1].
        std: Divided by per channel; > 0.
        white: The stored value that becomes 1.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float = WHITE


FormOf = Callable[[tuple[int, int, int]], InputFormat]


def input_format(
    stored: tuple[int, int, int],
    *,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
    input_shape: tuple[int, int, int] | None,
    white: float = WHITE,
) -> InputFormat:
    """Check the options that shape inputs against the images at hand.

    Args:
        stored: Channels, height and width of the stored images.
        mean: Per channel, of inputs in [0, 1]: at most 1; None for zeros.
        std: Per channel, above 0 and at most 1; None for ones.
        input_shape: Channels, height and width wanted; None for `stored`.
        white: The stored value that becomes 1.

    Returns:
        The format.

    Raises:
        InputError: If the lengths do not fit the channels, a value is out of range, or the channels
            cannot be converted.
    """
    shape = stored if input_shape is None else input_shape
    if min(shape) < 1:
        raise InputError(f"input_shape: {comma(shape)} is not channels,height,width of at least 1")
    if shape[0] != stored[0] and {shape[0], stored[0]} != {1, 3}:
        raise InputError(f"input_shape: {stored[0]}-channel images cannot become {shape[0]}-channel inputs")
    channels = shape[0]
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and len(values) != channels:
            raise InputError(f"{name}: {len(values)} values for {channels}-channel images; give {channels}")
        if values is not None and not all(math.isfinite(value) for value in values):
            raise InputError(f"{name}: {comma(values)} is not finite")
        if values is not None:
            _check_scale(name, values)
    if std is not None and min(std) <= 0:
        raise InputError(f"std: {comma(std)} is not above 0")
    return InputFormat(shape, mean or (0.0,) * channels, std or (1.0,) * channels, white)


def _check_scale(name: str, values: tuple[float, ...]) -> None:
    """Refuse a mean or a deviation above 1, which no images in [0, 1] have: it is of pixels that are not scaled.

    A deviation is at most 0.5 there; 1 leaves images as they are.
    """
    if max(values) <= 1:
        return
    white = next((limit for limit in (WHITE, DEEP_WHITE) if max(values) <= limit), None)
    text = f"{name}: {comma(values)} is above 1, but images are scaled to [0, 1]"
    if white is None:
        raise InputError(f"{text}; give the {name} of scaled images")
    scaled = comma(tuple(round(value / white, 4) for value in values))
    these = "this" if len(values) == 1 else "these"
    raise InputError(f"{text}; give {scaled}, which is {these} divided by {white}")


def comma(values: tuple[float, ...]) -> str:
    """Write values as the command line takes them.

    Args:
        values: Numbers.

    Returns:
        The numbers, separated by commas.
    """
    return ",".join(f"{value:g}" for value in values)


def to_inputs(images: Tensor, form: InputFormat) -> Tensor:
    """Turn stored images into inputs: scale to [0, 1], convert channels, resize, normalise.

    Grey becomes three equal channels; RGB becomes luma (ITU-R 601). Sizes change by antialiased bilinear
    interpolation, without regard to the aspect.

    Args:
        images: Stored pixels, shape (N, C, H, W).
        form: The format of the inputs.

    Returns:
        Inputs, float32 of shape (N, *form.shape).
    """
    inputs = images.to(torch.float32) / form.white
    channels, *size = form.shape
    if inputs.shape[1] != channels:
        inputs = rgb_to_grayscale(inputs) if channels == 1 else inputs.expand(-1, channels, -1, -1)
    if list(inputs.shape[2:]) != size:
        inputs = functional.interpolate(inputs, size=size, mode="bilinear", antialias=True)
    mean = torch.tensor(form.mean).view(-1, 1, 1)
    std = torch.tensor(form.std).view(-1, 1, 1)
    return (inputs - mean) / std


class ImageArrays(Dataset[tuple[Tensor, int]]):
    """Images kept in memory as they are stored, and made inputs a batch at a time.

    Args:
        images: Stored pixels, shape (N, C, H, W).
        labels: Class of each image, shape (N,).
        form: The format of the inputs.
    """

    def __init__(self, images: Tensor, labels: npt.NDArray[np.int64], form: InputFormat) -> None:
        self.images = images
        self.labels = labels
        self.form = form

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one input and its label.

        Args:
            index: Position, below the number of images.

        Returns:
            The input, float32 of shape (C, H, W), and the label.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Return a batch of inputs and labels; the loader of torch asks for batches in this way.

        Args:
            indices: Positions, below the number of images.

        Returns:
            Inputs and labels, one pair per position.
        """
        inputs = to_inputs(self.images[indices], self.form)
        labels: list[int] = self.labels[indices].tolist()
        return list(zip(inputs, labels, strict=True))


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Images read from their files when they are asked for.

    Args:
        paths: The files.
        labels: Class of each file, shape (N,).
        form: The format of the inputs.
    """

    def __init__(self, paths: list[Path], labels: npt.NDArray[np.int64], form: InputFormat) -> None:
        self.paths = paths
        self.labels = labels
        self.form = form

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one input and its label.

        Args:
            index: Position, below the number of images.

        Returns:
            The input, float32 of shape (C, H, W), and the label.
        """
        return to_inputs(read_image(self.paths[index])[None], self.form)[0], int(self.labels[index])


def read_image(path: Path) -> Tensor:
    """Read an image file.

    Args:
        path: A file that Pillow can read, of 8 or 16 bits per channel.

    Returns:
        Pixels from 0 to 255 of shape (1, H, W) for a grey image, else (3, H, W): uint8, or float32 where the file has
        16 bits per channel; transparency is dropped.

    Raises:
        InputError: If the file is damaged, is no image, or has more than 16 bits per channel.
    """
    try:
        with Image.open(path) as image:
            raw = _raw_mode(image)
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
                return _scaled(torch.from_numpy(np.asarray(image).astype(np.int32))[None])
            if image.mode in DEEP_MODES:
                raise InputError(f"data: {path} has 32 bits per channel; save it with 8 or 16")
            grey = image.mode in GREY_MODES or raw.startswith("LA")
            pixels: Tensor = pil_to_tensor(image.convert("L" if grey else "RGB"))
        return _scaled(pixels.int() * 256 + _low_bytes(path)) if raw in DEEP_COLOURS else pixels
    except InputError:
        raise
    except Exception as cause:  # Pillow's readers raise OSError, SyntaxError, ValueError and others
        raise InputError(f"data: {path} is no readable image ({cause})") from cause


def _raw_mode(image: ImageFile) -> str:
    args = image.tile[0].args if image.tile else ""
    return args if isinstance(args, str) else ""


def _low_bytes(path: Path) -> Tensor:
    """The lower halves of 16 bits: Pillow keeps the upper ones, unless the halves are read as if they were swapped."""
    with Image.open(path) as image:
        image.tile = [tile._replace(args=DEEP_COLOURS[_raw_mode(image)]) for tile in image.tile]
        pixels: Tensor = pil_to_tensor(image.convert("RGB"))
        return pixels


def _scaled(pixels: Tensor) -> Tensor:
    return pixels.to(torch.float32) * (WHITE / DEEP_WHITE)
