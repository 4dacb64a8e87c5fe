"""The information bottleneck against a literal fit: a blur by matrices, torch's divergence, Adam by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.intervention.bottleneck import InformationBottleneck, StreamingMeanStd, to_saliency_map
from tests.unit.drawn_weights import drawn


@pytest.fixture
def net() -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip
    drawn(network)
    return network


def drawn_images(height: int, width: int) -> Tensor:
    return torch.randn(40, 1, height, width, generator=torch.Generator().manual_seed(6)) + 0.2


@pytest.fixture
def images() -> Tensor:
    return drawn_images(6, 6)


def fitted(net: nn.Module, images: Tensor, **options: Any) -> InformationBottleneck:
    """A bottleneck at the first layer that knows what passes there."""
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
    assert estimator.count == 40 and estimator.mean is not None
    np.testing.assert_allclose(estimator.mean.numpy(), x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(estimator.std, x.std(axis=0, ddof=1), rtol=1e-9, atol=1e-15)
    active = estimator.active()
    assert not active[0, 0, 0] and bool(active[0, 0, 1]) and int(active.sum()) == 35
    assert not estimator.active(39 / 40)[0, 0, 1], "not 0 in 39 of 40 images is no more than that share"


def test_an_estimator_that_has_seen_nothing_says_so_and_one_image_has_no_spread(images: Tensor) -> None:
    estimator = StreamingMeanStd()
    estimator.update(images[:0])
    assert estimator.count == 0 and estimator.mean is None
    text = "^the estimator has seen no images: call estimate first$"
    with pytest.raises(InputError, match=text):
        estimator.active()
    with pytest.raises(InputError, match=text):
        _ = estimator.std
    estimator.update(images[:1])
    assert not estimator.std.any()


def blur_matrix(size: int, sigma: float) -> Tensor:
    """Every row holds the weights of a Gaussian around one pixel; what falls over the border is mirrored there."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    radius = min(round(2 * sigma), size - 1)
    weights = (
        {k: math.exp(-(k**2) / (2 * sigma**2)) for k in range(-radius, radius + 1)} if sigma else {0: 1.0}
    )
    for pixel in range(size):
        for step, weight in weights.items():
            place = abs(pixel + step)
            place = 2 * (size - 1) - place if place >= size else place
            matrix[pixel, place] += weight / sum(weights.values())
    return matrix


