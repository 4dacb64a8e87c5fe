"""Which layers are known, how wide they are, and whether they compute what their type says."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

from causal_prune.network.layer_kinds import (
    CARRYING,
    MIXING,
    computes_its_weight,
    computes_what_its_type_says,
    widths_of,
)

WIDTHS: list[tuple[nn.Module, tuple[int, int]]] = [
    (nn.Conv1d(4, 6, 3), (6, 4)),
    (nn.Conv2d(4, 6, 3, groups=2), (6, 4)),
    (nn.Conv3d(4, 6, 3), (6, 4)),
    (nn.ConvTranspose1d(4, 6, 3), (6, 4)),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), (6, 4)),
    (nn.ConvTranspose3d(4, 6, 3), (6, 4)),
    (nn.Linear(4, 6), (6, 4)),
    (nn.BatchNorm1d(5), (5, 0)),
    (nn.BatchNorm2d(5), (5, 0)),
    (nn.BatchNorm3d(5), (5, 0)),
    (nn.SyncBatchNorm(5), (5, 0)),
    (nn.InstanceNorm2d(5), (5, 0)),
    (nn.GroupNorm(3, 6), (6, 0)),
    (nn.LayerNorm(5), (5, 0)),
    (nn.LayerNorm([5, 7]), (7, 0)),
    (nn.PReLU(5), (5, 0)),
]


@pytest.mark.parametrize(("layer", "widths"), WIDTHS, ids=lambda each: type(each).__name__)
def test_a_known_layer_has_filters_or_carries_channels(layer: nn.Module, widths: tuple[int, int]) -> None:
    assert widths_of(layer) == widths
    assert isinstance(layer, MIXING) == (widths[1] > 0) != isinstance(layer, CARRYING)
    assert computes_what_its_type_says(layer)


@pytest.mark.parametrize("other", [nn.ReLU(), nn.Sequential(nn.Conv2d(2, 3, 1)), nn.Embedding(4, 2)])
def test_other_modules_have_no_width(other: nn.Module) -> None:
    assert widths_of(other) == (0, 0)
    assert not isinstance(other, (*MIXING, *CARRYING)) and not computes_what_its_type_says(other)


class Renamed(nn.Conv2d):
    """As its parent, but for the name."""


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_subclass_is_known_unless_it_has_a_forward_of_its_own() -> None:
    assert computes_what_its_type_says(Renamed(2, 3, 1))
    assert not computes_what_its_type_says(Doubled(2, 3, 1)) and widths_of(Doubled(2, 3, 1)) == (3, 2)


@pytest.mark.parametrize(
    ("normed", "by_hooks"),
    [
        (weight_norm, True),
        (spectral_norm, True),
        (parametrizations.weight_norm, False),
        (parametrizations.spectral_norm, False),
        (lambda layer: layer, False),
    ],
)
def test_weights_are_computed_by_hooks_of_the_old_style_alone(
    normed: Callable[[nn.Module], nn.Module], by_hooks: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        layer = normed(nn.Conv2d(2, 3, 1))
    layer.register_forward_pre_hook(lambda *_: None)
    assert computes_its_weight(layer) is by_hooks
    assert widths_of(layer) == (3, 2) and layer(torch.ones(1, 2, 1, 1)).shape[1] == 3
