"""What `weights` may name."""

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.sources.weights import load_weights


def network(width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


def state(seed: int = 5) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return {key: value.clone() for key, value in network().state_dict().items()}


def assert_loaded(path: Path, expected: dict[str, Tensor], model: nn.Module | None = None) -> None:
    model = network() if model is None else model
    load_weights(model, path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_safetensors(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "w.safetensors")
    assert_loaded(tmp_path / "w.safetensors", state())


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_checkpoints_in_their_wrappers(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    weights = {prefix + key: value for key, value in state().items()}
    torch.save(weights if wrapper is None else {wrapper: weights, "epoch": 3}, tmp_path / "w.pt")
    assert_loaded(tmp_path / "w.pt", state())


def test_prefix_that_belongs_to_the_network_stays(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    weights = {key: value + 1 for key, value in model.state_dict().items()}
    torch.save({f"module.{key}": value for key, value in weights.items()}, tmp_path / "w.pt")
    # The file's keys start with `module.module.`; one of the two is the network's own.
    with pytest.raises(InputError, match=r"module\.weight is missing; module\.bias is missing"):
        load_weights(model, tmp_path / "w.pt")
    torch.save(weights, tmp_path / "own.pt")
    assert_loaded(tmp_path / "own.pt", weights, model)


def test_old_files_without_batch_counters(tmp_path: Path) -> None:
    weights = {key: value for key, value in state().items() if not key.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "w.pt")
    assert_loaded(tmp_path / "w.pt", state())


def test_half_precision_is_converted(tmp_path: Path) -> None:
    save_file({key: value.half() for key, value in state().items()}, tmp_path / "w.safetensors")
    model = network()
    load_weights(model, tmp_path / "w.safetensors")
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight.half(), state()["0.weight"].half())


def test_foreign_classes_are_refused_with_a_command_that_works(tmp_path: Path) -> None:
    path = tmp_path / "it's mine.pt"
    torch.save({"state_dict": state(), "args": argparse.Namespace(lr=0.1)}, path)
    with pytest.raises(
        InputError, match=r"needs unpickling code \(argparse\.Namespace\), .* convert it with: "
    ) as caught:
        load_weights(network(), path)
    message = str(caught.value)
    assert "\n" not in message
    command = shlex.split(message.split("convert it with: ")[1])
    assert command[:2] == ["python", "-c"]
    subprocess.run([sys.executable, *command[1:]], check=True, cwd=tmp_path)
    assert_loaded(path.with_suffix(".safetensors"), state())


def test_keys_that_differ_are_named(tmp_path: Path) -> None:
    weights = state()
    del weights["1.bias"]
    weights["3.weight"] = torch.ones(4, 3)
    weights["head.scale"] = torch.ones(1)
    torch.save(weights, tmp_path / "w.pt")
    text = (
        "does not fit the model: 1.bias is missing; 3.weight is (4, 3) in the file, (2, 3) in the model; "
        "head.scale is unexpected"
    )
    with pytest.raises(InputError, match=re.escape(text) + "$"):
        load_weights(network(), tmp_path / "w.pt")


def test_only_three_keys_are_named(tmp_path: Path) -> None:
    torch.save({f"x{key}": value for key, value in state().items()}, tmp_path / "w.pt")
    text = r"0\.weight is missing; 0\.bias is missing; 1\.weight is missing \(and 14 more\)$"
    with pytest.raises(InputError, match=text):
        load_weights(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    weights = state()
    weights["1.running_var"][1] = value
    save_file(weights, tmp_path / "w.safetensors")
    model = network()
    before = model[0].weight.detach().clone()
    with pytest.raises(InputError, match=r"1\.running_var holds NaN or infinite values$"):
        load_weights(model, tmp_path / "w.safetensors")
    assert torch.equal(model[0].weight, before)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^weights: there is no file .*absent\.pt$"):
        load_weights(network(), tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", b"PK\x03\x04 half an archive"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pt").write_bytes(content)
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"^weights: .*w\.pt is no readable checkpoint: .+$") as caught:
        load_weights(network(), tmp_path / "w.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"^weights: .*w\.safetensors is no readable safetensors file: .+$"):
        load_weights(network(), tmp_path / "w.safetensors")


def test_truncated_checkpoint(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pt")
    content = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "w.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        InputError, match=r"w\.pt is no readable checkpoint: RuntimeError: PytorchStreamReader"
    ):
        load_weights(network(), tmp_path / "w.pt")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (torch.ones(2), r"holds no state dict \(a Tensor\)$"),
        ({}, r"holds no state dict \(a dict\)$"),
        ({"epoch": 3}, "holds no state dict: 'epoch' is a int, not a tensor$"),
    ],
)
def test_other_content(tmp_path: Path, content: object, text: str) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=text):
        load_weights(network(), tmp_path / "w.pt")
