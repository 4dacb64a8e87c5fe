"""Filters ranked by a class: signals that are planted, chance, and what cannot be ranked."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.explanation.class_ranking import pcace_ranking


class Planted(nn.Module):
    """Filter 2 alone decides class 1; filter 3 is constant; the others see what does not matter."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 1), nn.Linear(4, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.zero_()
            self.conv.weight[0, 0], self.conv.weight[1, 0], self.conv.weight[2, 1] = 1.0, -2.0, 1.0
            self.conv.bias[3] = 1.0
            self.head.weight.zero_()
            self.head.weight[1, 2] = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).mean(dim=(2, 3)))


def images(count: int = 60) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    levels = torch.randn(count, 2, 1, 1, generator=generator)
    return levels + 0.1 * torch.randn(count, 2, 5, 5, generator=generator)


def test_the_filter_that_decides_stands_first_and_above_chance() -> None:
    found = pcace_ranking(Planted(), images(), 1, "conv")
    assert found.order[0] == 2 and found.order[-1] == 3 and found.layer == "conv" and found.class_index == 1
    assert found.scores[2] > 0.98 and found.scores[3] == 0
    assert 0 < found.floor <= found.ceiling < found.scores[2]
    assert found.above_floor.argmax() == 2 and found.above_floor.min() == 0
    np.testing.assert_allclose(found.above_floor[2], found.scores[2] - found.floor)
    for loose in (0, 1):
        assert abs(found.scores[loose] - found.floor) < 0.2 < found.above_floor[2], "no more than chance"


def test_more_components_find_more_by_chance() -> None:
    few, many = (pcace_ranking(Planted(), images(), 1, "conv", components=k).floor for k in (1, 6))
    assert few < many


def test_the_seed_decides_and_nothing_else_changes() -> None:
    net, x = Planted().train(), images(40)
    state, before = torch.get_rng_state(), x.clone()
    one, other, again = (pcace_ranking(net, x, 1, "conv", seed=k) for k in (0, 1, 0))
    assert one.floor == again.floor != other.floor
    np.testing.assert_array_equal(one.scores, other.scores)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, before)
    assert net.training and not any(module._forward_hooks for module in net.modules())


def test_the_parts_in_which_images_run_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pcace_ranking(Planted(), images(), 1, "conv")
    monkeypatch.setattr("causal_prune.explanation.class_ranking.AT_ONCE", 7)
    np.testing.assert_allclose(pcace_ranking(Planted(), images(), 1, "conv").scores, whole.scores, atol=1e-9)


class Twice(Planted):
    """The convolution sees the images first, then something else of the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        first = torch.tanh(self.conv(x)).mean(dim=(2, 3))
        self.conv(torch.zeros_like(x))
        return self.head(first)


def test_of_a_layer_that_runs_again_the_first_call_counts() -> None:
    once, twice = (pcace_ranking(net, images(), 1, "conv") for net in (Planted(), Twice()))
    np.testing.assert_allclose(once.scores, twice.scores, atol=1e-6)


def test_a_class_whose_score_never_changes_ranks_nothing() -> None:
    found = pcace_ranking(Planted(), images(20), 0, "conv")
    assert found.scores.tolist() == [0, 0, 0, 0] and found.floor == found.ceiling == 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": images(9)}, "pcace_ranking: 9 images of the class are too few; give 10 or more"),
        ({"class_index": 2}, r"pcace_ranking: target 2 is outside 0..1"),
        ({"layer": "body"}, "pcace_ranking: there is no layer 'body' in the network"),
        ({"layer": "head"}, "pcace_ranking: layer 'head' returns no maps"),
        ({"components": 0}, "pcace_ranking: components is 0; at least 1 is needed"),
        ({"permutations": 0}, "pcace_ranking: permutations is 0; at least 1 is needed"),
    ],
)
def test_what_cannot_be_ranked_is_named(change: dict, match: str) -> None:
    with pytest.raises(InputError, match=match):
        pcace_ranking(
            **{"model": Planted(), "images": images(20), "class_index": 1, "layer": "conv", **change}
        )
