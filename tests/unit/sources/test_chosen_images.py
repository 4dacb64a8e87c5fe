"""Images that somebody names: found, prepared as the data are, or refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from causal_prune.errors import InputError
from causal_prune.sources.chosen_images import read_chosen
from causal_prune.sources.data import load_data


@pytest.fixture
def colours(tmp_path: Path) -> tuple[Path, np.ndarray]:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "data.npz", train_images=np.repeat(pixels, 4, 0), train_labels=np.arange(24) % 2,
        test_images=pixels, test_labels=np.arange(6) % 2,
    )  # fmt: skip
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for k in range(6):
        place = tmp_path / "photos" / ("more" if k > 3 else "") / f"{k}.png"
        Image.fromarray(pixels[k]).save(place)
    (tmp_path / "photos" / ".hidden.png").write_bytes(b"none")
    (tmp_path / "photos" / "notes.txt").write_text("none")
    return tmp_path, pixels


def test_files_are_prepared_as_the_data_prepare_theirs(colours: tuple[Path, np.ndarray]) -> None:
    folder, _ = colours
    data = load_data(f"npz:{folder / 'data.npz'}", mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    names, images = read_chosen([folder / "photos"], data)
    assert [Path(name).name for name in names] == [f"{k}.png" for k in range(6)]
    expected = torch.stack([data.test[k][0] for k in range(6)])
    torch.testing.assert_close(images, expected)
    alone = read_chosen([folder / "photos" / "3.png", folder / "photos" / "3.png"], data)
    assert len(alone[0]) == 1 and torch.equal(alone[1], images[3:4]), "a file that is named twice counts once"


def test_of_many_some_are_taken_evenly(colours: tuple[Path, np.ndarray]) -> None:
    folder, _ = colours
    data = load_data(f"npz:{folder / 'data.npz'}")
    names, images = read_chosen([folder / "photos"], data, 3)
    assert [Path(name).name for name in names] == ["0.png", "2.png", "4.png"] and len(images) == 3


def test_other_sizes_and_grey_become_what_the_network_reads(colours: tuple[Path, np.ndarray]) -> None:
    folder, _ = colours
    Image.fromarray(np.zeros((20, 10), dtype=np.uint8)).save(folder / "grey.png")
    _, images = read_chosen([folder / "grey.png"], load_data(f"npz:{folder / 'data.npz'}"))
    assert images.shape == (1, 3, 8, 8) and not images.any()


def test_what_cannot_be_read_is_named(colours: tuple[Path, np.ndarray]) -> None:
    folder, _ = colours
    data = load_data(f"npz:{folder / 'data.npz'}")
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match="images: there is no file or folder .*nowhere"):
        read_chosen([folder / "nowhere"], data)
    with pytest.raises(InputError, match="images: .*empty holds no image"):
        read_chosen([folder / "empty"], data)
    with pytest.raises(InputError, match="^images: .*notes.txt is no readable image"):
        read_chosen([folder / "photos" / "notes.txt"], data)
    own = replace(data, mean=(), std=())
    with pytest.raises(InputError, match="images: the data come from a factory that prepares its own images"):
        read_chosen([folder / "photos"], own)
