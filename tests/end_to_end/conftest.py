"""A network and images so small that a whole run takes seconds, and the command line called in this process."""

import hashlib
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from causal_prune.command_line.entry import main
from causal_prune.comparison import exports
from causal_prune.fine_tuning.training import fine_tune
from causal_prune.measure.latency import measure_latency
from causal_prune.onnx_files.parity import Parity
from causal_prune.planning import latency_target
from causal_prune.sources.data import load_data
from causal_prune.sources.models import load_model

FACTORIES = '''
"""Networks for images of shape (1, 8, 8) and three classes."""

import torch
from torch import nn


def net(width=8, classes=3):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    )


class Undefined(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return self.inner(x) / torch.zeros(1)


number = 3


def failing():
    raise RuntimeError("no weights today")


def no_network():
    return [1, 2]
'''


@dataclass(frozen=True)
class Done:
    """What a command did.

    Attributes:
        code: Its exit code.
        out: Its stdout.
        err: Its stderr.
    """

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr; anything else fails the test."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("causal-prune: ")
        return lines[0]


Cli = Callable[..., Done]


@dataclass(frozen=True)
class World:
    """Files of a user.

    Attributes:
        folder: Holds them.
        model: `--model` and `--weights` of a network that has learned the images.
        data: `--data` of the images.
    """

    folder: Path
    model: tuple[str, ...]
    data: tuple[str, ...]

    @property
    def run(self) -> tuple[str, ...]:
        """The shortest run: two arms are left out, and widths are not aligned."""
        return ("run", *self.model, *self.data, "--arms", "causal", "--align", "1")

    @property
    def factories(self) -> str:
        """The file with the factories."""
        return str(self.folder / "nets.py")


def stripes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images of stripes, in the direction that is their class: rows, columns or none."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.uniform(0, 120, (count, 8, 8, 1))
    images[labels == 0, ::2] += 80
    images[labels == 1, :, ::2] += 80
    return images.astype(np.uint8), labels


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("user")
    (folder / "nets.py").write_text(FACTORIES, encoding="utf-8")
    train, test = stripes(200, seed=1), stripes(100, seed=2)
    np.savez(
        folder / "stripes.npz",
        train_images=train[0],
        train_labels=train[1],
        test_images=test[0],
        test_labels=test[1],
    )
    torch.manual_seed(5)
    dense = load_model(f"{folder / 'nets.py'}:net")
    images = load_data(f"npz:{folder / 'stripes.npz'}").train
    batches = list(torch.utils.data.DataLoader(images, batch_size=32))
    save_file(fine_tune(dense, batches, epochs=8, lr=0.1).state_dict(), folder / "net.safetensors")
    return World(
        folder,
        ("--model", f"{folder / 'nets.py'}:net", "--weights", str(folder / "net.safetensors")),
        ("--data", f"npz:{folder / 'stripes.npz'}"),
    )


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call the command line in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    # tables are laid out for a terminal of this width, wherever the tests run
    monkeypatch.setenv("COLUMNS", "100")

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Done(code, printed.out, printed.err)

    return call


@pytest.fixture
def brief_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time files for a twentieth of a second, where a test does not look at the numbers."""
    for module in (exports, latency_target):
        monkeypatch.setattr(module, "measure_latency", partial(measure_latency, seconds=0.05))


@pytest.fixture(scope="session")
def bundle(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle made by a real run; copy it before you change it."""
    folder = tmp_path_factory.mktemp("made") / "net"
    options = ("--epochs", "1", "--random-seeds", "2", "--align", "1", "--out", str(folder))
    assert main(["run", *world.model, *world.data, *options]) == 0
    return folder


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch, bundle: Path, brief_timing: None) -> None:
    """Copy a file instead of exporting, which takes seconds, where a test is about something else."""

    def copied(model: object, path: Path, example: object, **_: object) -> Parity:
        shutil.copy(bundle / "model.onnx", path)
        return Parity(0.0, 1e-4, True, {})

    for module in (exports, latency_target):
        monkeypatch.setattr(module, "export_onnx", copied)


def listing(folder: Path) -> dict[str, str]:
    """Every file below a folder with a digest of its content, and every folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def files() -> Callable[[Path], dict[str, str]]:
    return listing


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[..., str]:
    """Call a command that must refuse: exit 2, one line, nothing written; give the line."""

    def call(arguments: Sequence[str | Path], text: str) -> str:
        before = listing(tmp_path)
        done = cli(*arguments)
        assert done.code == 2
        assert done.out == ""
        assert re.search(text, done.error), done.error
        assert listing(tmp_path) == before
        return done.error

    return call
