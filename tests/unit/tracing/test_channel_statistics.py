"""Statistics over channels are held where they were found, and nowhere else."""

import pytest
import torch
from torch import Tensor, nn

import causal_prune as cp
from causal_prune.tracing.channel_statistics import HELD_AT, Calls, StatisticsHeld


class Inner(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True) + x.mean(1, keepdim=True)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = nn.Conv2d(3, 6, 1), Inner(), Inner(), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(x))))


def test_calls_are_numbered_by_module_and_operation() -> None:
    calls, mean, total = Calls(), torch.ops.aten.mean.dim, torch.ops.aten.sum.dim_IntList
    found = [calls.next(*call) for call in (("a", mean), ("a", total), ("b", mean), ("a", mean))]
    assert [place[2] for place in found] == [0, 0, 0, 1]
    assert found[0][:2] == ("a", "aten::mean")


def test_they_are_found_and_marked_approximate() -> None:
    graph = cp.trace(Net().eval(), torch.randn(2, 3, 4, 4))
    assert graph.statistics == {("one", "aten::mean", 1), ("two", "aten::mean", 1)}
    assert graph.prunable[0].name == "stem" and graph.prunable[0].approximate


@pytest.mark.parametrize("places", [frozenset(), frozenset({("one", "aten::mean", 1)})])
def test_held_values_replace_those_of_the_places_alone(places: frozenset[tuple[str, str, int]]) -> None:
    net, x = Net().eval(), torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        y = net.stem(x)
        shift = torch.full((2, 1, 4, 4), HELD_AT) if places else y.mean(1, keepdim=True)
        first = y * y.mean((2, 3), keepdim=True) + shift
        expected = net.head(net.two(first))
        with StatisticsHeld(net, places):
            found = net(x)
    torch.testing.assert_close(found, expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
