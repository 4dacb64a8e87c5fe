"""The examples that are quick enough to run."""

import importlib.util
import re
import runpy
from pathlib import Path

import pytest
import torch

from causal_prune.command_line.settings import load_settings
from causal_prune.sources.data import load_data
from causal_prune.sources.models import load_model
from causal_prune.sources.weights import load_weights
from causal_prune.tracing.network_trace import trace

EXAMPLES = Path(__file__).parents[2] / "examples"
CIFAR = f"{EXAMPLES}/cifar_resnet.py"


@pytest.mark.parametrize(("depth", "parameters"), [(20, 269_722), (56, 853_018)])
def test_cifar_resnets_have_the_published_sizes(depth: int, parameters: int) -> None:
    model = load_model(f"{CIFAR}:resnet{depth}")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(("name", "parameters"), [("vgg16_half", 3_684_842), ("mobilenet_v2_half", 587_178)])
def test_half_width_networks_read_cifar_and_can_be_pruned(name: str, parameters: int) -> None:
    model = load_model(f"{EXAMPLES}/cifar_vgg_mobilenet.py:{name}").eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert not [group for group in trace(model, torch.randn(2, 3, 32, 32)).groups[:-1] if group.frozen]


def test_option_a_shortcut_pads_channels_and_skips_pixels() -> None:
    model = load_model(f"{CIFAR}:resnet20", {"num_classes": 3})
    shortcut = model.get_submodule("layer2.0.shortcut")
    assert not list(shortcut.parameters())
    x = torch.randn(2, 16, 5, 4)
    expected = torch.zeros(2, 32, 3, 2)
    for channel in range(16):
        for row in range(3):
            for column in range(2):
                expected[:, 8 + channel, row, column] = x[:, channel, 2 * row, 2 * column]
    assert torch.equal(shortcut(x), expected)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_configuration_is_that_of_the_readme() -> None:
    settings = load_settings(EXAMPLES / "cifar10_resnet20.toml")
    assert settings.model == "examples/cifar_resnet.py:resnet20"
    assert settings.asked == ("keep_macs", 0.5)
    assert settings.epochs == 0
    assert settings.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("depth", [20, 56])
def test_public_weights_fit_and_classify(depth: int) -> None:
    shared = EXAMPLES.parents[1] / "shared"
    weights = shared / "models" / f"cifar10_resnet{depth}.safetensors"
    data = shared / "data" / "cifar10.npz"
    if not (weights.is_file() and data.is_file()):
        pytest.skip("the public weights and CIFAR-10 are not at ../shared")
    settings = load_settings(EXAMPLES / "cifar10_resnet20.toml")
    model = load_model(f"{CIFAR}:resnet{depth}")
    load_weights(model, weights)
    test = load_data(f"npz:{data}", mean=settings.mean, std=settings.std).test
    images, labels = zip(*(test[index] for index in range(500)), strict=True)
    with torch.no_grad():
        predictions = model.eval()(torch.stack(images)).argmax(dim=1)
    assert (predictions == torch.tensor(labels)).float().mean() > 0.88


def test_three_lines_change_for_people_who_use_torch_pruning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import torch_pruning_users

    torch_pruning_users.main(epochs=4)
    printed = re.findall(
        r"^(.*?) +([\d.]+) % of 359 test images, ([\d,]+) parameters$", capsys.readouterr().out, re.MULTILINE
    )
    right = {name: float(percent) for name, percent, _ in printed}
    sizes = {name: size for name, _, size in printed}
    assert list(right) == ["dense", "theirs", "theirs, batch norm re-estimated", "ours"]
    assert right["ours"] > right["theirs, batch norm re-estimated"] > right["theirs"]
    assert right["ours"] > right["dense"] - 5
    assert sizes["ours"] == sizes["theirs"] != sizes["dense"]


def test_a_compressed_network_goes_on_in_a_plain_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import plain_loop

    plain_loop.main(epochs=4)
    printed = capsys.readouterr().out
    dense, small, after = (float(share) for share in re.findall(r"0\.\d{3}|1\.000", printed))
    assert dense > 0.9 and small > 0.8 and after > 0.8


def test_without_lightning_the_example_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    import lightning_loop

    if importlib.util.find_spec("lightning") is None:
        lightning_loop.main()
        assert capsys.readouterr().out == "lightning is not installed: pip install lightning\n"
    else:
        lightning_loop.main(epochs=2)
        assert "after an epoch of Lightning" in capsys.readouterr().out


@pytest.mark.slow
def test_the_frontier_script_runs_from_cell_to_cell(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "frontier.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "size against accuracy and speed" in printed and "Take " in printed
