"""What `data` may name: digits, image folders, arrays, torchvision's data sets and the user's own."""

from dataclasses import replace
from functools import partial
from pathlib import Path

from causal_prune.data import Data
from causal_prune.errors import InputError
from causal_prune.sources.arrays import read_digits, read_noisy_digits, read_npz, read_torchvision
from causal_prune.sources.data_factory import read_factory
from causal_prune.sources.factories import anchored
from causal_prune.sources.image_folder import read_image_folder
from causal_prune.sources.images import input_format
from causal_prune.sources.splits import with_calibration

SHOWN_AS_READ = ("digits", "noisy-digits", "imagefolder", "npz", "torchvision")
"""Kinds of data whose pixels are scaled and normalised here, so that this can be undone; factories do it themselves."""
FORMS = "digits, imagefolder:DIR, npz:FILE, torchvision:NAME:ROOT, noisy-digits or path/file.py:factory"


def load_data(
    spec: str = "digits",
    *,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    input_shape: tuple[int, int, int] | None = None,
    calibration_images: int = 2048,
    seed: int = 0,
    within: Path | None = None,
) -> Data:
    """Load the data that `data` names, split them and check them; nothing is downloaded.

    The split is the same for every seed; the seed draws the calibration images from the training split. A
    factory that returns a `Data` has chosen its calibration images itself.

    Args:
        spec: `digits`, `noisy-digits`, `imagefolder:DIR`, `npz:FILE`, `torchvision:NAME:ROOT` or
            `path/file.py:factory`.
        mean: Subtracted per channel from inputs in [0, 1]; at most 1.
        std: Divided by per channel; above 0 and at most 1.
        input_shape: Channels, height and width to which images are converted.
        calibration_images: How many images to calibrate on; more than there are means all.
        seed: Of the draw of the calibration images.
        within: The folder from which a relative path counts; None for the working folder.

    Returns:
        The splits, and where they come from.

    Raises:
        InputError: If the data are missing, damaged or do not fit the options.

    Example:
        >>> load_data("digits").split
        {'train': 1168, 'validation': 270, 'calibration': 1168, 'test': 359}
    """
    if calibration_images < 1:
        raise InputError(f"calibration_images: {calibration_images} is not at least 1")
    kind, _, place = spec.partition(":")
    form_of = partial(input_format, mean=mean, std=std, input_shape=input_shape)
    if kind in ("imagefolder", "npz", "torchvision") and not place:
        raise InputError(f"data: '{spec}' names no place; write {FORMS}")
    if spec == "digits":
        splits = read_digits(form_of=partial(form_of, white=16.0))
    elif spec == "noisy-digits":
        splits = read_noisy_digits(form_of=form_of)
    elif kind == "imagefolder":
        splits = read_image_folder(
            anchored(place, within), name=spec, form_of=form_of, converted=input_shape is not None
        )
    elif kind == "npz":
        splits = read_npz(anchored(place, within), name=spec, form_of=form_of)
    elif kind == "torchvision":
        splits = read_torchvision(place, name=spec, form_of=form_of, within=within)
    elif ":" in spec:
        for name, value in (("mean", mean), ("std", std), ("input_shape", input_shape)):
            if value is not None:
                raise InputError(f"{name}: a data factory prepares its own images; leave it out")
        made = read_factory(spec, within=within)
        if isinstance(made, Data):
            return made
        splits = made
    else:
        raise InputError(f"data: '{spec}' is not one of {FORMS}")
    data = with_calibration(splits, calibration_images=calibration_images, seed=seed)
    if kind not in SHOWN_AS_READ:
        return data
    channels = len(data.train[0][0])
    return replace(data, mean=mean or (0.0,) * channels, std=std or (1.0,) * channels)
