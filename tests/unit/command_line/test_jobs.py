"""What the commands do: which network, which data, which options of `compress`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from causal_prune.command_line import jobs
from causal_prune.command_line.jobs import dry_run_job, frontier_job, inspect_job, run_job
from causal_prune.command_line.settings import RunSettings, load_settings
from causal_prune.data.data import Data
from causal_prune.errors import CausalPruneNote, InputError, TargetError
from causal_prune.pipeline.flow import Compressed
from causal_prune.pipeline.options import Options
from causal_prune.sources.models import load_model
from causal_prune.sources.small_cnn import small_resnet
from causal_prune.tracing.network_trace import trace
from tests.unit.command_line.disk import Disk

# a few images do not determine patches, and `observe` says so
pytestmark = pytest.mark.filterwarnings("ignore::causal_prune.errors.CausalPruneWarning")

Given = tuple[nn.Module, Data, Options]


def settings(**flags: object) -> RunSettings:
    return load_settings(flags=flags)


@pytest.fixture
def compressed(monkeypatch: pytest.MonkeyPatch) -> list[Given]:
    """What `compress` was given; it has tests of its own."""
    seen: list[Given] = []

    def stand_in(*given: Any) -> Compressed:
        seen.append(given)
        return Compressed(given[0], None, None, given[2].out)  # type: ignore[arg-type]  # nobody looks

    monkeypatch.setattr(jobs, "compress", stand_in)
    return seen


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """How the embedded network would be trained; it stays as it was drawn."""
    seen: list[dict[str, Any]] = []

    def stand_in(model: nn.Module, batches: object, **options: Any) -> nn.Module:
        seen.append(options)
        return model

    monkeypatch.setattr(jobs, "fine_tune", stand_in)
    return seen


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


# --- run ---


def test_a_run_compresses_the_network_and_the_data_that_are_named(
    disk: Disk, compressed: list[Given], trained: list[dict[str, Any]]
) -> None:
    run_job(
        settings(model=disk.model, data=disk.data, model_arg=["width=5"], seed=4), command="causal-prune run"
    )
    ((model, data, options),) = compressed
    assert model[0].out_channels == 5  # type: ignore[index]  # a Sequential
    assert data.split == {"train": 54, "validation": 6, "calibration": 54, "test": 12}
    assert options.in_force is not None and options.in_force["model_arg"] == {"width": 5}
    assert options.in_force["out"] == "export/net" and options.in_force["keep_macs"] == 0.5
    plain = options.model_copy(update={"in_force": None})
    assert plain == Options(
        seed=4, out=Path.cwd() / "export/net", title="nets:net", command="causal-prune run"
    )
    assert trained == []


def test_the_same_seed_draws_the_same_weights(disk: Disk, compressed: list[Given]) -> None:
    for seed in (1, 1, 2):
        run_job(settings(model=disk.model, data=disk.data, seed=seed), command="")
    first, second, other = (model for model, _, _ in compressed)
    assert same(first, second) and not same(first, other)


def test_weights_are_read_from_their_file(disk: Disk, compressed: list[Given], tmp_path: Path) -> None:
    dense = load_model(disk.model)
    torch.save(dense.state_dict(), tmp_path / "net.pt")
    run_job(settings(model=disk.model, data=disk.data, weights=str(tmp_path / "net.pt")), command="")
    assert same(compressed[0][0], dense)


def test_without_a_model_the_embedded_one_is_trained_on_the_spot(
    disk: Disk, compressed: list[Given], trained: list[dict[str, Any]]
) -> None:
    run_job(settings(seed=3), command="")
    ((model, data, options),) = compressed
    assert (options.title, options.out, options.epochs) == ("digits", Path.cwd() / "export/digits", 3)
    assert not model.training and len(data.classes) == 10
    (how,) = trained
    assert (how["epochs"], how["lr"], how["seed"], how["label"]) == (40, 0.1, 3, "train the dense network")


def test_the_embedded_network_fits_other_images_and_takes_weights_instead_of_training(
    disk: Disk, compressed: list[Given], trained: list[dict[str, Any]], tmp_path: Path
) -> None:
    dense = small_resnet(3, 1)
    torch.save(dense.state_dict(), tmp_path / "small.pt")
    run_job(settings(data=disk.data, weights=str(tmp_path / "small.pt")), command="")
    ((model, _, options),) = compressed
    assert same(model, dense) and not model.training and trained == []
    assert (options.title, options.epochs) == ("small_resnet", 3)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, {"epochs": 0, "parents": None, "out": "export/net"}),
        ({"mode": "zero"}, {"parents": "chain"}),
        ({"mode": "zero", "parents": "graph"}, {"parents": "graph"}),
        ({"epochs": "2", "out": "elsewhere"}, {"epochs": 2, "out": "elsewhere"}),
        ({"keep_params": "0.3", "arms": "causal", "compensate": "none"}, {"asked": ("keep_params", 0.3)}),
    ],
)
def test_what_was_not_given_follows_from_what_was(
    disk: Disk, compressed: list[Given], flags: dict[str, str], expected: dict[str, object]
) -> None:
    run_job(settings(model=disk.model, data=disk.data, **flags), command="")
    options = compressed[0][2]
    if "out" in expected:
        expected = {**expected, "out": Path.cwd() / str(expected["out"])}
    assert {name: getattr(options, name) for name in expected} == expected
    assert options.command == "causal_prune.compress(...)"


def test_no_epochs_may_be_asked_for_the_embedded_network_too(
    compressed: list[Given], trained: list[dict[str, Any]], tmp_path: Path
) -> None:
    run_job(settings(epochs="0", out=str(tmp_path / "net")), command="")
    assert compressed[0][2].epochs == 0


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ({"model": "no/such.py:net", "out": "file"}, "^`out` file: is a file"),  # before anything is loaded
        ({"model": "no/such.py:net", "device": "cuda:99"}, "^device: .*cuda:99"),
        ({"model": "no/such.py:net", "data": "npz:none"}, "^model: there is no file no/such.py"),
        ({"data": "npz:none.npz"}, "^data: there is no file .*/none.npz"),
    ],
)
def test_a_mistake_is_told_before_the_next_costs_time(
    disk: Disk, compressed: list[Given], flags: dict[str, str], text: str
) -> None:
    Path("file").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=text):
        run_job(settings(**flags), command="")
    assert compressed == []


def test_a_network_that_does_not_fit_the_data_is_refused(disk: Disk, compressed: list[Given]) -> None:
    with pytest.raises(InputError, match=r"^model: refuses images of shape \(1, 12, 12\)"):
        run_job(settings(model=disk.model, data=disk.data, input_shape="1,12,12"), command="")
    assert compressed == []


# --- dry run ---


def test_a_dry_run_gives_the_target_and_all_widths_and_writes_nothing(disk: Disk) -> None:
    target, layers = dry_run_job(settings(model=disk.model, data=disk.data, remove_filters="0.5", align="1"))
    assert (target.kind, target.requested, target.achieved) == ("remove_filters", 0.5, 0.5)
    assert [(layer.name, layer.filters_before) for layer in layers] == [("0", 6), ("2", 8), ("5", 3)]
    assert sum(layer.filters_before - layer.filters_after for layer in layers) == 7
    assert layers[2].frozen == "produces an output of the network" and layers[2].filters_after == 3
    assert not list(Path.cwd().iterdir())


def test_a_dry_run_out_of_reach_is_told(disk: Disk) -> None:
    with pytest.raises(TargetError, match="^keep_macs=0.001 is out of reach"):
        dry_run_job(settings(model=disk.model, data=disk.data, keep_macs="0.001"))


# --- inspect ---


def test_without_a_model_the_embedded_one_is_inspected() -> None:
    found = inspect_job(settings(freeze=["layer3"]))
    expected = trace(small_resnet(), torch.rand(1, 1, 8, 8), freeze=("layer3",))
    assert found.to_json() == expected.to_json()


@pytest.mark.parametrize("by", ["input_shape", "data"])
def test_a_model_is_inspected_with_the_shape_that_is_given_or_that_of_the_images(disk: Disk, by: str) -> None:
    flags = {"input_shape": "1,6,6"} if by == "input_shape" else {"data": disk.data}
    found = inspect_job(settings(model=disk.model, model_arg=["width=5"], freeze=["2"], **flags))
    expected = trace(load_model(disk.model, {"width": 5}), torch.rand(1, 1, 6, 6), freeze=("2",))
    assert found.to_json() == expected.to_json() and found.layers["0"].filters == 5


def test_a_shape_wins_over_the_images(disk: Disk) -> None:
    found = inspect_job(settings(model=disk.model, input_shape="1,6,6", data="npz:none.npz"))
    assert list(found.layers) == ["0", "2", "5"]


def test_weights_are_held_against_the_model_that_is_inspected(disk: Disk, tmp_path: Path) -> None:
    torch.save(load_model(disk.model, {"width": 4}).state_dict(), tmp_path / "other.pt")
    with pytest.raises(InputError, match="^weights: .*other.pt does not fit the model"):
        inspect_job(settings(model=disk.model, input_shape="1,6,6", weights=str(tmp_path / "other.pt")))


def test_a_model_without_a_shape_cannot_be_inspected(disk: Disk) -> None:
    with pytest.raises(
        InputError, match="^--input-shape: is missing; give .*, or --data, whose images have one$"
    ):
        inspect_job(settings(model=disk.model))


def test_a_frontier_is_made_of_sizes_without_training(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[tuple[Any, Any, Any]] = []

    def noted(model: Any, data: Any, options: Any) -> str:
        given.append((model, data, options))
        return "frontier"

    monkeypatch.setattr(jobs, "frontier", noted)
    monkeypatch.chdir(tmp_path)
    named = settings(model=disk.model, data=disk.data, epochs=4, keep_macs=0.3, explain="saliency", seed=2)
    with pytest.warns(
        CausalPruneNote, match="`keep_macs` of the file is passed over: a frontier is made of the sizes"
    ):
        found, out = frontier_job(named, (0.5, 0.25), command="causal-prune frontier")
    assert (found, out) == ("frontier", Path("export/net-frontier"))
    ((_, data, options),) = given
    assert data.split["test"] == 12
    assert (options.keep, options.epochs, options.explain, options.keep_macs) == ((0.5, 0.25), 0, (), None)
    assert (
        options.in_force["epochs"] == 0
        and options.in_force["seed"] == 2
        and options.in_force["explain"] == []
    )
    own = settings(model=disk.model, data=disk.data, out="here", max_drop=0.05)
    assert frontier_job(own, (0.5,), command="")[1] == Path("here")
    assert given[1][2].max_drop == 0.05


def test_a_plan_counts_from_the_folder_of_the_start(disk: Disk, compressed: list[Given]) -> None:
    start = Path.cwd()
    run_job(settings(model=disk.model, data=disk.data, plan="plans/a.json"), command="")
    assert compressed[0][2].plan == start / "plans/a.json"
    assert compressed[0][2].in_force["plan"] == "plans/a.json"
