"""Odd input: files as people have them are understood and told of, or refused; one line, nothing written, at once.

Every case is a row: the files of a user, what was typed, the exit code and the exact lines on stderr.
"""

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_model
from torch import nn

from causal_prune.command_line.entry import main

BEHIND = "put it behind `if __name__ == '__main__'`"
NET = "from torch import nn\ndef net(width=8): return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), "
NET += "nn.Linear(width * 36, 3))\n"
SET = """
import torch
from torch.utils.data import Dataset
class Images(Dataset):
    def __init__(self, form): self.form = form
    def __len__(self): return 12
    def __getitem__(self, k):
        image, label = torch.full((1, 8, 8), k / 12), k % 3
        if self.form == "dictionary": return {"image": image, "label": label, "id": k}
        if self.form == "photo": return {"photo": image, "label": label}
        if self.form == "one-hot": return image, torch.eye(3)[label]
        if self.form == "one-hot of ints": return image, [int(n == label) for n in range(3)]
        if self.form == "soft": return image, torch.tensor([0.2, 0.3, 0.5])
        return (image[:, :k % 2 + 7] if self.form == "two sizes" else image), label
"""


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        typed: The arguments; `{}` is the folder of the network that has learned its images.
        told: The lines on stderr, without the name of the program.
        code: The exit code.
        files: Texts by path.
        make: Makes further files in the working folder.
        out: What must stand in stdout.
    """

    typed: str
    told: str = ""
    code: int = 2
    files: Mapping[str, str] = field(default_factory=dict)
    make: Callable[[Path, "Any"], object] = lambda _folder, _world: None
    out: str = ""


STRIPES = "--data npz:{}/stripes.npz"
KNOWN = "--model {}/nets.py:net"
DRY = "--align 1 --importance magnitude --dry-run"
PLANNED = "nothing was written"
DOUBT = "warning: the dense network is right on"


def npz(**change: Any) -> Callable[[Path, Any], None]:
    def make(folder: Path, world: Any) -> None:
        arrays = dict(np.load(world.folder / "stripes.npz"))
        made = {key: value(arrays) if callable(value) else value for key, value in change.items()}
        np.savez(folder / "own.npz", **{**arrays, **made})

    return make


def checkpoint(wrap: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Any], None]:
    def make(folder: Path, world: Any) -> None:
        torch.save(wrap(load_file(world.folder / "net.safetensors")), folder / "w.pt")

    return make


def tied(folder: Path, _: Any) -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1)
    save_model(nn.Sequential(layer, layer, nn.Flatten(), nn.Linear(64, 3)), str(folder / "w.safetensors"))


def photos(
    odd: Callable[[Path], object] | None = None, deep: bool = False, name: str = "photos"
) -> Callable[[Path, Any], None]:
    def make(folder: Path, _: Any) -> None:
        place = folder / name
        for split in ("train", "val"):
            for label, kind in enumerate(("cat", "dog", "owl")):
                (place / split / kind).mkdir(parents=True)
                for number in range(4):
                    pixels = np.full((8, 8), 60 * label + number, np.uint8)
                    image = Image.fromarray(pixels.astype(np.uint16) * 257 if deep else pixels)
                    image.save(place / split / kind / f"ä {number}.png")
        if odd is not None:
            odd(place)

    return make


def left_behind(folder: Path) -> None:
    for place in ("train/__MACOSX/cat", "val/owl/.ipynb_checkpoints"):
        (folder / place).mkdir(parents=True)
        (folder / place / "._0.png").write_bytes(b"no image")


BUSY = {
    "sys.exit(0)": "ended the program (sys.exit(0))",
    "sys.exit('usage: train.py')": "ended the program (sys.exit('usage: train.py'))",
    "argparse.ArgumentParser().parse_args()": "read the command line (parse_args)",
    "argparse.ArgumentParser().parse_args(sys.argv[1:])": "read the command line (parse_args)",
}
CASES: dict[str, Case] = {
    # --- configuration ---
    "a switch and its no- key": Case(
        "run --config run.toml", "run.toml: distill and no-distill contradict each other; give one",
        files={"run.toml": "distill = true\nno-distill = true\n"}),
    "a no- key that is no truth value": Case(
        "run --config run.toml", "run.toml: no-compensate: never is not true or false",
        files={"run.toml": "no-compensate = 'never'\n"}),
    "a date as an argument": Case(
        f"run {KNOWN} --config run.toml",
        "--model-arg (in run.toml): {'width': datetime.date(2024, 1, 1)} is not of the form k=v, such as "
        "num_classes=10",
        files={"run.toml": "[model-arg]\nwidth = 2024-01-01\n"}),
    "weights beside a bundle": Case(
        "run --from one --weights w.pt", "--weights: the bundle of --from holds its own; give one of the two",
        files={"one/config.toml": ""}),
    "an argument that the embedded network has not": Case(
        "inspect --model-arg depth=3",
        "--model-arg: the embedded network raised TypeError: small_resnet() got an unexpected keyword argument "
        "'depth'; it takes `width`"),
    "a layer that is frozen by a wrong name": Case(
        f"run {KNOWN} {STRIPES} {DRY} --freeze 33",
        "--freeze: there is no module '33' in the model; did you mean '3'?"),
    "a file with a mark of Windows": Case(
        "run --config run.toml " + f"{KNOWN} {STRIPES} {DRY}", code=0, out="keep_params: requested 0.700",
        make=lambda folder, _: (folder / "run.toml").write_bytes(b"\xef\xbb\xbfkeep-params = 0.7\r\n")),
    "a file as PowerShell writes it": Case(
        "run --config run.toml " + f"{KNOWN} {STRIPES} {DRY}", code=0, out="keep_params: requested 0.700",
        make=lambda folder, _: (folder / "run.toml").write_text("keep-params = 0.7\n", encoding="utf-16")),
    # --- the code of others ---
    **{
        f"{what} in the {option}": Case(
            f"run --{option} busy.py:net" + (f" {KNOWN}" if option == "data" else ""),
            f"--{option}: busy.py {told} while it was imported; {BEHIND}",
            files={"busy.py": f"import argparse, sys\ndef net(): return 1\n{what}\n"})
        for what, told in BUSY.items() for option in ("model", "data")
    },
    "an exit inside a network": Case(
        f"run --model net.py:Net {STRIPES}",
        "the code of the model or of its data ended the program (sys.exit(0)) in the middle of the work; "
         "--debug shows where",
        files={"net.py": "import sys\nfrom torch import nn\nclass Net(nn.Module):\n"
               "    def forward(self, x): sys.exit(0)\n"}),
    "two folders with modules of one name": Case(
        f"run --model a/net.py:f --data b/set.py:g {DRY}", code=0, out=PLANNED,
        files={"a/utils.py": "WIDTH = 8\n", "a/net.py": NET + "from utils import WIDTH\ndef f(): return net(WIDTH)\n",
               "b/utils.py": "FORM = 'pairs'\n",
               "b/set.py": SET + "import utils\ndef g(): return Images(utils.FORM), Images(utils.FORM)\n"}),
    "files that move to another folder": Case(
        f"run --model a/net.py:net --weights w.pt --data b/set.py:g {DRY}", code=0, out=PLANNED,
        files={"a/net.py": "import os\nos.chdir('/')\n" + NET, "b/set.py": SET + "import os\nos.chdir('/tmp')\n"
               "def g(): return Images('pairs'), Images('pairs')\n"},
        make=lambda folder, _: torch.save(nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))
                                          .state_dict(), folder / "w.pt")),
    "prints beside JSON": Case(
        f"run --model a/net.py:Net {STRIPES} {DRY} --json", "of the file\nof the network\nof the forward", 0,
        files={"a/net.py": NET + "print('of the file')\nclass Net(nn.Module):\n    def __init__(self):\n"
               "        super().__init__()\n        self.inner = net()\n        print('of the network')\n"
               "    def forward(self, x):\n        print('of the forward')\n        return self.inner(x)\n"}),
    # --- checkpoints ---
    "a trainer's checkpoint": Case(
        f"run {KNOWN} {STRIPES} {DRY} --weights w.pt", "note: --weights: w.pt: took 'model_state_dict'", 0,
        make=checkpoint(lambda state: {"epoch": 3, "model_state_dict": state}), out=PLANNED),
    "a parallel network under another name": Case(
        f"run {KNOWN} {STRIPES} {DRY} --weights w.pt",
        "note: --weights: w.pt: took 'net', without 'module.' before every name", 0,
        make=checkpoint(lambda state: {"net": {f"module.{key}": value for key, value in state.items()}}), out=PLANNED),
    "an averaged network": Case(
        f"run {KNOWN} {STRIPES} {DRY} --weights w.pt",
        "note: --weights: w.pt: took the file itself, without 'module.' before every name, leaving out n_averaged", 0,
        make=checkpoint(lambda state: {"n_averaged": torch.tensor(5),
                                       **{f"module.{key}": value for key, value in state.items()}}), out=PLANNED),
    "a checkpoint of Lightning": Case(
        f"run {KNOWN} {STRIPES} {DRY} --weights w.pt",
        "note: --weights: w.pt: took 'state_dict', without 'model.' before every name", 0,
        make=checkpoint(lambda state: {"state_dict": {f"model.{key}": value for key, value in state.items()}}),
        out=PLANNED),
    "tied layers of safetensors": Case(
        "inspect --model tied.py:net --input-shape 1,8,8 --weights w.safetensors", "", 0,
        files={"tied.py": "from torch import nn\ndef net():\n    layer = nn.Conv2d(1, 1, 3, padding=1)\n"
               "    return nn.Sequential(layer, layer, nn.Flatten(), nn.Linear(64, 3))\n"}, make=tied),
    "two networks in one checkpoint": Case(
        f"run {KNOWN} {STRIPES} {DRY} --weights w.pt",
        "--weights: w.pt holds weights that fit in 2 ways: 'model'; or 'ema'; save the one that is meant in a file of "
        "its own (torch.save(torch.load(FILE)[KEY], NEW))",
        make=checkpoint(lambda state: {"model": state, "ema": {key: value + 1 for key, value in state.items()}})),
    "no network of this kind in the checkpoint": Case(
        f"run {KNOWN} {STRIPES} {DRY} --weights w.pt",
        "--weights: w.pt does not fit the model (closest: 'net'; tried 'net', 'head'): 0.weight is missing",
        make=checkpoint(lambda state: {"head": {"x": torch.ones(1)},
                                       "net": {key: state[key] for key in state if key != "0.weight"}})),
    # --- data ---
    "images of two sizes in a folder": Case(
        f"run {KNOWN} --data imagefolder:photos", code=2,
        told="--data: val/dog/ä 9.png is 1,9,8 (channels,height,width) but train/cat/ä 0.png is 1,8,8; --input-shape "
               "resizes all to one (bilinear with antialiasing, the aspect is not kept)",
        make=photos(lambda place: Image.new("L", (8, 9)).save(place / "val" / "dog" / "ä 9.png"))),
    "images of two sizes of a factory": Case(
        f"run {KNOWN} --data set.py:g",
        "--data: set.py:g: image 1 of train is 1,8,8 (channels,height,width) but image 0 of train is 1,7,8; have the "
         "factory resize them to one shape",
        files={"set.py": SET + "def g(): return Images('two sizes'), Images('pairs')\n"}),
    "labels in a column": Case(
        f"run {KNOWN} --data npz:own.npz {DRY}", "", 0, out=PLANNED,
        make=npz(train_labels=lambda a: a["train_labels"][:, None], test_labels=lambda a: np.eye(3)[a["test_labels"]])),
    "labels of no kind": Case(
        f"run {KNOWN} --data npz:own.npz",
        "--data: own.npz: test_labels is float64 of shape (100, 3); integers of shape (N,) or (N, 1) are needed, or "
        "rows of zeros and a single one",
        make=npz(test_labels=np.full((100, 3), 1 / 3))),
    "arrays of validation": Case(
        f"run {KNOWN} --data npz:own.npz {DRY}", "", 0, out=PLANNED,
        make=npz(val_images=lambda a: a["test_images"], val_labels=lambda a: a["test_labels"])),
    "a network that was never trained": Case(
        f"run {KNOWN} --data npz:own.npz {DRY}",
        f"{DOUBT} 33.0 % of 100 validation images, and always naming their largest class would be on 34.0 %: check the "
        "normalisation (mean, std), the order of the classes, and whether the weights are those of this network",
        0, out=PLANNED,
        make=npz(val_images=lambda a: a["test_images"], val_labels=lambda a: a["test_labels"])),
    **{
        f"a mean of pixels: {flag}": Case(
            f"run {KNOWN} --data npz:{{}}/stripes.npz {flag} 127.5 {DRY}",
            f"{flag}: 127.5 is above 1, but images are scaled to [0, 1]; give 0.5, which is this divided by 255")
        for flag in ("--mean", "--std")
    },
    "half of the arrays of validation": Case(
        f"run {KNOWN} --data npz:own.npz",
        "--data: own.npz has no array val_labels (it has train_images, train_labels, test_images, test_labels, "
         "val_images)",
        make=npz(val_images=lambda a: a["test_images"])),
    "images of 16 bits, spaces and umlauts": Case(
        f"run {KNOWN} --data imagefolder:photos {DRY}", "", 0, out=PLANNED,
        make=photos(deep=True)),
    "folders that tools left behind": Case(
        f"run {KNOWN} --data imagefolder:photos {DRY}",
        "note: --data: photos: passed over train/__MACOSX, val/owl/.ipynb_checkpoints, hidden or left behind by a tool",
        0, out=PLANNED,
        make=photos(left_behind)),
    **{
        f"items: {form}": Case(
            f"run --model net.py:net --data set.py:g {DRY}", "", 0, out=PLANNED,
            files={"net.py": NET, "set.py": SET + f"def g(): return Images('{form}'), Images('{form}')\n"})
        for form in ("dictionary", "one-hot", "one-hot of ints")
    },
    "items: a dictionary without an image": Case(
        f"run {KNOWN} --data set.py:g",
        "--data: set.py:g: train: an item has photo, label; give (image, label), or name one 'image' and one 'label'",
        files={"set.py": SET + "def g(): return Images('photo'), Images('photo')\n"}),
    "items: soft labels": Case(
        f"run {KNOWN} --data set.py:g",
        "--data: set.py:g: train: label 0 is a Tensor, not an int or one-hot (zeros and a single one)",
        files={"set.py": SET + "def g(): return Images('soft'), Images('soft')\n"}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_odd_input(name: str, cli, world, tmp_path: Path, files: Callable[[Path], dict[str, str]]) -> None:
    case = CASES[name]
    for path, text in case.files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")
    case.make(tmp_path, world)
    before, start = files(tmp_path), time.monotonic()
    done = cli(*(part.replace("{}", str(world.folder)) for part in case.typed.split()))
    assert time.monotonic() - start < 5
    assert files(tmp_path) == before, "nothing is written"
    assert done.code == case.code, done.err
    lines = [
        line.removeprefix("causal-prune: ") for line in done.err.splitlines() if line != "of the forward"
    ]
    if DOUBT not in case.told:  # most networks here were never trained
        lines = [line for line in lines if not line.startswith(DOUBT)]
    expected = [line for line in case.told.splitlines() if line != "of the forward"]
    assert lines == expected
    assert ("of the forward" in done.err.splitlines()) is ("of the forward" in case.told)
    assert "Traceback" not in done.err
    if "--json" in case.typed:
        assert json.loads(done.out)["target"]["requested"] == 0.5
    else:
        assert case.out in done.out and (done.code == 0 or done.out == "")


def test_a_trained_network_is_doubted_where_its_images_or_classes_are_not_as_it_learned_them(
    cli, world, tmp_path: Path
) -> None:
    npz(
        val_images=lambda a: a["test_images"],
        val_labels=lambda a: a["test_labels"],
    )(tmp_path, world)
    run = ("run", *world.model, "--data", "npz:own.npz", *DRY.split())
    assert DOUBT not in cli(*run).err
    assert DOUBT in cli(*run, "--mean", "0.9", "--std", "0.01").err
    npz(val_images=lambda a: a["test_images"], val_labels=lambda a: (a["test_labels"] + 1) % 3)(
        tmp_path, world
    )
    assert DOUBT in cli(*run).err


def test_a_list_and_a_table_of_a_file_are_obeyed(cli, world, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        'freeze = ["0"]\nno-compensate = true\nno_distill = true\nforce = true\n[model-arg]\nwidth = 32\n',
        encoding="utf-8",
    )
    arguments = (
        "run",
        *world.model[:2],
        *world.data,
        "--align",
        "1",
        "--dry-run",
        "--json",
        "--config",
        "run.toml",
    )
    layers = {each["name"]: each for each in json.loads(cli(*arguments).out)["layers"]}
    assert (layers["0"]["filters_before"], layers["0"]["filters_after"]) == (32, 32)
    assert layers["0"]["frozen"] == "frozen by the caller" and layers["3"]["filters_after"] < 64
    layers = {each["name"]: each for each in json.loads(cli(*arguments, "--freeze", "3").out)["layers"]}
    assert layers["0"]["filters_after"] < 32 and layers["3"]["frozen"] == "frozen by the caller"


@pytest.mark.usefixtures("no_export")
def test_a_bundle_lies_where_it_was_told_to_though_the_files_move(cli, world, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(
        "import os\nos.chdir('/')\n" + Path(world.factories).read_text(), encoding="utf-8"
    )
    (tmp_path / "stripes.npz").write_bytes((world.folder / "stripes.npz").read_bytes())
    options = ("--arms", "causal", "--align", "1", "--calibration-images", "64")
    done = cli(
        "run", "--model", "nets.py:net", "--data", "npz:stripes.npz", *options, "--out", "my bundles/ä"
    )
    assert done.code == 0, done.err
    assert "report: my bundles/ä/report.html" in done.out
    report = json.loads((tmp_path / "my bundles" / "ä" / "report.json").read_text(encoding="utf-8"))
    assert report["data"].startswith("npz:stripes.npz (") and report["options"]["model"] == "nets.py:net"
    assert report["options"]["calibration_images"] == 64 and report["options"]["keep_macs"] == 0.5
    assert str(tmp_path) not in (tmp_path / "my bundles" / "ä" / "config.toml").read_text(encoding="utf-8")


@pytest.mark.usefixtures("no_export")
def test_the_configuration_of_a_bundle_repeats_its_run(
    cli, world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        "--keep-params", "0.6", "--freeze", "0", "--no-distill", "--epochs", "1", "--compensate", "batchnorm",
        "--model-arg", "width=8", "--mean", "0.5", "--std", "0.25", "--seed", "3", "--random-seeds", "2",
        "--arms", "causal,random", "--align", "1", "--calibration-images", "64",
    )  # fmt: skip
    assert cli("run", *world.model, *world.data, *options, "--out", "one").code == 0
    first = {
        name: (tmp_path / "one" / name).read_bytes()
        for name in ("plan.json", "model.safetensors", "config.toml")
    }
    report = json.loads((tmp_path / "one" / "report.json").read_text())
    assert cli("run", "--config", "one/config.toml").code == 0
    assert {name: (tmp_path / "one" / name).read_bytes() for name in first} == first
    again = json.loads((tmp_path / "one" / "report.json").read_text())
    assert (
        again["options"] == report["options"]
        and again["arms"][1]["accuracy"] == report["arms"][1]["accuracy"]
    )
    assert cli("run", "--config", "one/config.toml", "--out", "two", "--seed", "4").code == 0
    other = json.loads((tmp_path / "two" / "report.json").read_text())["options"]
    assert {key for key in other if other[key] != report["options"][key]} == {"out", "seed"}


def test_null_in_an_argument_is_repeated_too(cli, world, tmp_path: Path) -> None:
    from causal_prune.command_line.settings import load_settings
    from causal_prune.pipeline.findings import as_toml

    flags = {"model": "a.py:b", "model-arg": ["a=null", "b=[1, null]", 'c="10"', "d=x y", 'e={"k": [true]}']}
    settings = load_settings(flags=flags)
    (tmp_path / "c.toml").write_text(as_toml(settings.by_key()), encoding="utf-8")
    assert load_settings(tmp_path / "c.toml").by_key() == settings.by_key()


def test_every_command_with_json_prints_json_alone(cli, world, bundle: Path, tmp_path: Path) -> None:
    file = str(bundle / "model.onnx")
    found = {
        "inspect": cli("inspect", *world.model, "--input-shape", "1,8,8", "--json"),
        "gate": cli("gate", bundle, "--baseline", bundle / "report.json", "--json"),
        "bench": cli("bench", file, "--seconds", "0.05", "--json"),
        "compare": cli("compare", file, file, "--json"),
    }
    content = {name: json.loads(done.out) for name, done in found.items()}
    assert content["gate"]["exit_code"] == found["gate"].code and content["gate"]["lines"]
    assert content["bench"]["files"][file]["median_ms"] > 0
    assert content["compare"]["passed"] is True and content["compare"]["max_abs"] == 0
    assert content["inspect"]["layers"]


def test_the_mapping_of_folders_to_labels_is_in_the_report(
    world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_export: None
) -> None:
    monkeypatch.chdir(tmp_path)
    photos(name="my photos")(tmp_path, world)
    options = ("--arms", "causal", "--align", "1", "--out", "net")
    assert main(["run", *world.model, "--data", "imagefolder:my photos", *options]) == 0
    assert json.loads((tmp_path / "net" / "report.json").read_text())["class_names"] == ["cat", "dog", "owl"]
    assert "Labels and classes: 0 cat, 1 dog, 2 owl." in (tmp_path / "net" / "report.md").read_text()
    text = re.sub(r"\s+", " ", (tmp_path / "net" / "report.html").read_text())
    assert "<tr><th>1</th><td>dog</td></tr>" in text
