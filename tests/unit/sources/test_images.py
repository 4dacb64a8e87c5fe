"""Stored pixels become inputs: scaled, converted, resized and normalised, in memory or from files."""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader

from causal_prune.errors import InputError
from causal_prune.sources.images import (
    ImageArrays,
    ImageFiles,
    InputFormat,
    comma,
    input_format,
    read_image,
    to_inputs,
)

GREY = InputFormat((1, 2, 2), (0.0,), (1.0,))
NOTHING: dict[str, Any] = {"mean": None, "std": None, "input_shape": None}


def test_a_format_is_the_stored_one_unless_something_is_said() -> None:
    assert input_format((3, 4, 5), **NOTHING) == InputFormat((3, 4, 5), (0.0,) * 3, (1.0,) * 3, 255.0)
    found = input_format((3, 4, 5), mean=(0.1,), std=(0.2,), input_shape=(1, 8, 9), white=16)
    assert found == InputFormat((1, 8, 9), (0.1,), (0.2,), 16)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"mean": (0.1, 0.2, 0.3)}, "mean: 3 values for 1-channel images; give 1"),
        ({"std": (0.1, 0.2)}, "std: 2 values for 1-channel images; give 1"),
        ({"mean": (0.1,), "input_shape": (3, 8, 8)}, "mean: 1 values for 3-channel images; give 3"),
        ({"std": (0.0,)}, "std: 0 is not above 0"),
        ({"std": (0.5, -0.25, 1.0), "input_shape": (3, 8, 8)}, "std: 0.5,-0.25,1 is not above 0"),
        ({"std": (float("nan"),)}, "std: nan is not finite"),
        ({"mean": (float("inf"),)}, "mean: inf is not finite"),
        (
            {"mean": (127.5,)},
            "mean: 127.5 is above 1, but images are scaled to [0, 1]; give 0.5, which is this divided by 255",
        ),
        (
            {"mean": (123.675, 116.28, 103.53), "input_shape": (3, 8, 8)},
            (
                "mean: 123.675,116.28,103.53 is above 1, but images are scaled to [0, 1]; give 0.485,0.456,0.406, "
                "which is these divided by 255"
            ),
        ),
        (
            {"mean": (0.5, 0.5, 1.01), "input_shape": (3, 8, 8)},
            (
                "mean: 0.5,0.5,1.01 is above 1, but images are scaled to [0, 1]; give 0.002,0.002,0.004, which is "
                "these divided by 255"
            ),
        ),
        (
            {"mean": (32767.5,)},
            "mean: 32767.5 is above 1, but images are scaled to [0, 1]; give 0.5, which is this divided by 65535",
        ),
        (
            {"mean": (1e6,)},
            "mean: 1e+06 is above 1, but images are scaled to [0, 1]; give the mean of scaled images",
        ),
        (
            {"mean": (0.5,), "std": (58.395,)},
            "std: 58.395 is above 1, but images are scaled to [0, 1]; give 0.229, which is this divided by 255",
        ),
        ({"input_shape": (2, 8, 8)}, "input_shape: 1-channel images cannot become 2-channel inputs"),
        ({"input_shape": (1, 0, 8)}, "input_shape: 1,0,8 is not channels,height,width of at least 1"),
    ],
)
def test_options_that_do_not_fit_the_images_are_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        input_format((1, 8, 8), **{**NOTHING, **options})


def test_what_images_in_the_unit_interval_can_have_is_taken() -> None:
    found = input_format((1, 8, 8), **{**NOTHING, "mean": (1.0,), "std": (1.0,)})
    assert (found.mean, found.std) == ((1.0,), (1.0,))
    assert input_format((1, 8, 8), **{**NOTHING, "std": (1 / 255,)}).std == (1 / 255,)


def test_values_are_written_as_the_command_line_takes_them() -> None:
    assert comma((3, 224, 0.25)) == "3,224,0.25"


def test_pixels_are_scaled_to_the_unit_interval_and_normalised() -> None:
    pixels = torch.tensor([[0, 4], [8, 16]], dtype=torch.uint8).view(1, 1, 2, 2)
    found = to_inputs(pixels, InputFormat((1, 2, 2), (0.25,), (0.5,), white=16))
    assert found.dtype == torch.float32 and found.flatten().tolist() == [-0.5, 0.0, 0.5, 1.5]


