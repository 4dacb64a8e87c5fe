"""Which state an output joins, on networks of every shape of join, against a literal computation."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace


def normalise(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    return net.eval()


class Base(nn.Module):
    """conv `a` is read by `b`; what becomes of the output of `b` differs from net to net."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.norm, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.side = nn.Conv2d(2, 4, 1)
        self.flat = nn.Parameter(torch.tensor([0.5, 2.0, -1.0, 3.0]))
        self.scale = nn.Parameter(self.flat.detach().reshape(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.b(F.relu(self.a(x)))
        return self.c(self.join(x, y))

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError


def gain(norm: nn.BatchNorm2d) -> Tensor:
    return (norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()).detach()


class Plain(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        self.state, self.gain = y, lambda: torch.ones(4)
        return F.relu(y)


class InPlace(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        self.state, self.gain = y.clone(), lambda: torch.ones(4)
        return F.relu_(y)


class Normalised(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        self.state, self.gain = self.norm(y), lambda: gain(self.norm)
        return F.relu(self.state)


class Residual(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        y, self.gain = self.norm(y), lambda: gain(self.norm)
        y += self.other(self.side(x))
        self.state = y.clone()
        return F.relu(y)


class ThreeTerms(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        self.gain = lambda: gain(self.norm)
        self.state = F.relu(x).mean(1, keepdim=True).expand(-1, 4, -1, -1) + (self.norm(y) + self.side(x))
        return F.relu(self.state)


class PreActivation(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        stream = self.side(x) + y
        self.state, self.gain = self.other(stream), lambda: gain(self.other)
        return stream + F.relu(self.state)  # what is added later does not count


class Scaled(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        self.state, self.gain = (
            self.side(x) - 0.5 * (self.scale * y),
            lambda: 0.5 * self.scale.detach().flatten(),
        )
        return torch.tanh(self.state)


class Moved(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        moved = y.permute(0, 2, 3, 1) * self.flat
        self.gain, self.state = self.flat.detach, moved.permute(0, 3, 1, 2)
        return F.relu(self.state)


class Gated(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        self.state, self.gain = self.norm(y), lambda: gain(self.norm)
        return self.state * torch.sigmoid(self.state.mean((2, 3), keepdim=True))


class Concatenated(Base):
    def join(self, x: Tensor, y: Tensor) -> Tensor:
        self.state, self.gain = y, lambda: torch.ones(4)
        both = torch.cat((y, self.side(x)), dim=1)
        return F.relu(both[:, :4] + both[:, 4:])


NETS: list[Callable[[], Base]] = [
    Plain, InPlace, Normalised, Residual, ThreeTerms, PreActivation, Scaled, Moved, Gated, Concatenated
]  # fmt: skip


@pytest.mark.parametrize("make", NETS)
def test_the_state_is_what_is_read_next(make: Callable[[], Base]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = normalise(make())
        images = torch.randn(40, 2, 4, 4) + torch.linspace(-1, 1, 40).reshape(-1, 1, 1, 1)
    moments = observe(net, trace(net, images[:1]), images.split(17))
    with torch.no_grad():
        net(images)
        expected = net.state.double().movedim(1, 0).flatten(1).var(dim=1, correction=0)
    found = moments.states["b"]
    torch.testing.assert_close(found.gain.abs(), net.gain().double().abs(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.variance, expected, rtol=1e-5, atol=1e-9)


def test_an_output_of_the_network_is_its_own_state_and_a_shared_layer_joins_many() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.shared, self.head = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            first = self.shared(F.relu(self.a(x)))
            second = self.shared(F.relu(first))
            self.states = (first, second)
            self.out = self.head(F.relu(second).mean((2, 3)))
            return self.out

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net, images = Net().eval(), torch.randn(40, 2, 4, 4)
    moments = observe(net, trace(net, images[:1]), [images])
    with torch.no_grad():
        net(images)
    own = net.out.double().var(dim=0, correction=0)
    torch.testing.assert_close(moments.states["head"].variance, own, rtol=1e-5, atol=1e-9)
    both = torch.cat(net.states).double().movedim(1, 0).flatten(1).var(dim=1, correction=0)
    torch.testing.assert_close(moments.states["shared"].variance, both, rtol=1e-5, atol=1e-9)


def test_two_flows_of_one_layer_add_up() -> None:
    class Net(Base):
        def join(self, x: Tensor, y: Tensor) -> Tensor:
            self.state, self.gain = y + 2 * y, lambda: torch.full((4,), 3.0)
            return F.relu(self.state)

    with torch.random.fork_rng():
        torch.manual_seed(3)
        net, images = Net().eval(), torch.randn(20, 2, 4, 4)
    found = observe(net, trace(net, images[:1]), [images]).states["b"]
    torch.testing.assert_close(found.gain, torch.full((4,), 3.0).double())
