"""Bad input: one line on stderr that names the argument and the fix, exit 2, and nothing written."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

Refused = Callable[..., str]


# --- the model ---


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("resnet18", "--model: 'resnet18' is not one of torchvision:NAME, timm:NAME"),
        ("torchvision:resnet81", "--model: torchvision has no classifier 'resnet81'; did you mean 'resnet"),
        ("torchvision:", "--model: torchvision has no classifier ''"),
        ("no/such/file.py:net", "--model: there is no file no/such/file.py"),
        ("no_such_package.nets:net", "--model: no_such_package.nets cannot be imported: ModuleNotFoundError"),
    ],
)
def test_unknown_model(refused: Refused, model: str, text: str) -> None:
    assert refused(["run", "--model", model], text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ner", "has no 'ner'; did you mean 'net'"),
        ("number", "is a int, not a function; name a function that returns it"),
        ("failing", "raised RuntimeError: no weights today"),
        ("no_network", "returned a list, not a torch.nn.Module"),
    ],
)
def test_factory_that_cannot_be_used(refused: Refused, world, name: str, text: str) -> None:
    line = refused(["run", "--model", f"{world.factories}:{name}", *world.data], re.escape(text))
    assert "--model: " in line and "nets.py" in line


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("colour=red", "nets.py:net raised TypeError: .*colour"),
        ("width", "--model-arg: width is not of the form k=v"),
    ],
)
def test_model_arguments_that_the_factory_does_not_take(refused: Refused, world, argument, text) -> None:
    assert refused(["run", *world.model, *world.data, "--model-arg", argument], text)


def test_model_of_another_number_of_classes(refused: Refused, world) -> None:
    model = ("--model", f"{world.factories}:net", "--model-arg", "classes=5")
    assert refused(["run", *model, *world.data], "--model: has 5 outputs but the data have 3 classes")


def test_model_that_returns_nan_on_the_calibration_data(refused: Refused, world) -> None:
    assert refused(
        ["run", "--model", f"{world.factories}:Undefined", *world.data],
        "--model: returns NaN or infinite values on the calibration images; check --weights",
    )


def test_images_whose_shape_does_not_fit_the_model(refused: Refused, world) -> None:
    assert refused(
        ["run", *world.model, *world.data, "--input-shape", "3,8,8"],
        r"--model: refuses images of shape \(3, 8, 8\) \(its first layer '0' expects 1 channels\).*"
        "--input-shape C,H,W converts images",
    )


# --- the weights ---


def test_weights_that_do_not_fit_name_the_first_three_keys(refused: Refused, world, tmp_path: Path) -> None:
    state = load_file(world.folder / "net.safetensors")
    state = {name.replace("4.", "5."): tensor for name, tensor in state.items()}
    save_file(state, tmp_path / "other.safetensors")
    model = ("--model", f"{world.factories}:net")
    line = refused(
        ["run", *model, *world.data, "--weights", "other.safetensors"],
        r"--weights: other.safetensors does not fit the model: 4\.\w+ is missing; 4\.\w+ is missing; "
        r"4\.\w+ is missing \(and 6 more\)",
    )
    assert "5." not in line


def test_weights_of_another_shape(refused: Refused, world) -> None:
    assert refused(
        ["run", *world.model, "--model-arg", "width=4", *world.data],
        r"does not fit the model: 0.weight is \(8, 1, 3, 3\) in the file, \(4, 1, 3, 3\) in the model",
    )


def test_weights_that_need_unpickling_code_come_with_the_command_that_converts_them(
    refused: Refused, world, tmp_path: Path
) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "whole.pt")
    model = ("--model", f"{world.factories}:net")
    line = refused(
        ["run", *model, *world.data, "--weights", "whole.pt"],
        r"--weights: whole.pt needs unpickling code \(torch.nn.modules.conv.Conv2d\)",
    )
    assert "convert it with: python -c " in line and "whole.safetensors" in line


@pytest.mark.parametrize(
    ("name", "text"),
    [("none.pt", "there is no file none.pt"), ("broken.safetensors", "is no readable safetensors file")],
)
def test_weights_that_cannot_be_read(refused: Refused, world, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    assert refused(["run", "--model", f"{world.factories}:net", *world.data, "--weights", name], text)


# --- the data ---


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("imagefolder:missing", "--data: there is no folder missing"),
        ("npz:missing.npz", "--data: there is no file missing.npz"),
        ("npz:", "--data: 'npz:' names no place"),
        ("mnist", "--data: 'mnist' is not one of digits, imagefolder:DIR"),
        (
            "torchvision:CIFAR:here",
            "torchvision:CIFAR is not a data set that can be read; did you mean 'CIFAR10'",
        ),
    ],
)
def test_missing_data(refused: Refused, world, data: str, text: str) -> None:
    assert refused(["run", *world.model, "--data", data], text)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for split in ("train", "val"):
        for label, name in enumerate(("cat", "dog", "owl")):
            (folder / split / name).mkdir(parents=True)
            for number in range(4):
                Image.new("L", (8, 8), 60 * label + number).save(folder / split / name / f"{number}.png")
    return folder


def test_class_folder_without_an_image(refused: Refused, world, photos: Path) -> None:
    for path in (photos / "val" / "dog").iterdir():
        path.unlink()
    assert refused(
        ["run", *world.model, "--data", "imagefolder:photos"],
        r"--data: class folder photos/val/dog has no image \(.jpg",
    )


def test_unreadable_image_is_named(refused: Refused, world, photos: Path) -> None:
    (photos / "train" / "owl" / "2.png").write_bytes(b"no image")
    assert refused(
        ["run", *world.model, "--data", "imagefolder:photos"],
        "--data: photos/train/owl/2.png is no readable image",
    )


def test_missing_split_of_a_folder(refused: Refused, world, photos: Path) -> None:
    (photos / "val").rename(photos / "valid")
    assert refused(
        ["run", *world.model, "--data", "imagefolder:photos"],
        "--data: photos has no folder val/; imagefolder needs train/ and val/",
    )


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([0, 1, 2, 3], "test label 3 is outside 0..2"),
        ([0, 1, -1, 2], "test label -1 is outside 0..2"),
    ],
)
def test_labels_outside_the_classes(
    refused: Refused, world, tmp_path: Path, labels: list[int], text: str
) -> None:
    images = np.zeros((12, 8, 8, 1), np.uint8)
    np.savez(
        tmp_path / "own.npz",
        train_images=images,
        train_labels=np.arange(12) % 3,
        test_images=images[:4],
        test_labels=labels,
    )
    assert refused(["run", *world.model, "--data", "npz:own.npz"], f"--data: own.npz: {text}")


# --- the numbers ---


@pytest.mark.parametrize("share", ["0", "-1", "1.5", "nan", "half", "", "inf", "1"])
@pytest.mark.parametrize("flag", ["--keep-macs", "--remove-filters"])
def test_share_that_is_none(refused: Refused, flag: str, share: str) -> None:
    shown = share or "an empty text"
    assert refused(["run", flag, share], f"{flag}: {re.escape(shown)} is not .*between 0 and 1")


def test_two_targets_at_once(refused: Refused, tmp_path: Path) -> None:
    assert refused(
        ["run", "--keep-macs", "0.5", "--keep-params", "0.5"],
        "--keep-macs and --keep-params are two targets; give one",
    )
    (tmp_path / "run.toml").write_text("keep-latency = 0.5\nremove-filters = 0.3\n", encoding="utf-8")
    assert refused(
        ["run", "--config", "run.toml"],
        "--keep-latency and --remove-filters are two targets; give one",
    )


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        ("--importance", "causal", "--importance: 'causal' is not one of .*structural"),
        ("--parents", "tree", "--parents: tree is not "),
        ("--mode", "shrink", "--mode: shrink is not "),
        ("--epochs", "-1", "--epochs: -1 is not a whole number of at least 0"),
        ("--arms", "random", "--arms: 'causal' is missing"),
        ("--random-seeds", "0", "--random-seeds: 0 is not a whole number of at least 1"),
        ("--calibration-images", "few", "--calibration-images: few is not a whole number"),
        ("--mean", "0.5,x", "--mean: 0.5,x is not one number per channel"),
        ("--std", "0", "--std: 0 is not one number above 0 per channel"),
        ("--input-shape", "32,32", "--input-shape: 32,32 is not channels,height,width"),
        ("--align", "0", "--align: 0 is not 'auto' or a whole number"),
        ("--device", "tpu", "--device: tpu is not a device"),
        ("--freeze", "nowhere", "--freeze.*nowhere"),
    ],
)
def test_options_out_of_range(refused: Refused, world, flag: str, value: str, text: str) -> None:
    assert refused([*world.run[:-4], flag, value], text)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["run", "--keep-mac", "0.5"], "No such option: --keep-mac.*--keep-macs"),
        (["run", "--keep-macs"], "--keep-macs.* requires an argument"),
        (["prune"], "No such command 'prune'"),
        (["run", "here"], "unexpected extra argument"),
        (["gate", "here"], "Missing option '--baseline'"),
        (["gate", "here", "--baseline", "b.json"], "here: holds no readable SHA256SUMS"),
        (["bench", "none.onnx"], "none.onnx"),
        (["compare", "a.onnx", "b.onnx"], "a.onnx"),
        (["inspect", "--model", "torchvision:resnet18"], "--input-shape: is missing"),
        (["run", "--dry-run", "--keep-latency", "0.5"], "--dry-run: cannot tell --keep-latency"),
    ],
)
def test_wrong_usage(refused: Refused, arguments: list[str], text: str) -> None:
    assert refused(arguments, text)


# --- the configuration ---


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("keep-mac = 0.5", "run.toml: unknown key 'keep-mac'; did you mean 'keep-macs'"),
        ("keep_mac = 0.5", "run.toml: unknown key 'keep_mac'; did you mean 'keep_macs'"),
        ("keep-macs = 'half'", r"--keep-macs \(in run.toml\): half is not "),
        ("keep-macs = true", r"--keep-macs \(in run.toml\): True is not "),
        ("keep-macs 0.5", "--config: run.toml is no TOML"),
    ],
)
def test_configuration_that_cannot_be_used(refused: Refused, tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "run.toml").write_text(content, encoding="utf-8")
    assert refused(["run", "--config", "run.toml"], text)


def test_missing_configuration(refused: Refused) -> None:
    assert refused(
        ["run", "--config", "run.toml"], "--config: run.toml cannot be read: No such file or directory"
    )


# --- the folder of the bundle ---


def test_out_that_is_no_bundle_is_never_overwritten(refused: Refused, world, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work", encoding="utf-8")
    assert refused(
        [*world.run, "--out", "thesis"],
        "--out thesis: exists and is no bundle; name another folder, or pass --force to replace it",
    )


def test_out_that_is_a_file(refused: Refused, world, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine", encoding="utf-8")
    assert refused([*world.run, "--out", "notes"], "--out notes: is a file; name a folder")
    assert refused([*world.run, "--out", "notes/net"], "--out notes/net: notes is a file")


@pytest.mark.parametrize("out", [".", "..", "/"])
def test_out_that_holds_what_must_not_go(refused: Refused, world, out: str) -> None:
    assert refused([*world.run, "--force", "--out", out], f"--out {re.escape(out)}: is .*; name a folder")


def test_out_that_cannot_be_written(
    refused: Refused, world, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # root may write everywhere, so that the answer of the system is put in its mouth
    monkeypatch.setattr(os, "access", lambda path, mode, **_: not mode & os.W_OK)
    assert refused(
        [*world.run, "--out", "net"],
        rf"--out net: {re.escape(str(tmp_path))} cannot be written; name a folder that can",
    )


def test_out_is_looked_at_before_anything_is_loaded(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine", encoding="utf-8")
    assert refused(["run", "--model", "no/such.py:net", "--out", "notes"], "--out notes: is a file")
