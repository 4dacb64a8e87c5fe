"""Weights times gradients, against literal sums and against torch-pruning's criterion."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn

from causal_prune.data.regression import regression_task
from causal_prune.errors import InputError
from causal_prune.importance.scores import FilterScores
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace
from tests.unit.importance.conftest import Plain


def scores(net: nn.Module, *batches: tuple[Tensor, Tensor], **given: object) -> FilterScores:
    graph = trace(net, batches[0][0][:1])
    moments = observe(net, graph, [images for images, _ in batches])
    return score(graph, moments, method="taylor", model=net, labelled=list(batches), **given)  # type: ignore[arg-type]


def test_scores_are_torch_prunings_and_the_literal_sums(plain: Plain) -> None:
    found = plain.scores("taylor")
    graded = replace(plain, net=copy.deepcopy(plain.net))
    F.cross_entropy(graded.net(plain.images), plain.labels).backward()
    importance = tp.importance.TaylorImportance(group_reduction="first", normalizer=None)
    expected = graded.of_torch_pruning(importance)
    for name, layer, _ in graded.convolutions:
        torch.testing.assert_close(found[name], expected[name].double(), rtol=1e-4, atol=1e-8)
        assert layer.weight.grad is not None
        for filter_ in range(layer.out_channels):
            weights, slopes = (each[filter_].flatten().tolist() for each in (layer.weight, layer.weight.grad))
            literal = sum(abs(w * g) for w, g in zip(weights, slopes, strict=True))
            assert float(found[name][filter_]) == pytest.approx(literal, rel=1e-4, abs=1e-8)


def test_computed_and_transposed_weights_are_read() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        first = nn.ConvTranspose2d(2, 4, 2)
        net = nn.Sequential(
            first, nn.ReLU(), nn.Conv2d(4, 5, 2), nn.ReLU(), nn.Conv2d(5, 3, 1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        images, labels = torch.randn(9, 2, 4, 4), torch.randint(0, 3, (9,))
    normed = copy.deepcopy(net)
    nn.utils.parametrizations.weight_norm(normed[2])  # the same function, its weight computed
    expected, found = (scores(each, (images, labels)).groups for each in (net, normed))
    weight = first.weight.detach().clone().requires_grad_()
    hidden = F.relu(F.conv_transpose2d(images, weight, first.bias))
    (slope,) = torch.autograd.grad(F.cross_entropy(net[2:](hidden), labels), weight)
    literal = (weight * slope).abs().sum((0, 2, 3)).double().detach()
    torch.testing.assert_close(expected["0"], literal, rtol=1e-4, atol=1e-9)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-9)


def test_layers_that_are_not_trained_are_scored_and_stay_so(plain: Plain) -> None:
    expected = plain.scores("taylor")
    plain.net.requires_grad_(False)
    found = plain.scores("taylor")
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    assert not any(parameter.requires_grad for parameter in plain.net.parameters())


def test_a_dead_filter_scores_zero(plain: Plain) -> None:
    with torch.no_grad():
        for name in ("0.weight", "0.bias", "1.weight"):
            plain.net.get_parameter(name)[2] = 0
    found = plain.scores("taylor")["0"]
    assert found[2] == 0 and int((found == 0).sum()) == 1


def test_the_loss_is_that_of_the_task() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 1)).eval()
        images, wanted = torch.randn(7, 1, 4, 4), torch.randn(7)
    task = regression_task("degrees")
    found = scores(net, (images, wanted), task=task)
    assert found.unit == f"change of the loss in {task.loss_unit}, to first order"
    weight = net.get_parameter("0.weight")
    (slope,) = torch.autograd.grad(task.losses(task.answers(net(images), "net", ""), wanted, "mean"), weight)
    literal = (weight * slope).abs().sum((1, 2, 3)).double().detach()
    torch.testing.assert_close(found.groups["0"], literal, rtol=1e-4, atol=1e-9)


def test_labels_that_are_no_classes_of_the_network_are_refused_with_their_batch(plain: Plain) -> None:
    right, wrong = (plain.images[:4], plain.labels[:4]), (plain.images[4:6], torch.tensor([0, 3]))
    message = "^label 3 in batch 2 is outside 0 to 2, the 3 classes of model 'dense'$"
    with pytest.raises(InputError, match=message):
        scores(plain.net, right, wrong)


def test_empty_batches_count_nothing(plain: Plain) -> None:
    whole, empty = (plain.images, plain.labels), (plain.images[:0], plain.labels[:0])
    expected, found = scores(plain.net, whole).groups, scores(plain.net, whole, empty).groups
    assert all(torch.equal(found[name], values) for name, values in expected.items())
    graph = trace(plain.net, plain.images[:1])
    moments = observe(plain.net, graph, [plain.images])
    with pytest.raises(InputError, match="^labelled: there are no images$"):
        score(graph, moments, method="taylor", model=plain.net, labelled=[empty])
