"""`explain` and `run --explain`: what they write, print and refuse."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from causal_prune.report.report import Report

METHODS = "grad_cam,saliency"


@pytest.fixture
def copied(bundle: Path, tmp_path: Path) -> Path:
    shutil.copytree(bundle, tmp_path / "net")
    return tmp_path / "net"


def test_test_images_of_the_bundle_are_explained_by_default(cli, copied: Path, files) -> None:
    before = files(copied)
    done = cli("explain", "net", "--methods", METHODS, "--count", "20")
    assert (done.code, done.err) == (0, "")
    out = copied / "explanation"
    assert sorted(file.name for file in out.iterdir()) == [
        "drift.json", "drift.md", "grad_cam.png", "saliency.png",
    ]  # fmt: skip
    told = json.loads((out / "drift.json").read_text())
    assert [each["method"] for each in told["methods"]] == ["grad_cam", "saliency"]
    assert len(told["images"]) == 20 and told["images"][1].startswith("test 5: ")
    assert told["as_reported"] is True
    assert all(each["images"] == 20 for each in told["methods"])
    assert imread(out / "grad_cam.png").shape[0] > 1500, "twelve rows"
    for text in ("dense again", "compressed", "unlearned", "picture: net/explanation/grad_cam.png"):
        assert text in done.out
    assert "| compressed |" in (out / "drift.md").read_text()
    after = files(copied)
    assert {name: after[name] for name in before} == before, "the bundle itself is as it was"
    assert cli("gate", "net", "--baseline", "net/report.json").code == 0


def test_images_of_ones_own_as_files_and_folders_and_json_alone_on_stdout(
    cli, copied: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("photos/a.png", "photos/b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (12, 9), dtype=np.uint8)).save(tmp_path / name)
    done = cli(
        "explain", "net", "--images", "photos", "c.png", "--methods", "saliency", "--out", "o", "--json"
    )
    assert (done.code, done.err) == (0, "")
    told = json.loads(done.out)
    assert told["images"] == ["a.png", "b.png", "c.png"] and told["as_reported"] is None
    assert told == json.loads((tmp_path / "o" / "drift.json").read_text())
    again = cli("explain", "net", "--images", "c.png", "--methods", "cam", "--out", "o")
    assert again.code == 0
    assert sorted(file.name for file in (tmp_path / "o").iterdir()) == ["cam.png", "drift.json", "drift.md"]


def test_every_method_is_there_and_the_same_twice(cli, copied: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        assert cli("explain", "net", "--methods", "all", "--count", "3", "--out", out).code == 0
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert len(names) == 10
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_dense_network_that_has_changed_since_is_told(cli, copied: Path, world, tmp_path: Path) -> None:
    config = (copied / "config.toml").read_text()
    other = re.sub(r"^weights = .*\n", "", config, flags=re.MULTILINE)
    assert other != config
    (tmp_path / "other.toml").write_text(other)
    done = cli("explain", "net", "--methods", "saliency", "--count", "30", "--config", "other.toml")
    assert done.code == 0
    assert "the dense network is not the one of the bundle's report: " in done.err
    assert json.loads((copied / "explanation" / "drift.json").read_text())["as_reported"] is False


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--methods", "gradcam"), "--methods: gradcam is no kind of map; did you mean 'grad_cam'?"),
        (("--methods", "lime"), "--methods: lime is no kind of map; known are saliency, "),
        (("--methods", ","), "--methods: names no map"),
        (("--images", "nowhere"), "--images: there is no file or folder nowhere"),
        (("--images", "void"), "--images: void holds no image"),
        (("--images", "net/report.json"), "--images: net/report.json is no readable image"),
        (("--images", "--json"), "--images: names nothing; give one or more after it"),
        (("--count", "0"), "Invalid value for '--count'"),
        (("--out", "net"), "--out net: exists and holds something else; name another folder"),
        (("--out", "net/report.json"), "is a file; name a folder"),
        (("--device", "gpu"), "--device"),
        (("--config", "none.toml"), "--config: none.toml cannot be read"),
    ],
)
def test_what_cannot_be_explained_is_one_line(
    cli, copied: Path, tmp_path: Path, files, arguments: tuple[str, ...], told: str
) -> None:
    (tmp_path / "void").mkdir()
    before = files(tmp_path)
    done = cli("explain", "net", *arguments)
    assert done.code == 2 and done.out == ""
    assert told in done.err and done.err.count("\n") == 1
    assert files(tmp_path) == before


def test_bundles_that_tell_too_little_are_refused(cli, copied: Path, tmp_path: Path) -> None:
    assert "holds no readable SHA256SUMS" in cli("explain", "nowhere").err
    damaged = tmp_path / "damaged"
    shutil.copytree(copied, damaged)
    (damaged / "plan.json").write_text("{}")
    assert "is damaged" in cli("explain", "damaged").err
    (copied / "config.toml").unlink()
    sums = copied / "SHA256SUMS"
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if "config.toml" not in line))
    done = cli("explain", "net")
    assert (
        done.code == 2 and "--config: net was made in Python and does not tell its model and data" in done.err
    )


@pytest.mark.parametrize("given", ["flag", "file"])
def test_a_run_tells_the_drift_of_every_arm(cli, world, no_export, tmp_path: Path, given: str) -> None:
    options = ["--epochs", "0", "--random-seeds", "2", "--align", "1", "--out", "out"]
    if given == "flag":
        options += ["--explain"]
    else:
        (tmp_path / "it.toml").write_text('explain = ["grad_cam", "saliency"]\n')
        options += ["--config", "it.toml"]
    done = cli("run", *world.model, *world.data, *options)
    assert (done.code, done.err) == (0, "")
    report = Report.load(tmp_path / "out" / "report.json")
    assert [drift.method for drift in report.drifts] == ["grad_cam", "saliency"]
    for drift in report.drifts:
        names = [(each.name, each.seed) for each in drift.networks]
        assert names == [("causal", None), ("random", 0), ("random", 1), ("magnitude", None)]
        assert drift.causal_minus_random is not None and drift.causal_minus_random.wins_of[1] == 2
    assert report.options["explain"] == ["grad_cam", "saliency"]
    assert (tmp_path / "out" / "figures" / "drift.png").is_file()
    assert "Do the networks look at the same things?" in (tmp_path / "out" / "report.html").read_text()
    assert report.harm is not None and len(report.harm.classes) == 3
    for picture in report.pictures:
        assert f"figures/{picture.name}.png" in (tmp_path / "out" / "SHA256SUMS").read_text()


def test_methods_that_cannot_explain_the_network_stop_the_run_at_once(
    cli, world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("causal_prune.pipeline.flow.choose", None)  # nothing after the check may run
    (tmp_path / "flat.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Conv2d(1, 4, 8), nn.ReLU(), nn.Flatten(),"
        " nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))\n"
    )
    done = cli("run", "--model", "flat.py:net", *world.data, "--explain", "cam", "--out", "out")
    assert done.code == 2 and "cam: the network does not end with the mean of maps" in done.err
    assert not (tmp_path / "out").exists()
    done = cli("run", *world.model, *world.data, "--explain", "lime", "--out", "out")
    assert done.code == 2 and "--explain: lime is not a list of saliency" in done.err


def test_a_zeroed_bundle_and_one_that_went_on_from_another_are_explained(
    cli, world, no_export, copied: Path, tmp_path: Path
) -> None:
    options = ("--arms", "causal", "--align", "1", "--epochs", "0")
    assert cli("run", *world.model, *world.data, *options, "--mode", "zero", "--out", "zero").code == 0
    assert cli("run", "--from", "net", *options, "--keep-macs", "0.8", "--out", "further").code == 0
    for bundle in ("zero", "further"):
        done = cli("explain", bundle, "--methods", "saliency", "--count", "12")
        assert (done.code, done.err) == (0, ""), bundle
        told = json.loads((tmp_path / bundle / "explanation" / "drift.json").read_text())
        assert told["as_reported"] is True and told["methods"][0]["networks"][0]["spearman"] < 1