def test_grey_from_colour_is_luma_and_colour_from_grey_three_times_the_same() -> None:
    pixels = torch.tensor([10, 100, 200], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = ((0.299 * 10 + 0.587 * 100 + 0.114 * 200) / 255 - 0.1) / 0.5
    assert to_inputs(pixels, InputFormat((1, 1, 1), (0.1,), (0.5,))).item() == pytest.approx(
        expected, abs=1e-3
    )
    colours = to_inputs(pixels[:, 1:2], InputFormat((3, 1, 1), (0.0, 0.1, 0.2), (1.0, 1.0, 0.5)))
    grey = 100 / 255
    assert colours.flatten().tolist() == pytest.approx([grey, grey - 0.1, (grey - 0.2) / 0.5])


@pytest.mark.parametrize("size", [(2, 3), (9, 4)])
def test_sizes_change_by_interpolation_without_aliases(size: tuple[int, int]) -> None:
    pixels = torch.randint(256, (2, 1, 6, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = to_inputs(pixels, InputFormat((1, *size), (0.0,), (1.0,)))
    expected = functional.interpolate(pixels / 255, size=size, mode="bilinear", antialias=True)
    torch.testing.assert_close(found, expected)
    assert float(found.mean()) == pytest.approx(float((pixels / 255).mean()), abs=0.03)


def test_items_in_memory_are_the_same_one_by_one_and_in_batches() -> None:
    pixels = torch.arange(20, dtype=torch.uint8).view(5, 1, 2, 2)
    part = ImageArrays(pixels, np.array([3, 1, 4, 1, 5]), GREY)
    assert len(part) == 5
    for index in range(5):
        image, label = part[index]
        assert torch.equal(image, pixels[index] / 255) and type(label) is int
    images, labels = next(iter(DataLoader(part, batch_size=5)))
    assert torch.equal(images, pixels / 255) and labels.tolist() == [3, 1, 4, 1, 5]
    some = part.__getitems__([4, 0])
    assert [label for _, label in some] == [5, 3] and torch.equal(some[0][0], pixels[4] / 255)


def saved(path: Path, pixels: npt.NDArray[np.generic], mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


PIXELS = np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20


def test_items_from_files_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    paths = [saved(tmp_path / f"{k}.png", PIXELS + k) for k in range(2)]
    part = ImageFiles(paths, np.array([7, 8]), InputFormat((3, 2, 2), (0.0,) * 3, (1.0,) * 3))
    image, label = part[1]
    assert len(part) == 2 and label == 8 and type(label) is int
    torch.testing.assert_close(image, torch.from_numpy(PIXELS + 1).permute(2, 0, 1) / 255)
    paths[0].unlink()
    with pytest.raises(InputError, match=r"0\.png is no readable image \(.*No such file"):
        part[0]


@pytest.mark.parametrize(
    ("mode", "channels"), [("RGB", 3), ("RGBA", 3), ("P", 3), ("CMYK", 3), ("L", 1), ("LA", 1), ("1", 1)]
)
def test_grey_images_keep_one_channel_and_transparency_is_dropped(
    tmp_path: Path, mode: str, channels: int
) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    found = read_image(saved(tmp_path / f"x.{suffix}", PIXELS, mode))
    assert found.dtype == torch.uint8 and found.shape == (channels, 2, 2)
    expected = Image.fromarray(PIXELS).convert(mode).convert("RGB" if channels == 3 else "L")
    assert torch.equal(found, torch.from_numpy(np.array(expected).reshape(2, 2, channels)).permute(2, 0, 1))


@pytest.mark.parametrize(("kind", "suffix"), [(np.int32, "tif"), (np.float32, "tif")])
def test_more_than_sixteen_bits_are_refused(tmp_path: Path, kind: type[np.generic], suffix: str) -> None:
    path = saved(tmp_path / f"x.{suffix}", np.full((2, 2), 5, kind))
    with pytest.raises(
        InputError, match=f"^data: {re.escape(str(path))} has 32 bits per channel; save it with 8 or 16$"
    ):
        read_image(path)


def write_png(path: Path, pixels: npt.NDArray[np.generic]) -> Path:
    """A PNG of 16 bits per channel, by the letter of RFC 2083; Pillow writes grey ones only."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_of_a_png_are_read_and_scaled(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(1).integers(0, 65536, (4, 5, channels)).astype(np.uint16)
    path = write_png(tmp_path / "ä 1.png", pixels)
    shown = 1 if channels < 3 else 3
    form = InputFormat((shown, 4, 5), (0.0,) * shown, (1.0,) * shown)
    found, _ = ImageFiles([path], np.array([0]), form)[0]
    expected = torch.from_numpy(pixels[..., :shown].astype(np.float32) / 65535).permute(2, 0, 1)
    # Pillow has no way to tell the lower halves of grey with transparency
    torch.testing.assert_close(found, expected, rtol=0, atol=1 / 255 if channels == 2 else 1e-6)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_sixteen_bits_is_read_from_other_formats_too(tmp_path: Path, suffix: str) -> None:
    pixels = np.array([[0, 1000], [40000, 65535]], np.uint16)
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5\n2 2\n65535\n" + pixels.astype(">u2").tobytes())
    else:
        saved(path, pixels)
    torch.testing.assert_close(read_image(path)[0] / 255, torch.from_numpy(pixels.astype(np.float32) / 65535))


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", np.zeros((40, 40, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(InputError, match=rf"^data: {re.escape(str(path))} is no readable image \(.+\)$"):
        read_image(path)
    path.write_text("hello")
    with pytest.raises(InputError, match=r"x\.png is no readable image \(cannot identify image file"):
        read_image(path)
