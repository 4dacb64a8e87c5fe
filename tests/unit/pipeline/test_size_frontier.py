"""Sizes of a network side by side: what is written, what is kept, and what has no place in it."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from causal_prune.data.data import Data
from causal_prune.errors import InputError, TargetError
from causal_prune.measure.latency import Latency
from causal_prune.pipeline import size_frontier
from causal_prune.pipeline.flow import compress
from causal_prune.pipeline.options import KEEP, FrontierOptions
from causal_prune.pipeline.size_frontier import frontier
from causal_prune.report.frontier import Frontier
from causal_prune.surgery.pruning_plan import PruningPlan

pytestmark = pytest.mark.filterwarnings("ignore:compensate:UserWarning")


@pytest.fixture(autouse=True)
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stand_in(files: dict[str, Path], *, threads: int, **_: object) -> dict[str, Latency]:
        assert all(file.is_file() for file in files.values())
        return {name: Latency((1.0 + k,) * 3, threads, 1) for k, name in enumerate(files)}

    monkeypatch.setattr(size_frontier, "measure_latency", stand_in)


def test_a_folder_holds_the_picture_and_a_plan_for_every_size(
    net: nn.Module, data: Data, tmp_path: Path
) -> None:
    net, out = net.train(), tmp_path / "sizes"
    before = {key: value.clone() for key, value in net.state_dict().items()}
    found = frontier(net, data, keep=(0.8, 0.5, 1e-6), max_drop=0.999, align=1, out=out, command="made here")
    sums = dict(line.split("  ")[::-1] for line in (out / "SHA256SUMS").read_text().splitlines())
    assert all(sha256((out / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    assert {"frontier.json", "frontier.png", "frontier.md", "plans/keep-0.5.json"} <= sums.keys()
    assert Frontier.load(out / "frontier.json") == found and found.command == "made here"
    assert {path.name for path in out.iterdir()} == {
        "frontier.json", "frontier.png", "frontier.md", "plans", "SHA256SUMS"
    }  # fmt: skip
    assert sorted(path.name for path in (out / "plans").iterdir()) == ["keep-0.5.json", "keep-0.8.json"]
    for size in found.sizes[:2]:
        plan = PruningPlan.load(out / size.plan)
        assert plan.target.requested == size.keep and size.macs / found.dense.macs <= size.keep
        assert [arm.name for arm in size.arms] == ["causal", "random", "magnitude"]
    assert found.sizes[2].unreached and found.taken == 1 and size.within
    assert found.makes == f'cp.compress(model, data, plan="{out}/plans/keep-0.5.json")'
    assert not data.test.fetched, "the test split is not read"
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items()) and net.training
    again = compress(net, data, plan=out / "plans/keep-0.5.json", evidence="none", align=1)
    assert again.plan == PruningPlan.load(out / "plans/keep-0.5.json")
    assert again.report.causal.macs == found.sizes[1].macs
    assert any("not chosen in this run" in note for note in again.report.notes)


@pytest.mark.parametrize(
    ("given", "arms"),
    [
        ({"evidence": "none"}, ["causal"]),
        ({"arms": ("causal", "magnitude")}, ["causal", "magnitude"]),
        ({"random_seeds": 2}, ["causal", "random", "random", "magnitude"]),
        ({"evidence": "full"}, ["causal", *["random"] * 5, "magnitude"]),
    ],
)
def test_as_much_is_compared_as_is_asked_for(
    net: nn.Module, data: Data, given: dict[str, Any], arms: list[str]
) -> None:
    found = frontier(net, data, keep=(0.5,), align=1, **given)
    assert [arm.name for arm in found.sizes[0].arms] == arms


def test_without_a_folder_nothing_is_written_and_no_command_told(
    net: nn.Module, data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = frontier(net, data, keep=(0.5,), evidence="none", max_drop=0.9, align=1)
    assert found.taken == 0 and found.makes is None and not list(tmp_path.iterdir())
    strict = frontier(net, data, keep=(0.5,), evidence="none", align=1)
    assert strict.max_drop == 0.01 and strict.taken is None, "ten images tell no point of accuracy"


@pytest.mark.parametrize(
    "given",
    [
        {"keep_macs": 0.5}, {"keep_latency": 0.5}, {"remove_silent": True}, {"epochs": 1}, {"explain": True},
        {"plan": "x"},
    ],
)  # fmt: skip
def test_targets_and_training_have_no_place(given: dict[str, Any], net: nn.Module, data: Data) -> None:
    name = next(iter(given))
    with pytest.raises(
        InputError, match=f"`{name}`: a frontier is made of the sizes in `keep`, without training"
    ):
        frontier(net, data, **given)


@pytest.mark.parametrize("keep", [(), (0.5, 1.0), (0,), "half"])
def test_sizes_are_shares(keep: Any) -> None:
    with pytest.raises(InputError, match="keep: .* is not shares between 0 and 1, such as"):
        FrontierOptions(keep=keep)
    assert FrontierOptions().keep == KEEP and FrontierOptions(keep="0.7,0.5").keep == (0.7, 0.5)


def test_where_nothing_can_be_cut_that_is_said(net: nn.Module, data: Data, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="nothing can be pruned: every layer is frozen"):
        frontier(net, data, freeze=["0", "3"], out=tmp_path / "sizes")
    assert not list(tmp_path.iterdir())
