"""`compress` on 60 random images and a network of two convolutions."""

import copy
import json
import math
import pickle
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from causal_prune.comparison import exports
from causal_prune.data.data import Data
from causal_prune.errors import InputError, TargetError
from causal_prune.measure.latency import Latency
from causal_prune.onnx_files.parity import Parity
from causal_prune.pipeline import flow
from causal_prune.pipeline.flow import Compressed, compress
from causal_prune.planning import latency_target
from causal_prune.report.bundle import verify
from causal_prune.report.report import Report, text_to_hits
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.rebuilding import load

# a dozen calibration images are quick, and fewer than the weights that they refit
pytestmark = pytest.mark.filterwarnings("ignore:compensate:UserWarning")


class Counted(Dataset[tuple[Tensor, int]]):
    def __init__(self, size: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.images = torch.randn(size, 1, 6, 6, generator=draw)
        self.labels = torch.randint(3, (size,), generator=draw)
        self.fetched: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.fetched[index] += 1
        return self.images[index], int(self.labels[index])


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 20, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(80, 3),
        )  # fmt: skip


def images() -> Data:
    train = Counted(24, 1)
    return Data(train, Counted(10, 2), Counted(11, 5), Counted(15, 4), ("a", "b", "c"), "noise", "11 images")


@dataclass(frozen=True)
class Run:
    net: nn.Module
    data: Data
    result: Compressed
    folders: list[Path]


def stand_in_export(model: nn.Module, path: Path, example_input: Tensor, **options: object) -> Parity:
    path.write_bytes(b"onnx")
    return Parity(1e-6, 1e-4, True, {"output": 1e-6})


def stand_in_latency(files: dict[str, Path], *, threads: int = 1, **options: object) -> dict[str, Latency]:
    return {name: Latency((1.0, 1.1, 1.2), threads, 1) for name in files}


@pytest.fixture(scope="module")
def scratch() -> list[Path]:
    return []


@pytest.fixture(scope="module")
def patched(scratch: list[Path]):
    """No ONNX, no timing: both have tests of their own; temporary folders are written down."""
    original = tempfile.TemporaryDirectory

    def noted(*args, **kwargs):
        folder = original(*args, **kwargs)
        scratch.append(Path(folder.name))
        return folder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "export_onnx", stand_in_export)
        patch.setattr(exports, "measure_latency", stand_in_latency)
        patch.setattr("causal_prune.pipeline.steps.tempfile.TemporaryDirectory", noted)
        yield


@pytest.fixture(scope="module", params=["remove", "zero"])
def run(request: pytest.FixtureRequest, patched: None, scratch: list[Path]) -> Run:
    net, data = network().train(), images()
    result = compress(
        net,
        data,
        remove_filters=0.5,
        mode=request.param,
        random_seeds=2,
        evidence="full",
        epochs=1,
        seed=6,
        title="tiny",
        align=1,
    )
    return Run(net, data, result, list(scratch))


def new_rungs(run: Run) -> int:
    """Networks that were cut for the ladder alone."""
    ladder = run.result.report.ladder
    assert ladder is not None and ladder.causal.widths == "curves"
    return sum(rung.widths == "equal" for rung in ladder.rungs)


def test_the_ladder_ends_at_the_network_that_is_shipped(run: Run) -> None:
    report = run.result.report
    assert report.ladder is not None
    causal = report.causal
    assert [report.ladder.causal.at(name) for name in report.ladder.stations] == [
        causal.quality_after_cut,
        causal.quality_after_batchnorm,
        causal.quality_after_compensation,
        causal.quality,
    ]
    small = (report.removed or causal).macs
    assert all(rung.macs <= small for rung in report.ladder.rungs)


def test_every_test_image_is_fetched_once_per_arm(run: Run) -> None:
    arms = [run.result.report.dense, *run.result.report.arms]
    extra = ["causal-removed"] if run.result.report.mode == "zero" else []
    assert [arm.name for arm in arms] == ["dense", "causal", *extra, "random", "random", "magnitude"]
    harm, pictures = run.result.report.harm, {each.name for each in run.result.report.pictures}
    assert harm is not None and pictures == {"flipped", "exemplars"}
    dense, causal = (text_to_hits(arm.merits, 15) for arm in arms[:2])
    lost, gained = np.flatnonzero(dense & ~causal).tolist(), np.flatnonzero(~dense & causal).tolist()
    assert len(lost) <= 8 and len(gained) <= 4, "all of them are drawn"
    drawn = {*lost, *gained, *(each.image for each in harm.exemplars.images)}
    networks = len(arms) + new_rungs(run)
    expected = Counter(dict.fromkeys(range(15), networks)) + Counter(drawn)
    assert run.data.test.fetched == expected, "once per arm and further rung, and once to be drawn"
    assert all(arm.total == 15 for arm in arms)