def test_the_blur_of_the_oracle_is_scipys() -> None:
    share = torch.rand(7, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = blur_matrix(7, 1.0) @ share @ blur_matrix(9, 1.0).T
    np.testing.assert_allclose(
        found, gaussian_filter(share.numpy(), 1, mode="mirror", truncate=2), rtol=1e-12
    )


@pytest.mark.parametrize(("shape", "sigma"), [((6, 6), 1.0), ((6, 6), 0.0), ((5, 8), 0.6), ((3, 4), 1.0)])
def test_capacity_is_the_literal_fit(
    net: nn.Sequential, shape: tuple[int, int], sigma: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, copies, beta, rate = 4, 2, 3.0, 0.7
    net, images = net.double(), drawn_images(*shape).double()
    with torch.no_grad():
        seen, r = net[0](images), net[0](images[7:8])[0]
    draws = [
        torch.randn(2, *r.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
        for k in range(steps)
    ]
    bottleneck = fitted(net, images, steps=steps, copies=copies, beta=beta, sigma=sigma, lr=rate)
    left = iter(draws)
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: next(left))
    found = bottleneck.analyze(images[7:8], first_logit, mode="capacity")[0]
    monkeypatch.undo()

    m, s = seen.mean(0), seen.std(0).clamp_min(0.01)
    rows, columns = blur_matrix(r.shape[1], sigma), blur_matrix(r.shape[2], sigma)
    alpha = torch.full(r.shape, 5.0, dtype=torch.float64)
    first = second = torch.zeros_like(alpha)
    tail = net[1:]
    for step, draw in enumerate(draws, start=1):
        alpha = alpha.detach().requires_grad_()
        share = rows @ torch.sigmoid(alpha) @ columns.T
        passed = torch.distributions.Normal(share * (r - m) / s, 1 - share)
        capacity = torch.distributions.kl_divergence(passed, torch.distributions.Normal(0.0, 1.0))
        loss = beta * capacity.mean()
        for noise in draw:
            z = share * r + (1 - share) * (m + s * noise)
            loss = loss + first_logit(tail(z[None]))[0] / copies
        (slope,) = torch.autograd.grad(loss, alpha)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        change = (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        alpha = alpha.detach() - rate * change
    torch.testing.assert_close(found, capacity.detach(), rtol=1e-5, atol=1e-5)
    assert float(found.max()) > 0.05


def test_saliency_is_the_capacity_in_bits_at_the_size_of_the_image(net: nn.Module, images: Tensor) -> None:
    bottleneck = fitted(net, images)
    saliency = bottleneck.analyze(images[:3], first_logit)
    assert saliency.shape == (3, 6, 6)
    torch.testing.assert_close(saliency, to_saliency_map(bottleneck.capacity(), (6, 6)))


def test_a_saliency_map_sums_channels_and_interpolates_between_pixels() -> None:
    capacity = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    bits = capacity.sum(1) / math.log(2)
    torch.testing.assert_close(to_saliency_map(capacity), bits)
    torch.testing.assert_close(to_saliency_map(capacity[1]), bits[1])
    larger = to_saliency_map(capacity, (4, 4))
    torch.testing.assert_close(larger[:, 0, 0], bits[:, 0, 0])
    torch.testing.assert_close(larger[:, 0, 1], 0.75 * bits[:, 0, 0] + 0.25 * bits[:, 0, 1])
    torch.testing.assert_close(to_saliency_map(capacity[1], (4, 4)), larger[1])


@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_a_network_that_looks_at_one_corner_has_its_map_there(sigma: float) -> None:
    class Corner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 3, padding=1), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.conv(x))[:, :, :4, 8:].mean((2, 3)))

    network, images = Corner(), torch.rand(40, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(40) % 2
    images[:, 0, :4, 8:] += labels[:, None, None]
    with torch.no_grad():
        network.conv.weight.fill_(1 / 9)
        network.conv.bias.zero_()
        network.head.weight.copy_(torch.tensor([[-20.0], [20.0]]).expand(2, 3))
        network.head.bias.copy_(torch.tensor([60.0, -60.0]))
    bottleneck = InformationBottleneck(network, "conv", sigma=sigma)
    bottleneck.estimate([images])
    found = bottleneck.analyze(
        images[:4], lambda logits: F.cross_entropy(logits, labels[:4].repeat(10), reduction="none")
    )
    inside = found[:, :4, 8:].mean(dim=(1, 2))
    outside = found[:, 6:].mean(dim=(1, 2))
    # noise of the mean brightness is taken for a dark corner: only bright ones must pass
    assert (inside[labels[:4] == 1] > 100 * outside.max()).all(), (inside, outside)


def test_images_are_fitted_on_their_own(
    net: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    bottleneck = fitted(net, images, copies=1)
    monkeypatch.setattr(torch, "randn", lambda shape, **options: torch.full(tuple(shape), 0.1))
    together = bottleneck.analyze(images[:3], first_logit, mode="capacity")
    alone = [bottleneck.analyze(images[k : k + 1], first_logit, mode="capacity") for k in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=1e-4)


def test_the_noise_follows_the_seed_and_no_other_generator(net: nn.Module, images: Tensor) -> None:
    state = torch.get_rng_state()
    one, other, again = (fitted(net, images, seed=k).analyze(images[:2], first_logit) for k in (1, 2, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_large_beta_closes_the_bottleneck(net: nn.Module, images: Tensor) -> None:
    def dear(logits: Tensor) -> Tensor:
        return 1000 * first_logit(logits)

    small, large = (
        float(fitted(net, images, beta=beta, steps=20).analyze(images[:2], dear, mode="capacity").sum())
        for beta in (0.01, 1e6)
    )
    assert large < 0.1 * small


def test_a_constant_channel_carries_nothing_and_one_of_zeros_stays_at_zero(
    net: nn.Sequential, images: Tensor
) -> None:
    with torch.no_grad():
        for channel, shift in ((1, 0.0), (2, 0.7)):
            net.get_parameter("0.weight")[channel], net.get_parameter("0.bias")[channel] = 0, shift
    bottleneck = fitted(net, images)
    capacity = bottleneck.analyze(images[:4], first_logit, mode="capacity")
    assert not capacity[:, 1:3].any() and float(capacity[:, 0].max()) > 0 and float(capacity.min()) >= 0
    assert bottleneck.active_neurons().flatten(1).any(1).tolist() == [True, False, True, True]
    with bottleneck.restrict_flow():
        found = net[0](images[:4])
    assert not found[:, 1].any() and bool(found[:, 0].any())


def test_flow_is_restricted_inside_the_block(net: nn.Sequential, images: Tensor) -> None:
    bottleneck = fitted(net, images, beta=1000.0, steps=20)
    with pytest.raises(InputError, match="^restrict_flow: nothing was fitted yet; call analyze first$"):
        bottleneck.restrict_flow().__enter__()
    bottleneck.analyze(images[:2], first_logit)
    before = net(images[:2])
    with bottleneck.restrict_flow():
        assert not torch.allclose(net(images[:2]), before)
        assert net(images[:4]).shape == (4, 2), "both images twice"
        with pytest.raises(InputError, match="^restrict_flow: 3 images, but the bottleneck was fitted to 2$"):
            net(images[:3])
    assert torch.equal(net(images[:2]), before) and len(net[0]._forward_hooks) == 0


def test_execution_ends_behind_the_layer(net: nn.Sequential, images: Tensor) -> None:
    ran: list[int] = []
    net[2].register_forward_hook(lambda *_: ran.append(1))
    bottleneck = fitted(net, images)
    with bottleneck.interrupt_execution():
        net(images[:2])
        ran.append(2)
    assert ran == [], "nothing behind the layer ran, to estimate neither"
    net(images[:2])
    assert ran == [1]


def test_errors_inside_the_block_are_not_lost(net: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="channels"), InformationBottleneck(net, "0").interrupt_execution():
        net(torch.ones(1, 2, 6, 6))


@pytest.mark.parametrize("wrong", [lambda logits: logits.sum(), lambda logits: logits])
def test_a_loss_is_one_number_per_row(net: nn.Module, images: Tensor, wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^loss: returned \((10, 2)?\); it must return \(10,\)$"):
        fitted(net, images).analyze(images[:1], wrong)


def test_the_order_of_calls_is_enforced(net: nn.Module, images: Tensor) -> None:
    bottleneck = InformationBottleneck(net, "0")
    with pytest.raises(InputError, match="^analyze: mean and deviation are unknown; call estimate first$"):
        bottleneck.analyze(images[:1], first_logit)
    with pytest.raises(InputError, match="^capacity: nothing was fitted yet; call analyze first$"):
        bottleneck.capacity()
    with pytest.raises(InputError, match="^images: there are no images$"):
        bottleneck.estimate([])
    with pytest.raises(InputError, match="^layer: there is no module '9' in the model$"):
        InformationBottleneck(net, "9")
    with pytest.raises(InputError, match="^mode: 'map' is not 'saliency' or 'capacity'$"):
        bottleneck.analyze(images[:1], first_logit, mode="map")  # type: ignore[arg-type]  # the point


def test_the_network_is_left_as_it_was(net: nn.Module, images: Tensor) -> None:
    net.train()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    fitted(net, images).analyze(images[:1], first_logit)
    assert net.training and not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
