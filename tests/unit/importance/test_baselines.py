"""Taylor, geometric median and batch-norm scale against literal loops and against torch-pruning's own criteria."""

import copy

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace


@pytest.fixture
def plain() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(
            nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
            nn.Flatten(), nn.Linear(5 * 16, 3),
        )  # fmt: skip
        nn.init.normal_(net[1].weight)
        nn.init.normal_(net[4].weight)
        return net.eval(), torch.randn(20, 2, 8, 8), torch.randint(0, 3, (20,))


def ours(net: nn.Module, images: Tensor, labels: Tensor, method: str) -> dict[str, Tensor]:
    graph = trace(net, images[:1])
    halves = [(images[:13], labels[:13]), (images[13:], labels[13:])]
    moments = observe(net, graph, [images])
    return dict(score(graph, moments, method=method, model=net, labelled=halves).groups)


def theirs(net: nn.Module, images: Tensor, importance: object) -> dict[str, Tensor]:
    graph = tp.DependencyGraph().build_dependency(net, example_inputs=images[:1])
    found = {}
    for name in ("0", "3"):
        layer = net.get_submodule(name)
        group = graph.get_pruning_group(
            layer, tp.prune_conv_out_channels, idxs=list(range(layer.out_channels))
        )
        found[name] = importance(group)
    return found


@pytest.mark.parametrize("degree", [1, 2])
def test_magnitude_ranks_as_torch_pruning_does(plain, degree: int) -> None:
    net, images, labels = plain
    importance = tp.importance.MagnitudeImportance(p=degree, group_reduction="first", normalizer=None)
    expected = theirs(net, images, importance)
    found = ours(net, images, labels, "magnitude" if degree == 1 else "magnitude_l2")
    for name, values in expected.items():
        norms = values.double() ** (1 / degree)  # torch-pruning leaves the root out
        torch.testing.assert_close(found[name], norms / norms.mean(), rtol=1e-5, atol=0)


def test_l2_is_the_literal_norm(traced) -> None:
    scores = score(traced.graph, traced.moments, method="magnitude_l2")
    for name in ("stem", "a", "d", "hidden"):
        weight = traced.net.get_submodule(name).weight.detach()
        literal = [sum(value**2 for value in row.flatten().tolist()) ** 0.5 for row in weight]
        expected = [value * len(literal) / sum(literal) for value in literal]
        assert scores.layers[name].tolist() == pytest.approx(expected, rel=1e-6)


def test_taylor_is_torch_prunings_and_the_literal_sum(plain) -> None:
    net, images, labels = plain
    found = ours(net, images, labels, "taylor")
    graded = copy.deepcopy(net)
    F.cross_entropy(graded(images), labels).backward()
    importance = tp.importance.TaylorImportance(group_reduction="first", normalizer=None)
    expected = theirs(graded, images, importance)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.double(), rtol=1e-4, atol=1e-8)
        layer = graded.get_submodule(name)
        for filter_ in range(layer.out_channels):
            weights, slopes = (each[filter_].flatten().tolist() for each in (layer.weight, layer.weight.grad))
            literal = sum(abs(w * g) for w, g in zip(weights, slopes, strict=True))
            assert float(found[name][filter_]) == pytest.approx(literal, rel=1e-4, abs=1e-8)


