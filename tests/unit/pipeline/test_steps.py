"""The steps up to the cut: what arms share, what goes, the proof, and a place for the results."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from causal_prune.compensation.options import Repair
from causal_prune.data.data import Data
from causal_prune.errors import CausalPruneError, CausalPruneWarning, InputError, TargetError
from causal_prune.fine_tuning.options import Tuning
from causal_prune.pipeline import steps
from causal_prune.pipeline.options import Options
from causal_prune.pipeline.steps import choose, prove, recipe_of, workplace
from tests.unit.counted_images import Counted

# a few images do not determine patches, and `observe` says so
pytestmark = pytest.mark.filterwarnings("ignore::causal_prune.errors.CausalPruneWarning")


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def test_a_recipe_is_a_copy_in_eval_mode_with_the_parts_of_the_options(net: nn.Module, data: Data) -> None:
    net.train()
    options = Options(mode="zero", seed=4, epochs=2, lr=0.5, compensation="none", max_memory=10**9)
    recipe = recipe_of(net, data, options)
    assert recipe.dense is not net and not recipe.dense.training and net.training
    assert all(torch.equal(value, state(net)[name]) for name, value in recipe.dense.state_dict().items())
    assert recipe.data is data and (recipe.mode, recipe.seed, recipe.device) == ("zero", 4, "cpu")
    assert recipe.repair == Repair(compensation="none", max_memory=10**9)
    assert recipe.tuning == Tuning(epochs=2, lr=0.5)
    assert recipe.views == 1
    photographs = replace(data, harmless_views=True)
    assert recipe_of(net, photographs, options).views == 4, "images are few"
    assert (
        recipe_of(net, photographs, Options(views=2)).views
        == recipe_of(net, data, Options(views=2)).views
        == 2
    )


def test_the_example_is_two_calibration_images_even_where_there_is_one(net: nn.Module, data: Data) -> None:
    recipe = recipe_of(net, data, Options())
    assert isinstance(data.calibration, Counted)
    assert isinstance(recipe.example, Tensor) and torch.equal(recipe.example, data.calibration.images[:2])
    single = recipe_of(net, replace(data, calibration=Counted(1, 7)), Options()).example
    assert isinstance(single, Tensor) and torch.equal(single, Counted(1, 7).images.expand(2, -1, -1, -1))


@pytest.mark.parametrize(
    ("options", "kind", "requested"),
    [
        ({}, "keep_macs", 0.5),
        ({"keep_macs": 0.6}, "keep_macs", 0.6),
        ({"keep_params": 0.6}, "keep_params", 0.6),
        ({"remove_filters": 0.5}, "remove_filters", 0.5),
    ],
)
def test_the_plan_follows_the_target(
    net: nn.Module, data: Data, options: dict[str, Any], kind: str, requested: float
) -> None:
    before, given = state(net), Options(align=1, importance="magnitude", **options)
    chosen = choose(recipe_of(net, data, given), given)
    target, kept = chosen.plan.target, chosen.plan.kept_units
    assert (target.kind, target.requested) == (kind, requested)
    widths = len(kept["0"]), len(kept["3"])
    first, second, last = 18 * widths[0], 9 * widths[0] * widths[1], 12 * widths[1]
    achieved = {
        "keep_macs": (16 * first + 4 * second + last) / (16 * 18 * 6 + 4 * 9 * 48 + 12 * 8),
        "keep_params": (first + 3 * widths[0] + second + widths[1] + last + 3)
        / (108 + 18 + 432 + 8 + 96 + 3),
        "remove_filters": 1 - sum(widths) / 14,
    }[kind]
    assert target.achieved == pytest.approx(achieved)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_choice_rests_on_calibration_images_and_the_named_method(net: nn.Module, data: Data) -> None:
    options = Options(align=1, importance="magnitude")
    chosen = choose(recipe_of(net, data, options), options)
    assert chosen.scores.method == "magnitude" and chosen.moments.images == 20
    again = chosen.rescore(chosen.moments)
    assert all(torch.equal(values, chosen.scores.groups[name]) for name, values in again.groups.items())
    for part in (data.train, data.validation, data.test):
        assert isinstance(part, Counted) and not part.fetched


@pytest.mark.filterwarnings("default")
def test_a_network_that_knows_nothing_is_doubted_before_anything_else(
    net: nn.Module, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    nn.init.zeros_(net.get_parameter("6.weight"))
    data = replace(data, validation=Counted(60, 1))
    options = Options(align=1, importance="magnitude")
    with pytest.warns(
        CausalPruneWarning, match="^the dense network is right on .* of 60 validation images"
    ) as found:
        chosen = choose(recipe_of(net, data, options), options)
    assert chosen.doubts == (str(found[0].message),)
    assert isinstance(data.validation, Counted)
    assert data.validation.fetched == dict.fromkeys(range(60), 1), "the network is looked at, and no more"

    def none(*_: object, **__: object) -> None:
        raise ZeroDivisionError("traced")

    monkeypatch.setattr(steps, "trace", none)
    with (
        pytest.warns(CausalPruneWarning, match="^the dense"),
        pytest.raises(ZeroDivisionError, match="^traced$"),
    ):
        choose(recipe_of(net, data, options), options)


def test_methods_that_ask_for_the_loss_read_validation_images(net: nn.Module, data: Data) -> None:
    options = Options(align=1, importance="taylor")
    choose(recipe_of(net, data, options), options)
    assert isinstance(data.validation, Counted) and isinstance(data.test, Counted)
    assert set(data.validation.fetched) == set(range(10)) and not data.test.fetched


def test_what_is_frozen_stays(net: nn.Module, data: Data) -> None:
    options = Options(freeze=("0",), align=1, keep_params=0.7, importance="magnitude")
    chosen = choose(recipe_of(net, data, options), options)
    assert chosen.graph.frozen["0"] == "frozen by the caller"
    assert {name: len(units) for name, units in chosen.plan.kept_units.items()} == {"3": 5}
    assert chosen.plan.layers["3"].keep_inputs is None


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"keep_macs": 0.001}, TargetError, "^keep_macs=0.001 is out of reach"),
        ({"freeze": ("0", "3")}, TargetError, "^nothing can be pruned"),
        ({"freeze": ("nowhere",)}, InputError, "there is no module 'nowhere'"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(
    net: nn.Module, data: Data, options: dict[str, Any], kind: type[CausalPruneError], text: str
) -> None:
    given = Options(**options)
    with pytest.raises(kind, match=text):
        choose(recipe_of(net, data, given), given)


def test_the_proof_is_silent_on_a_cut_that_is_right_and_loud_on_one_that_is_not(
    net: nn.Module, data: Data
) -> None:
    options = Options(align=1, importance="magnitude", remove_filters=0.5)
    recipe = recipe_of(net, data, options)
    chosen = choose(recipe, options)
    prove(recipe, chosen)
    cuts = chosen.plan.cuts
    reader = cuts.layers["3"]
    assert reader.keep_inputs is not None
    others = tuple(k for k in range(6) if k not in reader.keep_inputs)[: len(reader.keep_inputs)]
    swapped = replace(cuts, layers={**cuts.layers, "3": replace(reader, keep_inputs=others)})
    wrong = replace(chosen, plan=replace(chosen.plan, cuts=swapped))
    text = r"^the whole cut is wrong although each group's was right \(a trial cut .+\); nothing was written$"
    with pytest.raises(CausalPruneError, match=text):
        prove(recipe, wrong)


def test_a_passing_workplace_leaves_nothing() -> None:
    with workplace(Options()) as folder:
        assert folder.is_dir() and not list(folder.iterdir())
        (folder / "report.json").write_text("{}")
    assert not folder.exists()


def test_a_bundle_comes_to_its_place_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "net"
    with workplace(Options(out=out)) as folder:
        (folder / "report.json").write_text("{}")
        assert not out.exists()
    assert sorted(path.name for path in out.iterdir()) == ["SHA256SUMS", "report.json"]
    assert not folder.exists() and list((tmp_path / "deep").iterdir()) == [out]


@pytest.mark.parametrize("asked", [True, False])
def test_an_error_leaves_nothing_behind(tmp_path: Path, asked: bool) -> None:
    places = []

    def fail() -> None:
        with workplace(Options(out=tmp_path / "net" if asked else None)) as folder:
            places.append(folder)
            raise ZeroDivisionError("now")

    with pytest.raises(ZeroDivisionError, match="^now$"):
        fail()
    assert not places[0].exists() and not list(tmp_path.iterdir())


def test_what_is_no_bundle_is_replaced_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="exists and is no bundle"):
        workplace(Options(out=tmp_path / "net")).__enter__()
    with workplace(Options(out=tmp_path / "net", force=True)) as folder:
        (folder / "report.json").write_text("{}")
    assert not (tmp_path / "net" / "thesis.txt").exists()
