"""What `weights` may name."""

import argparse
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from causal_prune.errors import CausalPruneNote, InputError
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


def assert_told(path: Path, *parts: str) -> None:
    """Loaded, and a note tells what was done; none where nothing was."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert_loaded(path, state())
    texts = [str(note.message) for note in told if issubclass(note.category, CausalPruneNote)]
    if not any(parts):
        assert texts == []
    else:
        (text,) = texts
        assert text.startswith(f"weights: {path}: took ") and all(part in text for part in parts), text


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net", "model_state_dict", "model_ema"])
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "model.", "net.backbone."]
)
def test_checkpoints_in_their_wrappers(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    weights = {prefix + key: value for key, value in state().items()}
    torch.save(weights if wrapper is None else {wrapper: weights, "epoch": 3}, tmp_path / "w.pt")
    assert_told(tmp_path / "w.pt", f"'{wrapper}'" if wrapper else "", f"'{prefix}' before" if prefix else "")


def test_prefix_that_belongs_to_the_network_stays(tmp_path: Path) -> None:
    model = nn.ModuleDict({"module": nn.Linear(2, 2)})
    weights = {key: value + 1 for key, value in model.state_dict().items()}
    torch.save({f"module.{key}": value for key, value in weights.items()}, tmp_path / "w.pt")
    with pytest.warns(CausalPruneNote, match=r"took the file itself, without 'module\.' before every name$"):
        assert_loaded(tmp_path / "w.pt", weights, model)
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
    assert_told(path.with_suffix(".safetensors"), "without 'state_dict.' before every name")


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


# --- files as people have them ---


class Tied(nn.Module):
    """A layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = self.first


def averaged() -> dict[str, object]:
    from torch.optim.swa_utils import AveragedModel

    model = network()
    model.load_state_dict(state())
    return dict(AveragedModel(model).state_dict())


WRAPPED: dict[str, tuple[object, tuple[str, ...]]] = {
    "a trainer's": ({"epoch": 3, "model_state_dict": state(), "optim": {"state": {0: {"x": torch.ones(2)}}}},
                    ("'model_state_dict'",)),
    "two tables deep": ({"nets": {"student": state(), "step": 3}, "loss": 0.5}, ("'nets.student'",)),
    "an averaged model": (averaged(), ("without 'module.'", "leaving out n_averaged")),
    "Lightning's": ({"state_dict": {**{f"model.{key}": value for key, value in state().items()},
                                    "loss.weight": torch.ones(2)}, "pytorch-lightning_version": "2.5"},
                    ("'state_dict'", "without 'model.'", "leaving out loss.weight")),
    "parallel inside": ({f"0.module{key[1:]}" if key[0] == "0" else key: value for key, value in state().items()},
                        ("without the names of wrappers",)),
    "compiled inside and out": ({f"_orig_mod.{key[0]}._orig_mod{key[1:]}": value for key, value in state().items()},
                                ("without the names of wrappers",)),
    "twice the same": ({"model": state(), "best": state()}, ("'model'",)),
    "other networks beside": ({"teacher": {"w": torch.ones(3)}, "net": state()}, ("'net'",)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_what_fits_in_one_way_is_taken_and_told(tmp_path: Path, name: str) -> None:
    content, parts = WRAPPED[name]
    torch.save(content, tmp_path / "w.pt")
    assert_told(tmp_path / "w.pt", *parts)


def test_what_fits_in_two_ways_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "state_dict_ema": state(6)}, tmp_path / "w.pt")
    model = network()
    before = model[0].weight.detach().clone()
    text = r"holds weights that fit in 2 ways: 'state_dict'; or 'state_dict_ema'; save the one that is meant"
    with pytest.raises(InputError, match=text):
        load_weights(model, tmp_path / "w.pt")
    assert torch.equal(model[0].weight, before)


def test_two_networks_in_one_table_are_told_apart_by_their_prefix(tmp_path: Path) -> None:
    both = {
        f"{who}.{key}": value
        for who, seed in (("student", 5), ("teacher", 6))
        for key, value in state(seed).items()
    }
    torch.save(both, tmp_path / "w.pt")
    with pytest.raises(
        InputError, match=r"2 ways: the file itself, without 'student\.' .*; or .*'teacher\.'"
    ):
        load_weights(network(), tmp_path / "w.pt")


def test_where_nothing_fits_the_closest_and_all_candidates_are_named(tmp_path: Path) -> None:
    near = {f"module.{key}": value for key, value in state().items() if key != "1.bias"}
    torch.save({"ema": {"x": torch.ones(1)}, "net": near}, tmp_path / "w.pt")
    text = r"closest: 'net', without 'module\.' before every name; tried 'net', 'ema'\): 1\.bias is missing$"
    with pytest.raises(InputError, match=text):
        load_weights(network(), tmp_path / "w.pt")


def tied(value: float = 1.0) -> Tied:
    model = Tied()
    nn.init.constant_(model.first.weight, value)
    return model


def test_tied_layers_as_safetensors_saves_them(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    save_model(tied(0.25), str(tmp_path / "w.safetensors"))
    model = tied()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(model, tmp_path / "w.safetensors")
    assert model.second.weight.unique().tolist() == [0.25]


@pytest.mark.parametrize("kept", ["first", "second"])
def test_one_name_of_a_shared_tensor_is_enough(tmp_path: Path, kept: str) -> None:
    weights = {key: value for key, value in tied(0.25).state_dict().items() if key.startswith(kept)}
    save_file({f"module.{key}": value for key, value in weights.items()}, tmp_path / "w.safetensors")
    model = tied()
    with pytest.warns(CausalPruneNote, match=r"without 'module\.'"):
        load_weights(model, tmp_path / "w.safetensors")
    assert model.first.weight is model.second.weight
    assert model.first.weight.unique().tolist() == [0.25]


def test_an_alias_fills_layers_that_the_network_does_not_share(tmp_path: Path) -> None:
    from safetensors.torch import save_model

    save_model(tied(0.25), str(tmp_path / "w.safetensors"))
    model = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)})
    load_weights(model, tmp_path / "w.safetensors")
    assert all(layer.weight.unique().tolist() == [0.25] for layer in model.values())


def test_one_tensor_with_two_values_is_refused(tmp_path: Path) -> None:
    weights = {key: value.clone() for key, value in tied().state_dict().items()}
    weights["second.weight"] += 1
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(
        InputError, match=r"first\.weight and second\.weight are one tensor in the model, but differ"
    ):
        load_weights(tied(), tmp_path / "w.pt")


def test_relative_paths_count_from_where_they_are_told_to(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "w.pt")
    model = network()
    load_weights(model, "w.pt", within=tmp_path)
    assert torch.equal(model[0].weight, state()["0.weight"])
