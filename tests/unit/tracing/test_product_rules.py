"""Products of activations with parameters of the user's own, and of two activations."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import causal_prune as cp
from causal_prune.tracing.product_rules import ATTENTION


class Net(nn.Module):
    """A convolution, something in between, a linear layer over what is left."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.stem, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.matrix = nn.Parameter(torch.randn(8, 6) / 3)
        self.mixing = nn.Parameter(torch.randn(36, 36) / 6)
        self.kernel = nn.Parameter(torch.randn(6, 8, 3, 3) / 9)
        self.register_buffer("fixed", torch.randn(8, 6))
        self.head = nn.LazyLinear(5)

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.stem(x).relu(), self.other(x).relu()
        rows = y.flatten(2)
        match self.how:
            case "read":
                y = y.mean((2, 3)) @ self.matrix
            case "buffer":
                y = y.mean((2, 3)) @ self.fixed
            case "made":
                y = y.mean((2, 3)) @ (self.matrix * 2)
            case "beside":
                y = (rows @ self.mixing).mean(2)
            case "beside, from the left":
                y = torch.matmul(self.mixing, rows.transpose(1, 2)).mean(1)
            case "attention":
                y = (rows @ z.flatten(2).transpose(1, 2)).flatten(1)
            case "values":
                weights = (x.flatten(2).transpose(1, 2) @ x.flatten(2))[:, :36, :36].softmax(-1)
                y = (weights @ rows.transpose(1, 2)).mean(1)
            case "convolution":
                y = F.conv2d(y, self.kernel).mean((2, 3))
            case _:
                y = F.conv2d(y, self.kernel * 2).mean((2, 3))
        return self.head(y)


CASES = {
    "read": ({"matrix"}, ""), "buffer": (set(), ""), "made": ({"matrix"}, ""), "beside": (set(), ""),
    "beside, from the left": (set(), ""), "values": (set(), ""), "convolution": ({"kernel"}, ""),
    "attention": (set(), ATTENTION), "computed": ({"kernel"}, ""),
}  # fmt: skip


@pytest.mark.parametrize("how", CASES)
def test_channels_are_followed_through_products(how: str) -> None:
    parameters, reason = CASES[how]
    net, x = Net(how).eval(), torch.randn(2, 3, 8, 8)
    net(x)
    graph = cp.trace(net, x)
    if reason:
        assert graph.frozen["stem"].startswith(reason)
        return
    assert "stem" not in graph.frozen
    small = cp.remove(net, cp.PruningPlan(None, {}, graph.cuts({g.name: range(3) for g in graph.prunable})))  # type: ignore[arg-type]
    assert small.stem.out_channels == 3 and small(x).shape == (2, 5)
    cut = {
        name
        for name, p in small.named_parameters()
        if "." not in name and p.shape != net.get_parameter(name).shape
    }
    assert cut == parameters


def test_what_a_product_costs_shrinks_with_the_channels_that_it_reads() -> None:
    net, x = Net("read").eval(), torch.randn(1, 3, 8, 8)
    net(x)
    graph = cp.trace(net, x)
    assert graph.others["matrix"].macs == 48 and graph.others["matrix"].params == 48
