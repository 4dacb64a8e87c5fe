"""The options of a run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from causal_prune.command_line.settings import RunSettings, in_flags, load_settings
from causal_prune.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    settings = load_settings()
    assert settings == RunSettings()
    assert settings.data == "digits"
    assert settings.asked == ("keep_macs", 0.5)
    assert settings.importance == "structural"
    assert settings.parents is None
    assert settings.align == "auto"
    assert settings.arms == ("causal", "random", "magnitude")
    assert settings.random_seeds is None and settings.seeds == 5
    assert settings.evidence == "quick"
    assert "epochs" not in settings.model_fields_set


def test_flags_are_parsed() -> None:
    flags = {
        "keep-params": "0.3",
        "mean": "0.1, 0.2,0.3",
        "std": [0.5, 0.5, 1],
        "input_shape": "3,32,24",
        "model-arg": ["num_classes=10", "name=a=b"],
        "freeze": ["conv1,linear", "layer1.0"],
        "arms": "causal,random",
        "align": "8",
        "max-memory": "1.5GiB",
        "epochs": "0",
        "compensate": False,
        "json": True,
        "weights": "w.pt",
        "mode": None,
    }
    settings = load_settings(flags=flags)
    assert settings.asked == ("keep_params", 0.3)
    assert settings.mean == (0.1, 0.2, 0.3)
    assert settings.std == (0.5, 0.5, 1.0)
    assert settings.input_shape == (3, 32, 24)
    assert settings.model_arg == {"num_classes": 10, "name": "a=b"}
    assert settings.freeze == ("conv1", "linear", "layer1.0")
    assert settings.arms == ("causal", "random")
    assert settings.align == 8
    assert settings.max_memory == 1.5 * 2**30
    assert settings.epochs == 0
    assert settings.compensation == "none"
    assert settings.print_json
    assert settings.weights == Path("w.pt")
    assert settings.mode == "remove"


def test_file_with_dashes_underscores_and_tables(tmp_path: Path) -> None:
    text = 'keep-macs = 0.4\nrandom_seeds = 7\nfreeze = ["a"]\n[model-arg]\nnum_classes = 10\nbias = false\n'
    settings = load_settings(write(tmp_path, text))
    assert settings.asked == ("keep_macs", 0.4)
    assert settings.random_seeds == 7
    assert settings.model_arg == {"num_classes": 10, "bias": False}


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "keep_macs = 0.4\nseed = 3\nthreads = 2\n")
    settings = load_settings(path, {"keep-latency": "0.7", "seed": 9, "threads": None})
    assert settings.asked == ("keep_latency", 0.7)
    assert settings.seed == 9
    assert settings.threads == 2


@pytest.mark.parametrize("flag", ["keep-macs", "keep-params", "keep-latency", "remove-filters"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "nan", "inf", "half", "1", 1.5, float("nan"), True, 0])
def test_shares_outside_their_range(flag: str, value: object) -> None:
    text = rf"^--{flag}: {value} is not between 0 and 1 \(0\.[35] (keeps|removes) [^\n]+\)$"
    with pytest.raises(InputError, match=text):
        load_settings(flags={flag: value})


def test_message_of_the_target_is_the_documented_one() -> None:
    text = "--keep-macs: 1.5 is not between 0 and 1 (0.5 keeps half of the MACs)"
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        load_settings(flags={"keep_macs": "1.5"})


def test_two_targets(tmp_path: Path) -> None:
    text = "^--keep-macs and --remove-filters are two targets; give one$"
    with pytest.raises(InputError, match=text):
        load_settings(flags={"remove_filters": 0.3, "keep_macs": 0.5})
    with pytest.raises(InputError, match=text):
        load_settings(write(tmp_path, "remove_filters = 0.3\nkeep_macs = 0.5\n"))


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        ("data", "", "--data: an empty text is not the name of data, such as imagefolder:DIR"),
        ("mean", "0.4,x", "--mean: 0.4,x is not one number per channel, such as 0.485,0.456,0.406"),
        ("mean", "nan", "--mean: nan is not one number per channel, such as 0.485,0.456,0.406"),
        ("std", "0.2,0", "--std: 0.2,0 is not one number above 0 per channel, such as 0.229,0.224,0.225"),
        ("std", [], "--std: an empty list is not one number above 0 per channel, such as 0.229,0.224,0.225"),
        (
            "input-shape",
            "3,32",
            "--input-shape: 3,32 is not channels,height,width of at least 1, such as 3,224,224",
        ),
        (
            "input-shape",
            "3,32,0",
            "--input-shape: 3,32,0 is not channels,height,width of at least 1, such as 3,224,224",
        ),
        ("model-arg", ["k"], "--model-arg: k is not of the form k=v, such as num_classes=10"),
        ("model-arg", "k=v", "--model-arg: k=v is not of the form k=v, such as num_classes=10"),
        ("parents", "tree", "--parents: tree is not 'chain' or 'graph'"),
        ("mode", "cut", "--mode: cut is not 'remove' or 'zero'"),
        ("align", "wide", "--align: wide is not 'auto' or a whole number of at least 1"),
        ("align", "0", "--align: 0 is not 'auto' or a whole number of at least 1"),
        ("freeze", 3, "--freeze: 3 is not a list of names of layers"),
        ("compensate", "maybe", "--compensate: maybe is not least-squares, batchnorm or none"),
        ("calibration-images", "0", "--calibration-images: 0 is not a whole number of at least 1"),
        ("max-memory", "much", "--max-memory: much is not a number of bytes above 0, such as 4GB or 512MiB"),
        ("max-memory", "0", "--max-memory: 0 is not a number of bytes above 0, such as 4GB or 512MiB"),
        ("max-memory", True, "--max-memory: True is not a number of bytes above 0, such as 4GB or 512MiB"),
        ("epochs", "2.5", "--epochs: 2.5 is not a whole number of at least 0"),
        ("epochs", True, "--epochs: True is not a whole number of at least 0"),
        ("arms", "causal,best", "--arms: causal,best is not a list of causal, random and magnitude"),
        ("arms", "random", "--arms: 'causal' is missing; it is what the other arms are compared with"),
        ("arms", "causal,random,random", "--arms: causal,random,random names an arm twice"),
        ("random-seeds", -2, "--random-seeds: -2 is not a whole number of at least 1"),
        ("seed", "-1", "--seed: -1 is not a whole number from 0 to 4294967295"),
        ("threads", "all", "--threads: all is not a whole number of at least 1"),
        ("device", "tpu", "--device: tpu is not a device, such as cpu or cuda:0"),
        ("json", "yes please", "--json: yes please is not true or false"),
        ("keep-mac", 0.5, "unknown key '--keep-mac'; did you mean '--keep-macs'?"),
        ("print-json", True, "unknown key '--print-json'"),
    ],
)
def test_wrong_values_are_named_by_flag(flag: str, value: object, text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        load_settings(flags={flag: value})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            'keep-macs = "half"\n',
            "--keep-macs (in {}): half is not between 0 and 1 (0.5 keeps half of the MACs)",
        ),
        ("[out]\nx = 1\n", "--out (in {}): {{'x': 1}} is not the path of a folder"),
        ("keep_mac = 0.5\n", "{}: unknown key 'keep_mac'; did you mean 'keep_macs'?"),
        ("ephocs = 5\n", "{}: unknown key 'ephocs'; did you mean 'epochs'?"),
        ("calib-images = 5\n", "{}: unknown key 'calib-images'; did you mean 'calibration-images'?"),
        ("zzz = 5\n", "{}: unknown key 'zzz'"),
        (
            "keep-macs = 0.5\nkeep_macs = 0.5\n",
            "{}: key 'keep_macs' is given twice, with a dash and with an underscore",
        ),
        ("keep-macs = \n", "--config: {} is no TOML: Invalid value (at line 1, column 13)"),
    ],
)
def test_wrong_files(tmp_path: Path, content: str, text: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError, match=f"^{re.escape(text.format(path))}$"):
        load_settings(path)


def test_a_wrong_flag_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^--seed: x is not a whole number"):
        load_settings(write(tmp_path, "seed = 3\n"), {"seed": "x"})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"^--config: .*none\.toml cannot be read: No such file or directory$"
    ):
        load_settings(tmp_path / "none.toml")
    (tmp_path / "run.toml").write_bytes(b"data = '\xff'\n")
    with pytest.raises(InputError, match=r"^--config: .*run\.toml cannot be read: not UTF-8$"):
        load_settings(tmp_path / "run.toml")


def test_settings_are_frozen_and_flags_are_spelt() -> None:
    with pytest.raises(ValueError, match="frozen"):
        RunSettings().seed = 3  # type: ignore[misc]  # that it cannot be set is the point
    told = in_flags("print_json: `keep_macs` and `compensation`, not `nothing` or keep_params")
    assert told == "--json: --keep-macs and --compensate, not `nothing` or keep_params"


def test_importing_settings_does_not_import_torch() -> None:
    code = "import sys, causal_prune.command_line.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
