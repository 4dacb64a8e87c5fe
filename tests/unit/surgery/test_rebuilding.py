"""Bundles are rebuilt bit for bit, or the error says what is missing."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from causal_prune.errors import InputError
from causal_prune.surgery.rebuilding import bundle_weights, load
from causal_prune.surgery.removal import remove
from causal_prune.surgery.silencing import zero
from tests.unit.surgery.cases import Planned, Residual, case, made


@pytest.mark.parametrize("mode", ["remove", "zero"])
@pytest.mark.parametrize("name", ["residual", "bare parameters", "tied", "depthwise", "grouped by position"])
def test_a_bundle_rebuilds_the_network_bit_for_bit(
    name: str, mode: Literal["remove", "zero"], tmp_path: Path
) -> None:
    each = case(name)
    small = remove(each.net, each.plan) if mode == "remove" else zero(each.net, each.plan)
    each.plan.save(tmp_path / "plan.json")
    bundle_weights(small, tmp_path / "model.safetensors")
    other = made(name, seed=77)[0].train()
    loaded = load(tmp_path, lambda: other)
    assert not loaded.training
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in loaded.state_dict().items())
    with torch.no_grad():
        assert torch.equal(loaded(each.images), small(each.images))
        assert torch.equal(
            load(str(tmp_path), lambda: made(name, seed=8)[0])(each.images), small(each.images)
        )


def test_the_factorys_network_is_not_changed(residual: Planned, tmp_path: Path) -> None:
    residual.plan.save(tmp_path / "plan.json")
    other = made("residual", seed=77)[0].train()
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    for compressed in (remove(residual.net, residual.plan), zero(residual.net, residual.plan)):
        bundle_weights(compressed, tmp_path / "model.safetensors")
        load(tmp_path, lambda: other)
        assert other.training
        assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.fixture
def bundle(residual: Planned, tmp_path: Path) -> Path:
    residual.plan.save(tmp_path / "plan.json")
    bundle_weights(remove(residual.net, residual.plan), tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_without_weights_is_no_bundle(bundle: Path) -> None:
    (bundle / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r": there is no model\.safetensors; give the folder of a bundle$"):
        load(bundle, Residual)


def test_a_folder_without_a_plan_is_no_bundle(bundle: Path) -> None:
    (bundle / "plan.json").unlink()
    with pytest.raises(InputError, match=r"plan\.json: not a pruning plan \(FileNotFoundError: "):
        load(bundle, Residual)


def test_weights_that_do_not_fit_the_factory_are_refused(bundle: Path) -> None:
    bundle_weights(nn.Conv2d(1, 1, 1), bundle / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: does not fit the factory's network \(.+\)$"):
        load(bundle, Residual)
    (bundle / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=r"model\.safetensors: is no readable safetensors file \(.+\)$"):
        load(bundle, Residual)


def test_weights_are_written_whole(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    net.add_module("again", net[0])
    bundle_weights(net, tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert state.keys() == net.state_dict().keys() and "again.weight" in state
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
