"""The information bottleneck against a literal fit: loops, scipy's blur, torch's divergence, Adam by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.importance.scoring import score
from causal_prune.intervention.bottleneck import (
    InformationBottleneck,
    StreamingMeanStd,
    _blurred,
    to_saliency_map,
)
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 9, 2)
        ).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(40, 1, 6, 6, generator=torch.Generator().manual_seed(6)) + 0.2


def fitted(net: nn.Module, images: Tensor, **options: object) -> InformationBottleneck:
    bottleneck = InformationBottleneck(net, "0", **options)
    bottleneck.estimate(images.split(16))
    return bottleneck


def first_logit(logits: Tensor) -> Tensor:
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64), reduction="none")


def test_the_streaming_estimator_is_numpy(images: Tensor) -> None:
    values = images * 1e-3 + 50
    values[:, 0, 0, 0] = 0
    values[3, 0, 0, 1] = 0
    estimator = StreamingMeanStd()
    for part in (values[:1], values[1:20], values[20:20], values[20:]):
        estimator.update(part)
    x = values.double().numpy()
    np.testing.assert_allclose(estimator.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(estimator.std, x.std(axis=0, ddof=1), rtol=1e-9, atol=1e-15)
    active = estimator.active()
    assert not active[0, 0, 0] and bool(active[0, 0, 1]) and int(active.sum()) == 35
    with pytest.raises(InputError, match="has seen no images: call estimate first"):
        StreamingMeanStd().active()


def test_the_blur_is_scipys() -> None:
    share = torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = gaussian_filter(share.numpy(), (0, 0, 1, 1), mode="mirror", truncate=2)
    np.testing.assert_allclose(_blurred(share, 1.0), expected, rtol=1e-12)
    np.testing.assert_allclose(_blurred(torch.full((1, 1, 1, 2), 0.3), 1.0), 0.3, rtol=1e-6)


def test_capacity_is_the_literal_fit(net: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, copies, beta = 4, 2, 3.0
    draws = [torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(steps)]
    bottleneck = fitted(net, images, steps=steps, copies=copies, beta=beta)
    left = iter(draws)
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: next(left))
    found = bottleneck.analyze(images[7:8], first_logit, mode="capacity")[0]
    monkeypatch.undo()

    with torch.no_grad():
        seen, r = net[0](images).double(), net[0](images[7:8])[0].double()
    m, s = seen.mean(0), seen.std(0).clamp_min(0.01)
    alpha, first, second = torch.full((4, 4, 4), 5.0, dtype=torch.float64), 0.0, 0.0
    tail = net[1:].double()
    for step, draw in enumerate(draws, start=1):
        alpha = alpha.detach().requires_grad_()
        share = _blurred(torch.sigmoid(alpha)[None], 1.0)[0]
        losses, capacities = [], []
        for copy in range(copies):
            z = share * r + (1 - share) * (m + s * draw[copy].double())
            losses.append(first_logit(tail(z[None]))[0])
            passed = torch.distributions.Normal(share * (r - m) / s, 1 - share)
            capacities.append(torch.distributions.kl_divergence(passed, torch.distributions.Normal(0.0, 1.0)))
        capacity = sum(capacities) / copies
        loss = sum(losses) / copies + beta * capacity.mean()
        (slope,) = torch.autograd.grad(loss, alpha)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        change = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        alpha = alpha.detach() - 1.0 * change
    np.testing.assert_allclose(found, capacity.detach(), rtol=1e-3, atol=1e-4)
    assert float(found.max()) > 0.05
    saliency = to_saliency_map(found[None], (6, 6))[0]
    bits = found.double().sum(0).numpy() / math.log(2)
    np.testing.assert_allclose(to_saliency_map(found), bits, rtol=1e-5)
    assert saliency.shape == (6, 6)
    assert bits.min() - 1e-4 <= float(saliency.min()) <= float(saliency.max()) <= bits.max() + 1e-4


def test_saliency_is_the_capacity_in_bits_at_the_size_of_the_image(net: nn.Module, images: Tensor) -> None:
    bottleneck = fitted(net, images)
    saliency = bottleneck.analyze(images[:3], first_logit)
    assert saliency.shape == (3, 6, 6)
    torch.testing.assert_close(saliency, to_saliency_map(bottleneck.capacity(), (6, 6)))
    with pytest.raises(InputError, match="mode: 'map' is not 'saliency' or 'capacity'"):
        bottleneck.analyze(images[:1], first_logit, mode="map")
    with pytest.raises(
        InputError, match=r"loss: returned .0., 0.|loss: returned \(\); it must return \(10,\)"
    ):
        bottleneck.analyze(images[:1], lambda logits: logits.sum())


def test_images_are_fitted_on_their_own(net: nn.Module, images: Tensor, monkeypatch) -> None:
    bottleneck = fitted(net, images, copies=1)
    monkeypatch.setattr(torch, "randn", lambda shape, **options: torch.full(tuple(shape), 0.1))
    together = bottleneck.analyze(images[:3], first_logit, mode="capacity")
    alone = [bottleneck.analyze(images[k : k + 1], first_logit, mode="capacity") for k in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)


def test_a_large_beta_closes_the_bottleneck(net: nn.Module, images: Tensor) -> None:
    small, large = (
        fitted(net, images, beta=beta, steps=20).analyze(images[:2], first_logit, mode="capacity").sum()
        for beta in (0.01, 1000.0)
    )
    assert float(large) < 0.1 * float(small)


def test_a_constant_channel_carries_nothing(net: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        net[0].weight[2], net[0].bias[2] = 0, 0.7
    capacity = fitted(net, images).analyze(images[:4], first_logit, mode="capacity")
    assert float(capacity[:, 2].abs().max()) == 0 and float(capacity[:, 1].max()) > 0


def test_flow_is_restricted_and_execution_interrupted_inside_the_blocks(
    net: nn.Module, images: Tensor
) -> None:
    bottleneck = fitted(net, images, beta=1000.0, steps=20)
    with pytest.raises(InputError, match="restrict_flow: nothing was fitted yet"), bottleneck.restrict_flow():
        pass
    bottleneck.analyze(images[:2], first_logit)
    before, ran = net(images[:2]), []
    net[2].register_forward_hook(lambda *_: ran.append(1))
    with bottleneck.restrict_flow():
        assert not torch.allclose(net(images[:2]), before)
        with pytest.raises(InputError, match="restrict_flow: 3 images, but the bottleneck was fitted to 2"):
            net(images[:3])
    assert torch.equal(net(images[:2]), before)
    ran.clear()
    with bottleneck.interrupt_execution():
        net(images[:2])
        ran.append(2)
    assert ran == []
    assert len(net[0]._forward_hooks) == 0
    assert bottleneck.active_neurons().shape == (4, 4, 4) and bool(bottleneck.active_neurons().all())


def test_the_order_of_calls_is_enforced(net: nn.Module, images: Tensor) -> None:
    bottleneck = InformationBottleneck(net, "0")
    with pytest.raises(InputError, match="call estimate first"):
        bottleneck.analyze(images[:1], first_logit)
    with pytest.raises(InputError, match="capacity: nothing was fitted yet; call analyze first"):
        bottleneck.capacity()
    with pytest.raises(InputError, match="images: there are no images"):
        bottleneck.estimate([])
    with pytest.raises(InputError, match="layer: there is no module '9' in the model"):
        InformationBottleneck(net, "9")


def test_the_network_is_left_as_it_was(net: nn.Module, images: Tensor) -> None:
    net.train()
    fitted(net, images).analyze(images[:1], first_logit)
    assert net.training and not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_a_filters_score_is_its_capacity_over_space_and_images(net: nn.Module, images: Tensor) -> None:
    labels = torch.arange(40) % 2
    graph = trace(net, images[:1])
    moments = observe(net, graph, [images])
    labelled = list(zip(images.split(15), labels.split(15), strict=True))
    found = score(graph, moments, method="iba", model=net, labelled=labelled, seed=3)
    chosen = torch.tensor([k * 40 // 32 for k in range(32)])
    bottleneck = InformationBottleneck(net, "2", beta=1.0, copies=2, seed=3)
    bottleneck.estimate(images.split(15))
    truth = labels[chosen].repeat(2)
    capacity = bottleneck.analyze(
        images[chosen], lambda logits: F.cross_entropy(logits, truth, reduction="none"), mode="capacity"
    )
    expected = [float(capacity[:, k].double().sum((1, 2)).mean()) for k in range(3)]
    assert found.groups["2"].tolist() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(InputError, match="the inputs are 2 tensors; importance 'iba' takes networks of one"):
        score(graph, moments, method="iba", model=net, labelled=[({"a": images, "b": images}, labels)])


def test_scores_follow_a_permutation_where_the_noise_does(
    net: nn.Module, images: Tensor, monkeypatch
) -> None:
    order, labels = torch.tensor([2, 0, 3, 1]), torch.arange(40) % 2
    other = nn.Sequential(nn.Conv2d(1, 4, 3), *[net[k] for k in range(1, 6)]).eval()
    other[2] = nn.Conv2d(4, 3, 2)
    with torch.no_grad():
        for label in ("weight", "bias"):
            getattr(other[0], label).copy_(getattr(net[0], label)[order])
        other[2].weight.copy_(net[2].weight[:, order])
        other[2].bias.copy_(net[2].bias)
    monkeypatch.setattr(torch, "randn", lambda shape, **options: torch.full(tuple(shape), 0.1))
    found = []
    for each in (net, other):
        graph = trace(each, images[:1], prove=False)
        moments = observe(each, graph, [images])
        found.append(score(graph, moments, method="iba", model=each, labelled=[(images, labels)]).groups["0"])
    torch.testing.assert_close(found[1], found[0][order], rtol=1e-3, atol=1e-4)
