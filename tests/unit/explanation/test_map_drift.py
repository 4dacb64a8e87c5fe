"""Drift between two networks' maps: against scipy, on maps that are made, and on a network with a shortcut."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation.map_drift import (
    MAPPED,
    between,
    compared,
    drift,
    mapped,
    mapped_anew,
    randomised,
)
from causal_prune.importance.scores import FilterScores
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.removal import remove
from causal_prune.tracing.network_trace import trace
from tests.unit.drawn_weights import drawn


def maps(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 50))


def test_spearman_is_scipys_and_equal_maps_have_not_drifted() -> None:
    first, second = maps(6, 0), maps(6, 1)
    second[:, :10] = first[:, :10]
    first[0, :20] = 0.0  # ties
    found = compared("made", first, second, np.ones(6, dtype=bool))
    for k in range(6):
        assert found.spearman[k] == pytest.approx(spearmanr(first[k], second[k]).statistic)
    same = compared("made", first, first * 3 + 1, np.ones(6, dtype=bool))
    assert same.spearman == pytest.approx(np.ones(6))
    assert same.iou.tolist() == [1.0] * 6
    assert same.pointing.all()


def test_the_largest_fifths_are_compared_place_by_place() -> None:
    first, second = np.zeros((2, 10)), np.zeros((2, 10))
    first[0, [1, 2]], second[0, [2, 3]] = (3.0, 2.0), (3.0, 2.0)
    first[1, 4], second[1, [4, 7]] = 1.0, (0.5, 0.6)
    found = compared("made", first, second, np.ones(2, dtype=bool))
    assert found.iou.tolist() == pytest.approx([1 / 3, 1 / 2])
    assert found.pointing.tolist() == [False, False]
    second[1, 4] = 0.7
    assert compared("made", first, second, np.ones(2, dtype=bool)).pointing.tolist() == [False, True]


def test_constant_maps_and_disagreements_are_counted_apart() -> None:
    first, second = maps(5, 0), maps(5, 1)
    first[1] = 2.0
    second[2] = 0.0
    alike = np.array([True, True, True, False, True])
    found = compared("made", first, second, alike)
    told = found.summary()
    assert (told["images"], told["constant"], told["disagreeing"]) == (5, 2, 1)
    assert told["spearman"] == pytest.approx(found.spearman[[0, 4]].mean())
    assert told["spearman_disagreeing"] == pytest.approx(found.spearman[3])
    assert np.isnan(found.spearman[1]) and np.isnan(found.iou[2])
    nothing = compared("made", first * 0, second, alike).summary()
    assert nothing["spearman"] is None and nothing["iou"] is None and nothing["constant"] == 5


class Shortcut(nn.Module):
    """One filter sees a red patch, one sees brightness; the class is decided by either."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.through, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.copy_(torch.tensor([-0.5, -0.2]))
            self.conv.weight[0, 0], self.conv.weight[0, 1:] = 1 / 9, -1 / 18
            self.conv.weight[1] = 1 / 27
            self.head.weight.copy_(torch.tensor([[0.0, 0.0], [40.0, 1.0]]))
            self.head.bias.copy_(torch.tensor([0.05, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.through(self.conv(x)).mean(dim=(2, 3)))


@pytest.mark.parametrize("method", ["grad_cam", "cam", "integrated_gradients"])
def test_a_network_without_its_detector_has_drifted(method: str) -> None:
    images = 0.35 + 0.15 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[:, :, 4:9, 5:10] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    dense, blind = Shortcut(), Shortcut()
    with torch.no_grad():
        blind.conv.weight[0], blind.conv.bias[0] = 0, 0
    same, gone = (drift(dense, other, images, method=method).summary() for other in (dense, blind))
    assert same["spearman"] == pytest.approx(1) and same["iou"] == 1 and same["pointing"] == 1
    assert gone["disagreeing"] == 0, "it still says the same"
    assert gone["iou"] < 0.5 and gone["spearman"] < 0.8, gone


def test_a_network_whose_detector_was_pruned_has_drifted() -> None:
    images = 0.35 + 0.15 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[:, :, 4:9, 5:10] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    dense = Shortcut()
    graph = trace(dense, images[:2])
    (group,) = graph.prunable
    small = {}
    for gone in range(2):
        scores = FilterScores("chosen", "", {group.name: torch.tensor([float(gone), 1.0 - gone])}, {})
        small[gone] = remove(dense, plan(graph, scores, remove_filters=0.5))
        assert small[gone].conv.weight.shape[0] == 1
    found = {gone: drift(dense, net, images, method="grad_cam").summary() for gone, net in small.items()}
    without_detector, without_the_other = found[0], found[1]
    assert without_detector["pointing"] == 0 and without_the_other["pointing"] == 1, found
    assert without_detector["iou"] < 0.5 and without_detector["spearman"] < 0.8, found


def test_the_floor_is_a_network_that_has_learned_nothing() -> None:
    net = drawn(Shortcut())
    before = {key: value.clone() for key, value in net.state_dict().items()}
    other = randomised(net, 1)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    for name, value in other.named_parameters():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values)
    assert not torch.equal(other.conv.weight, net.conv.weight)
    assert torch.equal(randomised(net, 1).conv.weight, other.conv.weight)


@pytest.mark.parametrize("method", MAPPED)
def test_every_method_that_gives_maps_can_be_compared(method: str) -> None:
    net, images = Shortcut(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {"samples": 2} if "smooth" in method else {}
    found = drift(net, net, images, method=method, **options)
    assert found.spearman[~found.constant] == pytest.approx(np.ones(int((~found.constant).sum())), abs=1e-6)
    assert found.alike.all()


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(InputError, match="drift: method 'activation_maximisation' is not one of saliency, "):
        drift(Shortcut(), Shortcut(), torch.rand(1, 3, 8, 8), method="activation_maximisation")
    with pytest.raises(InputError, match="drift: there are no images"):
        drift(Shortcut(), Shortcut(), torch.rand(0, 3, 8, 8))


def test_both_networks_explain_what_the_dense_one_predicts() -> None:
    images = 0.35 + 0.15 * torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[:, :, 4:9, 5:10] = torch.tensor([1.0, 0.0, 0.0])[:, None, None]
    dense, swapped = Shortcut(), Shortcut()
    with torch.no_grad():
        swapped.head.weight.copy_(dense.head.weight.flip(0))
        swapped.head.bias.copy_(dense.head.bias.flip(0))
    found = drift(dense, swapped, images, method="cam")
    assert not found.alike.any()
    assert found.constant.all(), (
        "of the class that it predicts itself its maps are those of the dense network"
    )
    assert not drift(dense, swapped, images, [0, 0, 1], method="cam").alike.any()


def test_maps_drawn_again_have_another_seed_or_images_with_a_little_noise() -> None:
    net, images = Shortcut(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    before = images.clone()
    once = mapped(net, images, method="smooth_grad")
    again = mapped_anew(net, images, method="smooth_grad")
    by_hand = MAPPED["smooth_grad"](net, images, seed=1).double().numpy()
    assert not np.array_equal(once.maps, again.maps)
    np.testing.assert_allclose(again.maps, by_hand, rtol=1e-6)
    spread = 0.01 * (images.flatten(1).amax(1) - images.flatten(1).amin(1))[:, None, None, None]
    noisy = images + spread * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    expected = MAPPED["grad_cam"](net, noisy, net(images).argmax(1)).double().numpy()
    found = mapped_anew(net, images, method="grad_cam")
    np.testing.assert_allclose(found.maps, expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(images, before)
    np.testing.assert_array_equal(found.maps, mapped_anew(net, images, method="grad_cam").maps)
    with pytest.raises(InputError, match="drift: method 'lime' is not one of"):
        mapped_anew(net, images, method="lime")


def test_statistics_of_a_layer_come_from_calibration_images_where_a_method_learns_some() -> None:
    net, images = Shortcut(), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    others = [torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))]
    own, learned = (
        mapped(net, images, method="information_bottleneck", calibration=given) for given in (None, others)
    )
    assert not np.allclose(own.maps, learned.maps)
    plain, ignored = (mapped(net, images, method="saliency", calibration=given) for given in (None, others))
    np.testing.assert_array_equal(plain.maps, ignored.maps)


def test_maps_of_other_images_classes_or_methods_are_not_compared() -> None:
    net, images = Shortcut(), torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first = mapped(net, images, 0, method="grad_cam")
    for other in (
        mapped(net, images, 1, method="grad_cam"),
        mapped(net, images, 0, method="saliency"),
        mapped(net, images[:3], 0, method="grad_cam"),
    ):
        with pytest.raises(InputError, match="drift: maps of one method, of the same images and classes"):
            between(first, other)
    same = mapped(net, images, 1, method="grad_cam")
    assert between(same, same).iou.tolist() == [1.0] * 4


def test_a_map_of_one_place_that_was_enlarged_is_constant_and_so_is_one_that_is_not_finite() -> None:
    class OnePlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3, stride=8, padding=1), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.conv(x)).mean(dim=(2, 3)))

    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = drift(drawn(OnePlace()), drawn(OnePlace(), seed=1), images, method="grad_cam")
    assert found.constant.all() and found.summary()["spearman"] is None
    broken = np.ones((2, 4)) * np.arange(4)
    broken[1, 2] = np.nan
    told = compared("made", broken, np.ones((2, 4)) * np.arange(4), np.ones(2, dtype=bool))
    assert told.constant.tolist() == [False, True]


def test_the_floor_of_a_deep_network_has_numbers_of_the_same_size() -> None:
    layers = [m for _ in range(12) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    net = nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    net = drawn(net).train()
    images = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    net(images)
    other = randomised(net.eval(), 0, images=images)
    assert not other.training and other[2].momentum == net[2].momentum
    assert float(other(images).detach().abs().max()) < 50
    assert not torch.equal(other[2].running_var, net[2].running_var)


def test_a_stream_of_calibration_images_serves_both_networks() -> None:
    net, images = Shortcut(), torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    stream = (torch.rand(10, 3, 8, 8) for _ in range(2))
    found = drift(net, net, images, method="information_bottleneck", calibration=stream)
    assert (found.iou[~found.constant] == 1).all()