def test_training_reads_training_images_and_the_curve_validation_images(run: Run) -> None:
    pruned = len(run.result.report.arms) + new_rungs(run)
    assert run.data.train.fetched == Counter(dict.fromkeys(range(24), pruned)), "one epoch per arm"
    networks = 5 * 3  # shares x (causal and two random arms)
    ablation = 3  # on the half that it is in: for its batch size, the means and the interventions
    assert run.data.validation.fetched == Counter(dict.fromkeys(range(10), networks + ablation))


def test_the_report_says_how_far_the_importances_agree_with_ablation(run: Run) -> None:
    found = run.result.report.agreement
    assert (found.method, found.versus) == ("structural", "ablation")
    assert found.spearman_by_group.keys() == {"0", "3"} and -1 <= found.median <= 1
    assert found.units == 10 + 16 and found.images == 10 and 0 < found.stability <= 1


def test_arms_share_the_widths(run: Run) -> None:
    report = run.result.report
    kept = [len(units) for units in run.result.plan.kept_units.values()]
    assert sum(kept) == 15, "half of the filters"
    assert [(layer.filters_before, layer.filters_after) for layer in report.layers] == [
        (10, kept[0]),
        (20, kept[1]),
        (3, 3),
    ]
    costs = {(arm.macs, arm.params) for arm in report.arms if arm.name != "causal-removed"}
    assert len(costs) == 1
    small = {(arm.macs, arm.params) for arm in report.arms if arm.name == "causal-removed"}
    dense = (report.dense.macs, report.dense.params)
    assert costs == {dense} if report.mode == "zero" else costs.pop() < dense
    assert not small or small.pop() < dense


def test_the_comparison_is_recomputed_from_the_report(run: Run) -> None:
    report = run.result.report
    by_name: dict[str, list[float]] = {}
    for arm in report.arms:
        by_name.setdefault(arm.name, []).append(arm.correct / arm.total)
    differences = [by_name["causal"][0] - other for other in by_name["random"]]
    assert report.comparison.mean_difference == pytest.approx(sum(differences) / 2)
    assert report.comparison.wins_of == (sum(d > 0 for d in differences), 2)


def test_the_report_says_what_was_asked(run: Run) -> None:
    report, plan = run.result.report, run.result.plan
    assert (report.title, report.seed, report.epochs, report.importance) == ("tiny", 6, 1, "structural")
    assert report.target.kind == "remove_filters" and report.target.requested == report.target.achieved == 0.5
    assert plan.target.achieved == 0.5 and plan.kept_units.keys() == {"0", "3"}
    assert report.split.model_dump() == {"train": 24, "validation": 10, "calibration": 11, "test": 15}
    assert report.classes == 3 and "calibration: 11 images" in report.notes
    assert any("patches cannot determine" in note for note in report.notes), "what observe has to say"
    assert {name: len(values) for name, values in report.importances.items()} == {"0": 10, "3": 20}


def test_the_result_is_the_causal_network_and_the_callers_is_untouched(run: Run) -> None:
    small = run.result.model
    widths = [small[k].out_channels for k in (0, 3)]
    kept = [len(units) for units in run.result.plan.kept_units.values()]
    assert widths == (kept if run.result.report.mode == "remove" else [10, 20])
    assert not small.training and run.net.training
    with torch.no_grad():
        hits = (small(run.data.test.images).argmax(1) == run.data.test.labels).sum()
    assert int(hits) == run.result.report.arms[0].correct
    fresh = network().state_dict()
    assert all(torch.equal(value, fresh[key]) for key, value in run.net.state_dict().items())


def test_without_a_folder_nothing_stays_on_disk(run: Run) -> None:
    assert run.result.bundle is None
    assert run.folders and not any(folder.exists() for folder in run.folders)


