"""A run that goes on from the bundle of another one."""

import json
import tomllib
from pathlib import Path

import pytest
import torch

import causal_prune as cp
from causal_prune.command_line.entry import main
from causal_prune.sources import small_resnet


def test_a_bundle_is_pruned_further_and_rebuilds_from_the_first_factory(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    quick = ["--epochs", "0", "--arms", "causal", "--calibration-images", "256"]
    assert main(["run", *quick, "--keep-macs", "0.7", "--out", str(one)]) == 0
    assert main(["run", "--from", str(one), *quick, "--keep-macs", "0.6", "--out", str(two)]) == 0
    first, second = (json.loads((folder / "report.json").read_text()) for folder in (one, two))
    assert second["dense"]["macs"] == first["arms"][0]["macs"]
    assert second["arms"][0]["macs"] <= 0.6 * second["dense"]["macs"]
    assert len(json.loads((two / "plan.json").read_text())["earlier"]) == 1
    net = cp.load(two, small_resnet)
    assert sum(p.numel() for p in net.parameters()) == second["arms"][0]["params"]
    assert torch.isfinite(net(torch.rand(2, 1, 8, 8))).all()
    told = [tomllib.loads((folder / "config.toml").read_text()) for folder in (one, two)]
    assert [each.get("from") for each in told] == [None, str(one)]
    assert [each["calibration_images"] for each in told] == [256, 256]


def test_what_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--from", str(tmp_path), "--keep-macs", "0.5"]) == 2
    assert "--from: " in capsys.readouterr().err
