"""Scales of batch norms, read off the layers and by torch-pruning's criterion."""

import pytest
import torch
import torch_pruning as tp
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace
from tests.unit.importance.conftest import Plain, Traced


def scores(net: nn.Module) -> dict[str, list[float]]:
    """By group; the network reads images of one channel."""
    images = torch.rand(2, 1, 2, 2)
    graph = trace(net.eval(), images[:1])
    found = score(graph, observe(net, graph, [images]), method="batchnorm_scale", model=net)
    return {name: values.tolist() for name, values in found.groups.items()}


def scaled(*scales: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(scales))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor(scales))
    return norm


def test_scores_are_torch_prunings_and_the_absolute_scales(plain: Plain) -> None:
    expected = plain.of_torch_pruning(tp.importance.BNScaleImportance(normalizer=None))
    found = plain.scores("batchnorm_scale")
    for name, _, norm in plain.convolutions:
        torch.testing.assert_close(found[name], expected[name].double(), rtol=1e-6, atol=0)
        assert found[name].tolist() == pytest.approx([abs(value) for value in norm.weight.tolist()])


def test_several_norms_of_a_unit_add_up() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 1), scaled(0.5, -2, 0), nn.ReLU(), scaled(1, 0.25, 0), nn.Conv2d(3, 2, 1)
    )
    assert scores(net) == {"0": [1.5, 2.25, 0.0]}


class Joined(nn.Module):
    """Two layers side by side under one batch norm, the second of them reached by its last channels."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1)
        self.norm, self.head = scaled(1, -2, 3, -4, 5), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.head(self.norm(torch.cat((self.left(x), self.right(x)), dim=1)))
        return joined


def test_a_norm_of_several_layers_gives_each_its_own_channels() -> None:
    assert scores(Joined()) == {"left": [1, 2], "right": [3, 4, 5]}


def test_a_group_without_batch_norm_is_multiplied_by_one(traced: Traced) -> None:
    found = score(traced.graph, traced.moments, method="batchnorm_scale", model=traced.net)
    assert found.groups["a"].tolist() == [1] * 5
    scale = traced.net.get_parameter("norm.weight")
    assert found.groups["stem"].tolist() == pytest.approx(scale.abs().tolist())


@pytest.mark.parametrize("between", [nn.ReLU(), nn.BatchNorm2d(3, affine=False)], ids=["none", "no scale"])
def test_a_network_without_scales_is_refused(between: nn.Module) -> None:
    message = (
        "^importance 'batchnorm_scale' reads the scales of batch norms, and no group has any: "
        "choose another importance$"
    )
    with pytest.raises(InputError, match=message):
        scores(nn.Sequential(nn.Conv2d(1, 3, 1), between, nn.Conv2d(3, 2, 1)))


def test_a_channel_that_is_multiplied_by_zero_scores_zero(plain: Plain) -> None:
    with torch.no_grad():
        plain.net.get_parameter("1.weight")[2] = 0
    found = plain.scores("batchnorm_scale")["0"]
    assert found[2] == 0 and int((found == 0).sum()) == 1