def test_a_bundle_holds_the_network_and_its_report(tmp_path: Path) -> None:
    net, data, out = network(), images(), tmp_path / "bundle"
    with pytest.MonkeyPatch.context() as patch:  # the real exporter; timing has tests of its own
        patch.setattr(exports, "measure_latency", stand_in_latency)
        result = compress(net, data, keep_macs=0.6, align=1, arms=("causal",), out=out)
    verify(out)
    assert result.bundle == out and list(tmp_path.iterdir()) == [out]
    report = Report.load(out / "report.json")
    assert report == result.report and report.comparison is None
    assert report.parity.passed and 0 < report.parity.max_abs < 1e-4
    assert 0.6 * 0.95 < report.target.achieved <= 0.6
    assert report.arms[0].macs / report.dense.macs == pytest.approx(report.target.achieved)
    assert PruningPlan.load(out / "plan.json") == result.plan
    with torch.no_grad():
        assert torch.equal(load(out, network)(data.test.images), result.model(data.test.images))
    samples = json.loads((out / "latency.json").read_text())
    assert samples["unit"] == "ms" and samples["samples"].keys() == {"dense", "causal"}
    assert json.loads((out / "environment.json").read_text()) == report.environment


def test_a_run_repeats_itself(patched: None) -> None:
    runs = [
        compress(network(), images(), keep_macs=0.5, random_seeds=1, epochs=1, seed=seed)
        for seed in (3, 3, 4)
    ]
    digests = [[arm.predictions_sha256 for arm in run.report.arms] for run in runs]
    weights = [run.model.get_parameter("0.weight").detach().numpy() for run in runs]
    assert digests[0] == digests[1] and np.array_equal(weights[0], weights[1])
    assert digests[0] != digests[2]


def test_a_latency_target_is_planned_by_timing(patched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency_target, "export_onnx", stand_in_export)
    factor = {"dense": 2.0, "candidate": 1.0}
    monkeypatch.setattr(
        latency_target,
        "measure_latency",
        lambda files, threads: {name: Latency((factor[name],), threads, 1) for name in files},
    )
    result = compress(network(), images(), keep_latency=0.7, arms=("causal",))
    assert result.report.target.kind == "keep_latency" and result.report.target.achieved == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep_macs": 0.5, "keep_latency": 0.5}, "`keep_macs` and `keep_latency` are two targets; give one"),
        ({"keep_params": 0.5, "remove_filters": 0.5}, "`keep_params` and `remove_filters` are two targets"),
        ({"keep_macs": 0.0}, "keep_macs: 0.0 is not between 0 and 1"),
        ({"keep_latency": math.nan}, "keep_latency: nan is not between 0 and 1"),
        ({"importance": "l1"}, "'l1' is not one of"),
        ({"arms": ("causal", "best")}, "arms: causal,best is not a list of causal, random and magnitude"),
        ({"random_seeds": 0}, "random_seeds: 0 is not a whole number of at least 1"),
        ({"align": 0}, "align: 0 is not 'auto' or a whole number of at least 1"),
        ({"keep_mac": 0.5}, "unknown option 'keep_mac'; did you mean 'keep_macs'?"),
        ({"compensation": "magic"}, "compensation: magic is not least-squares, batchnorm or none"),
        ({"freeze": ["nowhere"]}, "there is no module 'nowhere'"),
    ],
)
def test_bad_arguments_are_refused_before_an_arm_runs(options: dict, message: str, tmp_path: Path) -> None:
    data = images()
    with pytest.raises(InputError, match=message):
        compress(network(), data, out=tmp_path / "bundle", **options)
    assert not data.test.fetched and not list(tmp_path.iterdir())