def test_taylor_reads_computed_and_transposed_weights() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = nn.Sequential(
            nn.ConvTranspose2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Conv2d(5, 3, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        images, labels = torch.randn(9, 2, 4, 4), torch.randint(0, 3, (9,))
    graph = trace(net, images[:1])
    moments = observe(net, graph, [images])
    normed = copy.deepcopy(net)
    nn.utils.parametrizations.weight_norm(normed[2])  # the same function, its weight computed
    expected = score(graph, moments, method="taylor", model=net, labelled=[(images, labels)])
    found = score(graph, moments, method="taylor", model=normed, labelled=[(images, labels)])
    weight = net[0].weight.detach().clone().requires_grad_()
    hidden = F.relu(F.conv_transpose2d(images, weight, net[0].bias))
    (slope,) = torch.autograd.grad(F.cross_entropy(net[2:](hidden), labels), weight)
    literal = (weight * slope).abs().sum((0, 2, 3)).double().detach()
    torch.testing.assert_close(expected.groups["0"], literal, rtol=1e-4, atol=1e-9)
    for name, values in expected.groups.items():
        torch.testing.assert_close(found.groups[name], values, rtol=1e-4, atol=1e-9)


def test_taylor_scores_layers_that_are_not_trained(plain) -> None:
    net, images, labels = plain
    expected = ours(net, images, labels, "taylor")
    found = ours(net.requires_grad_(False), images, labels, "taylor")
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_geometric_median_is_the_literal_sum_of_distances(traced) -> None:
    scores = score(traced.graph, traced.moments, method="geometric_median")
    for name in ("stem", "a", "d", "hidden"):
        rows = traced.net.get_submodule(name).weight.detach().double().flatten(1).tolist()
        literal = [
            sum(sum((x - y) ** 2 for x, y in zip(row, other, strict=True)) ** 0.5 for other in rows)
            for row in rows
        ]
        expected = [value * len(literal) / sum(literal) for value in literal]
        assert scores.layers[name].tolist() == pytest.approx(expected, rel=1e-6)


def test_geometric_median_is_torch_prunings_where_weights_are_not_negative(plain) -> None:
    net, images, labels = plain
    with torch.no_grad():  # torch-pruning measures distances between |w|^p
        net[0].weight.abs_()
        net[3].weight.abs_()
    expected = theirs(net, images, tp.importance.FPGMImportance(p=1, group_reduction="first"))
    found = ours(net, images, labels, "geometric_median")
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values.double(), rtol=1e-4, atol=0)


def test_equal_filters_are_no_distance_apart() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        net[0].weight.fill_(0.3)
    images = torch.rand(2, 1, 2, 2)
    graph = trace(net, images[:1])
    scores = score(graph, observe(net, graph, [images]), method="geometric_median")
    assert scores.groups["0"].tolist() == [0, 0, 0]


def test_batchnorm_scale_is_torch_prunings(plain) -> None:
    net, images, labels = plain
    expected = theirs(net, images, tp.importance.BNScaleImportance(normalizer=None))
    found = ours(net, images, labels, "batchnorm_scale")
    for name, norm in (("0", net[1]), ("3", net[4])):
        torch.testing.assert_close(found[name], expected[name].double(), rtol=1e-6, atol=0)
        assert found[name].tolist() == pytest.approx([abs(value) for value in norm.weight.tolist()])


def test_a_group_without_batch_norm_is_multiplied_by_one(traced) -> None:
    scores = score(traced.graph, traced.moments, method="batchnorm_scale", model=traced.net)
    assert scores.groups["a"].tolist() == [1] * 5
    assert scores.groups["stem"].tolist() == pytest.approx(traced.net.norm.weight.abs().tolist())


def test_a_network_without_batch_norm_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1))
    graph = trace(net, torch.zeros(1, 1, 2, 2))
    moments = observe(net, graph, [torch.rand(2, 1, 2, 2)])
    with pytest.raises(
        InputError, match="'batchnorm_scale' reads the scales of batch norms, and no group has"
    ):
        score(graph, moments, method="batchnorm_scale", model=net)


@pytest.mark.parametrize("method", ["magnitude", "magnitude_l2", "taylor", "batchnorm_scale"])
def test_a_dead_filter_scores_zero(plain, method: str) -> None:
    net, images, labels = plain
    with torch.no_grad():
        net[0].weight[2] = net[0].bias[2] = net[1].weight[2] = 0
    found = ours(net, images, labels, method)["0"]
    assert found[2] == 0 and int((found == 0).sum()) == 1
