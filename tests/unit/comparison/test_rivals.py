from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from causal_prune.comparison import agreement, exports
from causal_prune.comparison import arms as arms_room
from causal_prune.comparison import share_curve as share_curve_room
from causal_prune.comparison.agreement import judge, spearman_by_group, spread_units
from causal_prune.comparison.arms import ArmResult, Recipe, run_arms
from causal_prune.comparison.exports import export_arms
from causal_prune.comparison.rivals import rivals_of
from causal_prune.comparison.share_curve import SHARES, curve_by_share
from causal_prune.errors import InputError
from causal_prune.importance.ablation import ablate, joined
from causal_prune.importance.methods import score
from causal_prune.importance.scores import FilterScores
from causal_prune.measure.cost import Cost
from causal_prune.measure.latency import Latency
from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.onnx_files.parity import Parity
from causal_prune.planning.unit_choice import plan
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace

Known = tuple[FilterGraph, FilterMoments, FilterScores]


def random_images(size: int, seed: int) -> TensorDataset:
    draw = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(size, 1, 6, 6, generator=draw), torch.randint(3, (size,), generator=draw)
    )


@pytest.fixture
def recipe() -> Recipe:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 20, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(80, 3),
        ).eval()  # fmt: skip
    sets = [random_images(40, seed) for seed in range(3)]
    return Recipe(net, *sets, torch.zeros(2, 1, 6, 6), "none", 0, 0.01, False, 0, "cpu")


@pytest.fixture
def known(recipe: Recipe) -> Known:
    graph = trace(recipe.dense, recipe.example)
    moments = observe(recipe.dense, graph, [recipe.calibration.tensors[0]])
    return graph, moments, score(graph, moments)


def test_random_rivals_count_their_seeds_on_and_magnitude_has_none(known: Known) -> None:
    graph, moments, _ = known
    rivals = rivals_of(graph, moments, ("causal", "random", "magnitude"), 3, seed=5)
    assert [(rival.name, rival.seed) for rival in rivals] == [
        ("random", 5), ("random", 6), ("random", 7), ("magnitude", None)
    ]  # fmt: skip
    expected = score(graph, moments, method="random", seed=6).groups["0"]
    assert torch.equal(rivals[1].scores.groups["0"], expected)
    assert rivals_of(graph, moments, ("causal",), 3, seed=5) == []