def test_a_target_out_of_reach_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="keep_macs=0.001 is out of reach"):
        compress(network(), images(), keep_macs=0.001, out=tmp_path / "bundle")
    with pytest.raises(TargetError, match="nothing can be pruned"):
        compress(network(), images(), keep_macs=0.5, freeze=["0", "3"], out=tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_without_evidence_there_is_the_result_alone(patched: None, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    data = images()
    result = compress(network(), data, keep_macs=0.5, align=1, evidence="none", out=out)
    report = Report.load(out / "report.json")
    assert [arm.name for arm in report.arms] == ["causal"] and report.comparison is None
    assert report.curve is None and report.agreement is None and report.pictures == ()
    assert report.harm is not None, "which images were lost is known without another pass"
    assert data.test.fetched == Counter(dict.fromkeys(range(15), 2)), "dense and causal"
    assert {each.part for each in result.steps} == {"result"} and result.report == report
    timed = json.loads((out / "latency.json").read_text())["steps"]
    assert [each["name"] for each in timed][:3] == ["trace", "observe", "score"]


def test_the_bundle_is_there_before_anything_is_compared(
    patched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, seen = tmp_path / "bundle", []
    original = flow.gather

    def looked_at(*given):
        verify(out)
        seen.append(Report.load(out / "report.json"))
        return original(*given)

    monkeypatch.setattr(flow, "gather", looked_at)
    result = compress(network(), images(), keep_macs=0.5, align=1, random_seeds=2, out=out)
    (first,) = seen
    assert [arm.name for arm in first.arms] == ["causal"] and first.comparison is None
    assert (first.dense, first.causal) == (result.report.dense, result.report.causal)
    assert [arm.name for arm in result.report.arms] == ["causal", "random", "random", "magnitude"]
    assert Report.load(out / "report.json") == result.report
    verify(out)
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    "stop", [KeyboardInterrupt(), OSError(28, "No space left on device"), ValueError("broken")]
)
def test_what_ends_the_evidence_leaves_the_result(
    patched: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    out = tmp_path / "bundle"

    def ended(*_given):
        raise stop

    monkeypatch.setattr(flow, "gather", ended)
    told = rf"interrupted; {out} holds the result" if isinstance(stop, KeyboardInterrupt) else None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(type(stop), match=told):
            compress(network(), images(), keep_macs=0.5, align=1, out=out)
    verify(out)
    assert list(tmp_path.iterdir()) == [out]
    if told is None:
        assert any(
            f"{out} holds the result; what it is worth could not be told" in str(each.message)
            for each in said
        )


def test_an_interrupt_without_a_folder_promises_none(patched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*_given):
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, "gather", ended)
    with pytest.raises(KeyboardInterrupt, match="^$"):
        compress(network(), images(), keep_macs=0.5, align=1)


def test_the_steps_say_what_took_how_long(run: Run) -> None:
    steps = {each.name: each for each in run.result.steps}
    assert list(steps)[:5] == ["trace", "observe", "score", "plan", "prove the cut"]
    assert steps["arms beside it"].part == "evidence" and steps["repair and test"].part == "result"
    assert all(each.seconds >= 0 for each in steps.values())


def test_a_loss_is_searched_for_and_told(patched: None, tmp_path: Path) -> None:
    data, out = images(), tmp_path / "bundle"
    result = compress(network(), data, max_drop=0.9, confidence=0.6, align=1, evidence="none", out=out)
    search, target = result.report.search, result.report.target
    assert search is not None and search.bound_by == "max_drop" and search.images == 10
    assert (target.kind, target.requested) == ("max_drop", 0.9)
    taken = min((each for each in search.tried if each.within), key=lambda each: each.macs_kept)
    assert target.achieved == taken.drop
    assert result.report.causal.macs / result.report.dense.macs == pytest.approx(taken.macs_kept)
    assert data.test.fetched == Counter(dict.fromkeys(range(15), 2)), "no candidate reads the test split"
    with pytest.raises(TargetError, match="max_drop=0.001 is out of reach: 10 validation images cannot tell"):
        compress(network(), images(), max_drop=0.001, align=1, evidence="none")


def test_a_latency_that_is_out_of_reach_leaves_the_loss_to_end_the_search(
    patched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(*_given, **_options):
        raise TargetError("keep_latency=0.5 is out of reach: the fastest network tried keeps 0.8")

    monkeypatch.setattr("causal_prune.pipeline.steps.plan_latency", unreached)
    with pytest.warns(
        UserWarning, match="keep_latency=0.5 is out of reach.*the smallest network within max_drop"
    ):
        result = compress(
            network(), images(), max_drop=0.9, keep_latency=0.5, confidence=0.6, align=1, evidence="none"
        )
    assert result.report.search.bound_by == "max_drop" and result.report.search.keep_latency == 0.5


def test_the_model_is_ready_for_the_callers_own_loop(run: Run) -> None:
    with torch.inference_mode():
        made = compress(network(), images(), remove_filters=0.5, evidence="none", align=1).model
    for small in (run.result.model, made):
        assert all(
            parameter.requires_grad and not parameter.is_inference() for parameter in small.parameters()
        )
        assert {parameter.device.type for parameter in small.parameters()} == {"cpu"} and not small.training
        again = pickle.loads(pickle.dumps(copy.deepcopy(small))).train()
        optimizer = torch.optim.SGD(again.parameters(), lr=0.1)
        before = [parameter.clone() for parameter in again.parameters()]
        torch.nn.functional.cross_entropy(again(run.data.train.images), run.data.train.labels).backward()
        optimizer.step()
        assert all(parameter.grad is not None for parameter in again.parameters())
        assert not all(torch.equal(a, b) for a, b in zip(before, again.parameters(), strict=True))


def test_a_result_prints_as_its_report_and_shows_itself(run: Run) -> None:
    assert str(run.result) == str(run.result.report) and "causal" in str(run.result)
    assert run.result._repr_html_() == run.result.report._repr_html_()
