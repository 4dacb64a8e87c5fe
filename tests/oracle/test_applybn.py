"""The documented score equals what applybn's CausalCNNExplainer computes, on the three nets of the oracle file."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.explanation.cnn_explainer import CausalCNNExplainer
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.tracing.network_trace import trace

FILE = Path(__file__).parents[2].parent / "shared" / "oracle" / "applybn.npz"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"the oracle values are not at {FILE}")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 10, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv3, self.bn3 = nn.Conv2d(12, 10, 3, padding=1, bias=False), nn.BatchNorm2d(10)
        self.fc = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn3(self.conv3(F.relu(self.bn2(self.conv2(x))))))
        return self.fc(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = nn.Sequential()
        if stride > 1:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, filters, 1, stride=stride, bias=False), nn.BatchNorm2d(filters)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.downsample(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(Block(8, 8, 1))
        self.layer2 = nn.Sequential(Block(8, 16, 2), Block(16, 16, 1))
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))).mean((2, 3)))


NETS: dict[str, Callable[[], nn.Module]] = {"plain": Plain, "bn": Normalised, "res": Residual}


@pytest.fixture(scope="module")
def values() -> dict[str, np.ndarray]:
    with np.load(FILE, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def rebuilt(values: dict[str, np.ndarray], name: str) -> tuple[nn.Module, Tensor, list[str]]:
    net = NETS[name]()
    prefix = f"{name}/sd/"
    state = {key.removeprefix(prefix): torch.tensor(v) for key, v in values.items() if key.startswith(prefix)}
    net.load_state_dict(state)
    return net.eval(), torch.tensor(values[f"{name}/x"]), values[f"{name}/layers"].tolist()


@pytest.mark.parametrize("name", NETS)
def test_the_nets_are_rebuilt_right(values: dict[str, np.ndarray], name: str) -> None:
    net, x, layers = rebuilt(values, name)
    with torch.no_grad():
        np.testing.assert_allclose(net(x), values[f"{name}/logits"], atol=1e-5)
    assert list(trace(net, x[:2]).chain) == layers


@pytest.mark.parametrize("name", NETS)
def test_importances_over_the_chain_are_the_originals(values: dict[str, np.ndarray], name: str) -> None:
    net, x, layers = rebuilt(values, name)
    graph = trace(net, x[:2])
    scores = score(graph, observe(net, graph, x.split(32)), method="documented", parents="chain")
    assert scores.layers.keys() == set(layers)
    for index, layer in enumerate(layers):
        expected = values[f"{name}/imp/{index}"]
        assert np.abs(scores.layers[layer].numpy() - expected).max() < 1e-6, layer


@pytest.mark.parametrize("name", NETS)
def test_moments_of_the_features_are_the_originals(values: dict[str, np.ndarray], name: str) -> None:
    net, x, layers = rebuilt(values, name)
    graph = trace(net, x[:2])
    moments = observe(net, graph, x.split(32))
    for index, layer in enumerate(layers):
        joint = moments.features[layer]
        assert joint.layers[-1] == layer
        assert index == 0 or layers[index - 1] in joint.layers
        features = np.concatenate(
            [values[f"{name}/F/{layers.index(each)}"] for each in joint.layers], axis=1
        ).astype(np.float64)
        np.testing.assert_allclose(joint.moments.mean, features.mean(axis=0), rtol=1e-5)
        covariance = np.cov(features.T, ddof=0)
        np.testing.assert_allclose(joint.moments.covariance, covariance, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NETS)
def test_the_smallest_scores_are_the_filters_that_the_original_zeroes(
    values: dict[str, np.ndarray], name: str
) -> None:
    net, x, layers = rebuilt(values, name)
    graph = trace(net, x[:2])
    moments: FilterMoments = observe(net, graph, x.split(32))
    scores = score(graph, moments, method="documented", parents="chain").layers
    for index, layer in enumerate(
        layers[:-1]
    ):  # the last layer is uniform: which filters go is a matter of ties
        for percent in (5, 10, 25, 50, 90):
            expected = values[f"{name}/zeroed/{percent}/{index}"]
            smallest = torch.argsort(scores[layer])[: len(expected)]
            assert sorted(smallest.tolist()) == sorted(expected.tolist()), (layer, percent)


PERCENTS = (5, 10, 25, 50, 90)


def taught(net: nn.Module, x: Tensor) -> CausalCNNExplainer:
    explainer = CausalCNNExplainer(net)
    explainer.collect_data(x.split(32))
    explainer.learn_structural_equations()
    return explainer


def silent(net: nn.Module, layer: str) -> list[int]:
    module = net.get_submodule(layer)
    dead = module.weight.flatten(1).eq(0).all(dim=1)
    if module.bias is not None:
        assert torch.equal(dead, dead & module.bias.eq(0))
    return dead.nonzero().flatten().tolist()


@pytest.mark.parametrize("name", NETS)
def test_the_explainer_reproduces_features_and_importances(values: dict[str, np.ndarray], name: str) -> None:
    net, x, layers = rebuilt(values, name)
    explainer = taught(net, x)
    assert [layer for layer, _ in explainer.conv_layers] == layers
    for index in range(len(layers)):
        np.testing.assert_allclose(explainer.filter_outputs[index], values[f"{name}/F/{index}"], rtol=1e-5)
        found = explainer.get_filter_importances()[index]
        assert np.abs(found - values[f"{name}/imp/{index}"]).max() < 1e-6
    explainer.learn_structural_equations()
    for index in range(len(layers)):
        again = explainer.get_filter_importances()[index]
        assert np.abs(again - values[f"{name}/imp_twice/{index}"]).max() < 1e-6


@pytest.mark.parametrize("name", NETS)
def test_a_second_set_starts_afresh_where_the_original_mixes(
    values: dict[str, np.ndarray], name: str
) -> None:
    net, x, layers = rebuilt(values, name)
    first, second = taught(net, x[:48]), taught(net, x[48:])
    both = taught(net, x[:48])
    both.collect_data([x[48:]])
    both.learn_structural_equations()
    for index in range(len(layers)):
        old, new = (each.get_filter_importances()[index] for each in (first, second))
        np.testing.assert_array_equal(both.get_filter_importances()[index], new)
        if index + 1 < len(layers):  # the last layer is uniform either way
            parent, child = (
                second.filter_outputs[k] - second.filter_outputs[k].mean(axis=0) for k in (index, index + 1)
            )
            raw = np.abs(np.linalg.lstsq(parent, child, rcond=None)[0]).sum(axis=1)
            np.testing.assert_allclose(raw / raw.sum(), new, atol=1e-9)
            mixed = (old + raw) / (1 + raw.sum())
            assert np.abs(mixed - values[f"{name}/imp_two_sets/{index}"]).max() < 1e-6


@pytest.mark.parametrize("percent", PERCENTS)
@pytest.mark.parametrize("name", NETS)
def test_the_explainer_zeroes_the_originals_filters(
    values: dict[str, np.ndarray], name: str, percent: int
) -> None:
    net, x, layers = rebuilt(values, name)
    labels = torch.tensor(values[f"{name}/y"])
    explainer = taught(net, x)
    pruned = explainer.prune_filters_by_importance(percent)
    for index, layer in enumerate(layers):
        assert silent(pruned, layer) == sorted(values[f"{name}/zeroed/{percent}/{index}"].tolist()), layer
    with torch.no_grad():
        np.testing.assert_allclose(pruned(x), values[f"{name}/logits_zeroed/{percent}"], atol=1e-5)
    batches = list(zip(x.split(32), labels.split(32), strict=True))
    assert explainer.evaluate_model(pruned, batches) == values[f"{name}/acc_zeroed/{percent}"]
    assert explainer.evaluate_model(net, batches) == values[f"{name}/acc"]


@pytest.mark.parametrize("name", NETS)
def test_the_explainer_draws_the_originals_random_filters(values: dict[str, np.ndarray], name: str) -> None:
    net, _, layers = rebuilt(values, name)
    explainer = CausalCNNExplainer(net)
    before = random.getstate()
    try:
        for percent in PERCENTS:
            random.seed(7)
            pruned = explainer.prune_random_filters(percent)
            for index, layer in enumerate(layers):
                expected = values[f"{name}/rand_zeroed/{percent}/{index}"]
                assert silent(pruned, layer) == sorted(expected.tolist()), (layer, percent)
    finally:
        random.setstate(before)


@pytest.mark.parametrize("name", NETS)
def test_heatmaps_are_the_originals(values: dict[str, np.ndarray], name: str) -> None:
    net, x, _ = rebuilt(values, name)
    explainer = taught(net, x)
    (drawn,) = explainer.heatmaps(x[0])
    np.testing.assert_allclose(drawn.raw, values[f"{name}/heat_raw"], atol=1e-6)
    np.testing.assert_allclose(drawn.heat, values[f"{name}/heat"], atol=1e-6)
    np.testing.assert_allclose(drawn.image, values[f"{name}/heat_img"], atol=1e-6)
    figure = explainer.visualize_heatmap_on_input(x[0])
    shown = [axes.images[0].get_array() for axes in figure.axes]
    np.testing.assert_allclose(shown[0], values[f"{name}/heat_img"], atol=1e-6)
    np.testing.assert_allclose(shown[1], values[f"{name}/heat"], atol=1e-6)


def test_every_array_of_the_file_is_read_by_these_tests(values: dict[str, np.ndarray]) -> None:
    read = set()
    for name, make in NETS.items():
        layers = range(len(values[f"{name}/layers"]))
        read |= {
            f"{name}/{key}" for key in ("x", "y", "layers", "logits", "acc", "heat", "heat_raw", "heat_img")
        }
        read |= {f"{name}/sd/{key}" for key in make().state_dict()}
        read |= {f"{name}/{key}/{k}" for key in ("F", "imp", "imp_twice", "imp_two_sets") for k in layers}
        for percent in PERCENTS:
            read |= {f"{name}/{key}/{percent}" for key in ("logits_zeroed", "acc_zeroed")}
            read |= {f"{name}/{key}/{percent}/{k}" for key in ("zeroed", "rand_zeroed") for k in layers}
    assert read == set(values)
