"""Images that somebody names one by one, or by their folders, as inputs of a network."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from causal_prune.data import Data, evenly
from causal_prune.errors import InputError
from causal_prune.sources.images import input_format, read_image, to_inputs


def read_chosen(paths: Sequence[Path], data: Data, most: int | None = None) -> tuple[list[str], Tensor]:
    """Read image files as the networks of some data read their images.

    Args:
        paths: Files, and folders whose image files are taken at any depth, in order of their names; hidden ones are
            not.
        data: Whose shape and normalisation the images get.
        most: How many at most, spread evenly over those found; None for all.

    Returns:
        Their paths, and inputs of shape (images, channels, height, width).

    Raises:
        InputError: If a path is missing, a folder holds no image, a file is none, or the data prepare their images in a
            way that is not known here.
    """
    if not data.mean:
        raise InputError(
            "images: the data come from a factory that prepares its own images, so these cannot be prepared alike; "
            "leave `images` out to take test images, or let the factory return a Data with its attributes mean and std"
        )
    files = list(dict.fromkeys(file for path in paths for file in _files(path)))
    files = [files[k] for k in evenly(len(files), len(files) if most is None else most)]
    shape = tuple(data.test[0][0].shape)
    inputs = []
    for file in files:
        pixels = _read(file)[None]
        stored = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        form = input_format(stored, mean=data.mean, std=data.std, input_shape=(shape[0], shape[1], shape[2]))
        inputs.append(to_inputs(pixels, form))
    return [str(file) for file in files], torch.cat(inputs)


def _read(file: Path) -> Tensor:
    try:
        return read_image(file)
    except InputError as error:
        raise InputError(str(error).replace("data: ", "images: ", 1)) from error


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"images: there is no file or folder {path}")
    found = [
        file
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in IMG_EXTENSIONS
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    ]
    if not found:
        raise InputError(f"images: {path} holds no image ({' '.join(IMG_EXTENSIONS)})")
    return found
