"""Weights of a bundle."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from causal_prune.surgery.rebuilding import bundle_weights


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def test_weights_are_written_whole(tmp_path: Path) -> None:
    net = network()
    net.add_module("again", net[0])
    bundle_weights(net, tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert state.keys() == net.state_dict().keys() and "again.weight" in state
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
