"""What `model` may name."""

import sys
import types
from pathlib import Path

import pytest
from torch import nn

from causal_prune.errors import InputError
from causal_prune.sources.models import load_model

MODULE = """
from torch import nn

def net(width=3, bias=True, name="x", nothing=1):
    layer = nn.Linear(width, 2, bias=bias)
    layer.seen = (width, bias, name, nothing)
    return layer

def words():
    return {"a": 1}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine_for_sources.py"
    path.write_text(MODULE)
    return path


def test_torchvision_without_weights_and_with_arguments() -> None:
    model = load_model("torchvision:resnet18", {"num_classes": 7})
    assert model.get_submodule("fc").out_features == 7


@pytest.mark.parametrize("loaded", [{"weights": "DEFAULT"}, {"pretrained": "True"}])
def test_arguments_that_would_download_are_refused(loaded: dict[str, object]) -> None:
    name = next(iter(loaded))
    with pytest.raises(InputError, match=f"^model_arg: {name}: nothing is downloaded; use `weights` FILE$"):
        load_model("torchvision:resnet18", loaded)


def test_unknown_torchvision_name_suggests_the_nearest() -> None:
    with pytest.raises(InputError, match="no classifier 'resnet19'; did you mean 'resnet1(8|01)'"):
        load_model("torchvision:resnet19")


def test_segmentation_networks_are_no_classifiers() -> None:
    with pytest.raises(InputError, match="torchvision has no classifier 'fcn_resnet50'"):
        load_model("torchvision:fcn_resnet50")


def test_wrong_argument_of_torchvision() -> None:
    with pytest.raises(
        InputError, match="torchvision:resnet18 raised TypeError: .*'wide'.*; see `model_arg`"
    ):
        load_model("torchvision:resnet18", {"wide": "2"})


def test_timm_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        InputError, match="^model: timm:resnet18 needs the package timm; run: pip install timm$"
    ):
        load_model("timm:resnet18")


def test_timm_present(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = types.ModuleType("timm")
    calls: list[tuple[str, bool, int]] = []

    def create_model(name: str, pretrained: bool, num_classes: int) -> nn.Module:
        calls.append((name, pretrained, num_classes))
        return nn.Linear(2, num_classes)

    timm.list_models = lambda: ["tinynet_a", "resnet18"]  # type: ignore[attr-defined]
    timm.create_model = create_model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", timm)
    assert isinstance(load_model("timm:resnet18", {"num_classes": 4}), nn.Linear)
    assert calls == [("resnet18", False, 4)]
    with pytest.raises(InputError, match="timm has no model 'tinynet_b'; did you mean 'tinynet_a'"):
        load_model("timm:tinynet_b")
    with pytest.raises(InputError, match="timm:resnet18 raised TypeError: .*'depth'.*; see `model_arg`"):
        load_model("timm:resnet18", {"depth": 1})


def test_factory_of_a_file_gets_its_arguments_as_they_are(file: Path) -> None:
    arguments = {"width": 5, "bias": False, "name": "10", "nothing": {"a": [1, None]}}
    model = load_model(f"{file}:net", arguments)
    assert vars(model)["seen"] == (5, False, "10", {"a": [1, None]})


def test_values_of_a_table_and_lists_stay(file: Path) -> None:
    model = load_model(f"{file}:net", {"width": 4, "name": "[1, 2]"})
    assert vars(model)["seen"] == (4, True, "[1, 2]", 1)


def test_what_is_no_network_is_refused(file: Path) -> None:
    with pytest.raises(InputError, match="^model: .*:words returned a dict, not a torch.nn.Module$"):
        load_model(f"{file}:words")


def test_trouble_with_a_factory_is_told_as_trouble_with_the_model(file: Path) -> None:
    with pytest.raises(
        InputError, match=r"^model: .*mine_for_sources\.py has no 'nett'; did you mean 'net'\?$"
    ):
        load_model(f"{file}:nett")


@pytest.mark.parametrize("spec", ["digits", "resnet18", ""])
def test_unknown_form(spec: str) -> None:
    with pytest.raises(InputError, match=f"^model: '{spec}' is not one of torchvision:NAME, timm:NAME, path"):
        load_model(spec)