@pytest.mark.parametrize(
    ("arms", "seeds", "message"),
    [
        (("causal", "l1"), 2, "arms: 'l1' is not one of causal, random, magnitude"),
        (("random",), 0, "random_seeds: 0 is not at least 1"),
    ],
)
def test_unknown_arms_and_no_seeds_are_refused(
    known, arms: tuple[str, ...], seeds: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        rivals_of(known[0], known[1], arms, seeds, seed=0)


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_all_arms_share_the_widths_and_differ_in_the_units(
    recipe: Recipe, known, mode: str, monkeypatch
) -> None:
    graph, moments, scores = known
    planned = plan(graph, scores, keep_macs=0.5)
    rivals = rivals_of(graph, moments, ("random", "magnitude"), 2, seed=0)
    plans, original = [], arms_room.run_arm
    monkeypatch.setattr(arms_room, "run_arm", lambda *a, **k: (plans.append((a[1], k)), original(*a, **k))[1])
    arms = run_arms(recipe, graph, planned, "structural", rivals, mode)
    extra = ["causal-removed"] if mode == "zero" else []
    assert [arm.name for arm in arms] == ["dense", "causal", *extra, "random", "random", "magnitude"]
    assert [arm.importance for arm in arms] == [
        None, *["structural"] * (1 + len(extra)), "random", "random", "magnitude"
    ]  # fmt: skip
    widths = [{name: len(units) for name, units in chosen.kept_units.items()} for chosen, _ in plans]
    assert all(each == widths[0] for each in widths)
    assert all(chosen.target == planned.target for chosen, _ in plans)
    assert plans[0][0] is planned and (mode == "remove" or plans[1][0] is planned)
    units = {tuple(chosen.kept_units["3"]) for chosen, _ in plans}
    assert len(units) == 4, "causal, two random ones and magnitude choose differently"
    assert [options["mode"] for _, options in plans] == [mode, *["remove"] * len(extra), mode, mode, mode]
    dense = arms[0].cost.macs
    for arm in arms[1:]:
        assert (
            arm.cost.macs == dense
            if mode == "zero" and arm.name != "causal-removed"
            else arm.cost.macs < dense
        )


def test_the_curve_has_causal_and_every_random_seed_at_every_share(
    recipe: Recipe, known, monkeypatch
) -> None:
    graph, moments, scores = known
    rivals = rivals_of(graph, moments, ("random", "magnitude"), 2, seed=4)
    asked = {}

    def stand_in(_recipe, validation, plans, mode) -> dict[tuple[float, str, int], float]:
        asked.update({key: make() for key, make in plans.items()})
        assert validation == "validation" and mode == "remove"
        return {key: key[0] + (10 + key[2] if key[1] == "random" else 0) for key in plans}

    monkeypatch.setattr(share_curve_room, "curve", stand_in)
    monkeypatch.setattr(share_curve_room, "Curve", lambda **fields: fields)
    found = curve_by_share(recipe, "validation", graph, scores, rivals, "remove")
    assert found["shares"] == SHARES and found["causal"] == SHARES
    assert found["random"] == tuple((share + 14, share + 15) for share in SHARES)
    for (share, name, seed), chosen in asked.items():
        theirs = replace(scores, curves={}) if name == "causal" else rivals[seed - 4].scores
        assert chosen == plan(graph, theirs, remove_filters=share)


def test_the_first_arm_of_each_name_is_exported_and_only_the_causal_file_stays(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("dense", "causal", "random", "random", "magnitude")
    arms = [ArmResult(name, None, None, nn.Identity(), {}, Cost(1, 1, {})) for name in names]
    written, timed = {}, {}

    def export(model: nn.Module, path: Path, example: Tensor, *, metadata: dict[str, str]) -> Parity:
        path.write_bytes(b"x" * (10 + len(written)))
        written[path.name] = (model, metadata)
        return Parity(0.1 * len(written), 1, True, {})

    def measure(files: dict[str, Path], *, threads: int, seed: int, label: str) -> dict[str, Latency]:
        timed.update(files)
        assert threads == 2 and all(path.is_file() for path in files.values())
        return {name: Latency((1.0 + k,), threads, 1) for k, name in enumerate(files)}

    monkeypatch.setattr(exports, "export_onnx", export)
    monkeypatch.setattr(exports, "measure_latency", measure)
    found = export_arms(arms, recipe, tmp_path, threads=2, metadata={"made": "here"})
    assert list(found) == [0, 1, 2, 4] and list(timed) == ["dense", "causal", "random", "magnitude"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert written["model.onnx"] == (arms[1].model, {"made": "here", "causal_prune.arm": "causal"})
    assert [found[k].size for k in found] == [10, 11, 12, 13]
    assert [found[k].latency.median for k in found] == [1, 2, 3, 4]


def test_the_judge_is_ablation_of_some_units_on_validation_images(recipe: Recipe, known, monkeypatch) -> None:
    graph, _, scores = known
    monkeypatch.setattr(agreement, "INTERVENTIONS", 0)
    monkeypatch.setattr(agreement, "MOST_IMAGES", 36)

    def rescore(moments: FilterMoments) -> FilterScores:
        return score(graph, moments)

    found = judge(recipe, graph, scores, rescore, random_images(40, 9))
    labelled = random_images(40, 9).tensors
    chosen = [2 * (k * 20 // 18) + start for start in (0, 1) for k in range(18)]
    units = spread_units({"0": 10, "3": 20}, 16)
    parts = [
        ablate(recipe.dense, graph, [tuple(part[half] for part in labelled)], units=units)
        for half in (chosen[:18], chosen[18:])
    ]
    literal = joined(*parts)
    expected = spearman_by_group(
        {name: scores.groups[name][places] for name, places in units.items()}, literal.rise
    )
    assert found.spearman_by_group == pytest.approx(expected)
    assert (found.images, found.units, found.method) == (36, 26, "structural")
    reliability = spearman_by_group(parts[0].rise, parts[1].rise)
    assert found.reliability == pytest.approx(sum(reliability.values()) / 2)
    halves = [recipe.calibration.tensors[0][start::2] for start in (0, 1)]
    first, second = (rescore(observe(recipe.dense, graph, [half])).groups for half in halves)
    stability = spearman_by_group(first, second)
    assert found.stability == pytest.approx(sum(stability.values()) / 2)


def test_ablation_is_not_judged_by_itself(recipe: Recipe, known) -> None:
    graph, _, scores = known
    own = replace(scores, method="ablation")
    assert judge(recipe, graph, own, lambda moments: own, recipe.train) is None
