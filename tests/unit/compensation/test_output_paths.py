"""Where the outputs of layers go, whatever overwrites what."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.compensation.output_paths import Bounds, output_paths

INFINITE = float("inf")


class Net(nn.Module):
    """One layer with a batch norm, one that is added to its input, and a way to rectify both."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.norm, self.second = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.kept: Tensor | None = None

    def rectified(self, x: Tensor) -> Tensor:
        if self.way == "seen elsewhere":
            self.kept = x * 2
        return {
            "relu": F.relu,
            "in place": F.relu_,
            "relu6": F.relu6,
            "clamp": lambda x: x.clamp(-1, 2),
            "from below": lambda x: x.clamp(min=0.5),
            "smooth": F.silu,
            "seen elsewhere": F.relu,
        }[self.way](x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.rectified(self.norm(self.first(x)))
        y = self.second(x)
        y += x
        return self.rectified(y)


@pytest.mark.parametrize(
    ("way", "bounds"),
    [
        ("relu", (0.0, INFINITE)),
        ("in place", (0.0, INFINITE)),
        ("relu6", (0.0, 6.0)),
        ("clamp", (-1.0, 2.0)),
        ("from below", (0.5, INFINITE)),
        ("smooth", None),
        ("seen elsewhere", None),
    ],
)
def test_rectifiers_behind_norms_and_sums(way: str, bounds: Bounds | None) -> None:
    paths = output_paths(Net(way).eval(), torch.randn(2, 2, 4, 4))
    assert paths.rectified == ({} if bounds is None else {"first": bounds, "second": bounds})
    assert paths.sums == {"second"} and paths.calls == {"first": 1, "second": 1}
    assert paths.norms == ({"first": "norm"})
    assert paths.feeders == {}  # the sum reads it too


class Feeding(nn.Module):
    """A layer that reads what a rectifier lets through of another, and maybe not it alone."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.first, self.norm, self.second = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.norm(self.first(x))
        if self.way == "added":
            x = x + 1
        if self.way == "pooled":
            x = F.max_pool2d(x, 2)
        x = F.relu(x, inplace=self.way == "in place")
        if self.way == "overwritten":
            x.mul_(2)
        y = self.second(x)
        if self.way == "returned":
            return y, x
        return (
            y * x.mean() if self.way == "read twice" else self.second(y) if self.way == "called twice" else y
        )


@pytest.mark.parametrize(
    ("way", "fed"),
    [
        ("plain", True),
        ("in place", True),
        ("added", False),
        ("pooled", False),
        ("overwritten", False),
        ("read twice", False),
        ("called twice", False),
        ("returned", False),
    ],
)
def test_layers_fed_by_one_other_alone(way: str, fed: bool) -> None:
    paths = output_paths(Feeding(way).eval(), torch.randn(2, 2, 4, 4))
    assert paths.feeders == ({"second": "first"} if fed else {})


def test_a_layer_that_runs_twice_is_not_followed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(2, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.layer(F.relu(self.layer(x))) + x)

    paths = output_paths(Twice().eval(), torch.randn(2, 2, 4, 4))
    assert paths.calls == {"layer": 2} and not paths.sums and not paths.rectified


class Tokens(nn.Module):
    """A batch norm over tokens, and one that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.over = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.a, self.b, self.shared = nn.Linear(5, 5), nn.Linear(5, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.over(self.mix(x)).sum(dim=1)
        return self.shared(self.b(self.shared(self.a(x))))


def test_norms_of_other_axes_and_shared_ones_belong_to_no_layer() -> None:
    assert output_paths(Tokens().eval(), torch.randn(2, 5, 4)).norms == {}
