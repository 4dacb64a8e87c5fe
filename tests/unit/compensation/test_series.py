"""Which layers stand in series, and what the last of them reads."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.series import series_in
from causal_prune.surgery.cuts import LayerCut
from tests.unit.compensation.cut_nets import INFINITE, bottleneck, images, series_of


def test_the_last_layer_reads_what_comes_through_norms_and_rectifiers() -> None:
    net, x = bottleneck(), images(4, 3, 5, 5)
    series = series_of(net, (0.0, 6.0))
    with torch.no_grad():
        torch.testing.assert_close(series.read_by_last(x), net[:6](x))
    assert series.unknowns == 16 * 3 + 16 * 9 + 6 * 16


def test_every_rectifier_has_bounds_of_its_own_and_no_hook_runs() -> None:
    first, second, third = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)
    series = series_of(nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third))
    series = replace(series, bounds=((-0.1, INFINITE), (-0.2, 0.3)))

    def refuse(*_: object) -> None:
        raise AssertionError

    for layer in (first, second, third):
        layer.register_forward_hook(refuse)
    x = images(6, 3)
    with torch.no_grad():
        expected = F.linear(x, first.weight, first.bias).clamp_min(-0.1)
        expected = F.linear(expected, second.weight, second.bias).clamp(-0.2, 0.3)
        torch.testing.assert_close(series.read_by_last(x), expected)


def chain(kinds: str) -> dict[str, CutLayer]:
    """Layers a, b, ... by what they lost: "f" filters, "i" inputs, "b" both, "w" nothing; "d" is depthwise."""
    layers = {}
    for name, kind in zip("abcde", kinds, strict=False):
        module = nn.Conv2d(2, 2, 1, groups=2 if kind == "d" else 1)
        filters, inputs = (0, 1) if kind in "fb" else None, (0, 1) if kind in "ib" else None
        layers[name] = CutLayer(module, None, LayerCut(filters, inputs, 4, 4))
    return layers


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ("www", []),
        ("fi", ["ab"]),
        ("wi", ["ab"]),  # the layer before it was not cut, but can move
        ("ff", ["ab"]),  # what the second should read is not there, whatever the plan says of its inputs
        ("i", []),  # nothing feeds it
        ("wwi", ["abc"]),  # the one before it does what it did, so that it may as well move
        ("fbi", ["ab", "bc"]),  # the one before it cannot do what it did
        ("fdi", ["abc"]),  # a depthwise layer between two others
        ("fddi", ["abcd"]),
        ("fdd", []),  # nobody mixes what is missing
        ("fdw", ["abc"]),
        ("wdw", []),
        ("fbbi", ["ab", "bc", "cd"]),
        ("fiwi", ["ab", "bcd"]),
    ],
)
def test_a_series_ends_where_inputs_were_lost_and_begins_where_nothing_was(
    kinds: str, found: list[str]
) -> None:
    layers = chain(kinds)
    feeders = {name: chr(ord(name) - 1) for name in layers if name != "a"}
    rectified = {name: (float(k), INFINITE) for k, name in enumerate(layers)}
    series = series_in(feeders, rectified, layers)
    assert {last: "".join(each.names) for last, each in series.items()} == {
        names[-1]: names for names in found
    }
    for each in series.values():
        assert each.layers == tuple(layers[name] for name in each.names)
        assert each.bounds == tuple(rectified[name] for name in each.names[:-1])


def test_inputs_of_a_grouped_layer_are_not_mixed_and_not_missed() -> None:
    layers = chain("wi")
    layers["b"].cut = LayerCut(None, (0, 1), 4, 4, "blocks")
    assert series_in({"b": "a"}, {"a": (0.0, 1.0)}, layers) == {}


def test_layers_whose_weights_may_not_change_are_in_no_series() -> None:
    whole = chain("fii")
    layers = {"b": whole["b"], "c": whole["c"]}
    found = series_in({"b": "a", "c": "b"}, dict.fromkeys("ab", (0.0, 1.0)), layers)
    assert {last: series.names for last, series in found.items()} == {"c": ("b", "c")}
