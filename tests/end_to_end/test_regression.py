"""Another task through the whole flow: numbers to be told, errors in the report, lower is better."""

import json
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_diabetes
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import causal_prune as cp
from causal_prune.command_line.entry import main
from causal_prune.data import Data, loader, regression_task
from causal_prune.importance import WITH_LABELS
from causal_prune.report import Report
from causal_prune.report.gating import baseline_of
from causal_prune.sources import load_data, load_model
from tests.end_to_end.conftest import Cli

ANGLES = f"{Path(__file__).parents[2] / 'examples' / 'digits_angle.py'}:data"
NET = '''
"""A small network for one number."""

from torch import nn


def net(numbers=1):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(256, numbers),
    )
'''
OF_CLASSIFIERS = re.compile(r"accurac|correct|wilson|mcnemar|\bpp\b|\blogits\b|\bclass(es)?\b", re.IGNORECASE)
"""Words and units that only a classifier has."""


@dataclass(frozen=True)
class User:
    """Who has a network that tells angles.

    Attributes:
        model: `--model` and `--weights`.
        bundle: Made with two seeds of random and one epoch.
        printed: What that run printed.
    """

    model: tuple[str, ...]
    bundle: Path
    printed: str


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> User:
    folder = tmp_path_factory.mktemp("angles")
    (folder / "nets.py").write_text(NET, encoding="utf-8")
    data = load_data(ANGLES)
    torch.manual_seed(0)
    dense = load_model(f"{folder / 'nets.py'}:net")
    dense = cp.fine_tune(dense, loader(data.train, shuffle=True), epochs=8, lr=0.05, task=data.task)
    torch.save(dense.state_dict(), folder / "net.pt")
    model = ("--model", f"{folder / 'nets.py'}:net", "--weights", str(folder / "net.pt"))
    options = ("--align", "1", "--epochs", "1", "--random-seeds", "2", "--out", str(folder / "bundle"))
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["run", *model, "--data", ANGLES, *options])
    assert code == 0, err.getvalue()
    return User(model, folder / "bundle", out.getvalue())


def test_numbers_of_the_report_are_those_of_the_file(user: User) -> None:
    report = Report.load(user.bundle / "report.json")
    images, labels = next(iter(DataLoader(load_data(ANGLES).test, batch_size=1000)))
    session = onnxruntime.InferenceSession(user.bundle / "model.onnx")
    (answers,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    errors = np.abs(answers.ravel() - labels.numpy())
    assert report.causal.quality == pytest.approx(errors.mean(), rel=1e-4)
    half = 1.966 * errors.std(ddof=1) / np.sqrt(len(errors))
    assert report.causal.ci95 == pytest.approx((errors.mean() - half, errors.mean() + half), rel=1e-3)
    assert report.yardstick == regression_task("degrees", digits=2).yardstick
    assert (
        report.dense.quality < 22.5
    )  # the error of who always says 0, for angles spread evenly over 45 degrees


def test_the_report_speaks_of_errors_and_nowhere_of_accuracy(user: User) -> None:
    texts = {name: (user.bundle / name).read_text(encoding="utf-8") for name in ("report.md", "report.html")}
    texts["report.html"] = re.sub(r"<style.*?</style>|<[^>]*>", " ", texts["report.html"], flags=re.DOTALL)
    texts["printed"] = user.printed
    for name, text in texts.items():
        assert "mean absolute error" in text and "degrees" in text, name
        assert not OF_CLASSIFIERS.findall(text), name
    names = [path.name for path in user.bundle.rglob("*")]
    assert "mean_absolute_error_vs_removed.png" in names and not [
        name for name in names if "accuracy" in name
    ]
    keys = set(json.loads((user.bundle / "report.json").read_text(encoding="utf-8"))["dense"])
    assert {"quality", "merits", "paired_p"} <= keys and not keys & {"accuracy", "hits", "mcnemar_p"}


def test_the_gate_knows_that_lower_is_better(cli: Cli, user: User, tmp_path: Path) -> None:
    report = Report.load(user.bundle / "report.json")
    low, high = report.causal.ci95
    for quality, code in ((low - 1, 1), (report.causal.quality - 1e-3, 4), (high + 1, 0)):
        baseline = baseline_of(report).model_copy(update={"quality": quality})
        baseline.save(tmp_path / "baseline.json")
        done = cli("gate", user.bundle, "--baseline", tmp_path / "baseline.json", "--max-drop", "0")
        assert done.code == code, done.out
        assert "mean absolute error in degrees" in done.out and not OF_CLASSIFIERS.search(done.out)
    done = cli("gate", user.bundle, "--baseline", user.bundle / "report.json", "--max-drop", "1.5")
    assert done.code == 0, done.out


@pytest.mark.parametrize("importance", sorted(WITH_LABELS))
def test_methods_that_read_labels_read_numbers(cli: Cli, user: User, importance: str) -> None:
    done = cli("run", *user.model, "--data", ANGLES, "--importance", importance, "--dry-run")
    if importance == "pcace":  # Pearson's correlations with the logits of classes
        assert done.code == 2 and "pcace" in done.error and "classes" in done.error
    else:
        assert (done.code, done.err) == (0, "")


def test_a_network_that_returns_more_numbers_is_refused(cli: Cli, user: User) -> None:
    done = cli("run", *user.model[:2], "--model-arg", "numbers=3", "--data", ANGLES)
    assert done.code == 2
    assert done.error == "causal-prune: --model: returned (64, 3), not one number per image"


def diabetes() -> Data:
    """scikit-learn's diabetes: ten numbers of a patient, as channels of an image of one pixel; labels 25 to 346."""
    table = load_diabetes(scaled=True)
    images = torch.from_numpy(table.data * 20).float()[:, :, None, None]
    whole = TensorDataset(images, torch.from_numpy(table.target).float())
    train, validation, test = (Subset(whole, range(*bounds)) for bounds in ((0, 300), (300, 350), (350, 442)))
    return Data(
        train,
        validation,
        train,
        test,
        (),
        "diabetes",
        "300 patients",
        task=regression_task("points", digits=1),
    )


def test_compress_takes_a_task_with_the_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = diabetes()
    net = nn.Sequential(
        nn.Conv2d(10, 24, 1), nn.ReLU(), nn.Conv2d(24, 24, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 1)
    )
    net[-1].bias.data.fill_(150.0)
    dense = cp.fine_tune(net, loader(data.train, shuffle=True), epochs=30, lr=0.03, task=data.task)
    made = cp.compress(dense, data, keep_params=0.5, epochs=2, random_seeds=2, align=1, out=tmp_path / "made")
    arm, stick = made.report.causal, made.report.yardstick
    assert (stick.name, stick.unit, stick.better) == ("mean absolute error", "points", "lower")
    always = np.abs(np.array([y for _, y in data.test]) - np.mean([y for _, y in data.train])).mean()
    assert made.report.dense.quality < 0.8 * always
    with torch.no_grad():
        errors = torch.stack([(made.model(x[None]).squeeze() - y).abs() for x, y in data.test])
    assert arm.quality == pytest.approx(errors.mean().item(), rel=1e-4)
    with pytest.raises(AttributeError, match="no accuracy: read `quality`"):
        _ = arm.accuracy
    assert Report.load(tmp_path / "made" / "report.json").causal == arm
