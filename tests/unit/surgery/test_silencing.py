"""Silencing: filters that emit nothing, or consumers that do not read them, in a network of the same shapes."""

from typing import Literal

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from causal_prune.errors import InputError
from causal_prune.network.layer_kinds import Grouping, widths_of
from causal_prune.surgery.cuts import Cuts, LayerCut
from causal_prune.surgery.lineage import Stage, stages_of
from causal_prune.surgery.silencing import silence_network, silencing_masks, zero, zero_masks
from tests.unit.drawn_weights import drawn
from tests.unit.surgery.cases import Planned, Residual, case, gap, plain, silenced

Where = Literal["filters", "consumers"]
BOTH: tuple[Where, ...] = ("filters", "consumers")

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...], Grouping]] = {
    "conv": (nn.Conv2d(4, 6, 3), (0, 2, 5), (1, 2), "dense"),
    "no bias": (nn.Conv1d(4, 6, 3, bias=False), (0, 2, 5), (1, 2), "dense"),
    "by position": (nn.Conv2d(8, 6, 3, groups=2), (0, 2, 3, 5), (1, 3, 5, 7), "positions"),
    "transposed": (nn.ConvTranspose2d(4, 6, 3), (0, 2, 5), (1, 2), "dense"),
    "transposed by position": (nn.ConvTranspose2d(8, 6, 2, groups=2), (0, 2, 3, 5), (1, 3, 5, 7), "positions"),
    "linear": (nn.Linear(4, 6), (0, 2, 5), (1, 2), "dense"),
    "weight norm": (parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), (0, 2, 5), (1, 2), "dense"),
}  # fmt: skip


@pytest.mark.parametrize("where", BOTH)
@pytest.mark.parametrize("name", LAYERS)
def test_a_silenced_layer_emits_nothing_or_does_not_read(name: str, where: Where) -> None:
    layer, filters, inputs, grouping = LAYERS[name]
    dense, (width, read) = drawn(nn.Sequential(layer)), widths_of(layer)
    cuts = Cuts({"0": LayerCut(filters, inputs, width, read, grouping)}, {})
    size = {nn.Linear: (), nn.Conv1d: (5,)}.get(type(layer), (5, 5))
    x = torch.randn(3, read, *size, generator=torch.Generator().manual_seed(2))
    found = silence_network(dense, cuts, where=where)
    extent, kept = (width, filters) if where == "filters" else (read, inputs)
    gone = torch.tensor(sorted(set(range(extent)) - set(kept)))
    with torch.no_grad():
        whole = dense(x)
        expected = whole.index_fill(1, gone, 0.0) if where == "filters" else dense(x.index_fill(1, gone, 0.0))
        torch.testing.assert_close(found(x), expected)
        assert torch.equal(dense(x), whole)
    assert {key for key, _ in found.named_parameters()} <= {"0.weight", "0.bias"}


def test_consumers_that_go_as_blocks_are_silent_by_themselves() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.BatchNorm2d(4))
    cuts = Cuts({"0": LayerCut((0, 2), (0, 2), 4, 4, "blocks"), "1": LayerCut((0, 2), None, 4, 0)}, {})
    assert silencing_masks(net, cuts, where="consumers") == {}
    masks = silencing_masks(net, cuts, where="filters")
    assert masks.keys() == {"0.weight", "0.bias"}, "norms are left as they are"
    assert masks["0.weight"].flatten().tolist() == masks["0.bias"].tolist() == [1, 0, 1, 0]


def test_a_shared_weight_has_one_mask_of_what_all_its_layers_drop() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    cuts = Cuts({"0": LayerCut((0, 1), None, 3, 3), "1": LayerCut((1, 2), None, 3, 3)}, {})
    masks = silencing_masks(nn.Sequential(first, second), cuts, where="filters")
    assert masks.keys() == {"0.weight"}
    assert masks["0.weight"].tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_masks_are_made_in_the_mode_and_of_the_type_that_the_network_has() -> None:
    net = nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 3))).double().train()
    net[0].eval()
    before = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    masks = silencing_masks(net.train(), Cuts({"0": LayerCut((1,), None, 3, 3)}, {}), where="filters")
    assert net.training and all(mask.dtype == torch.float64 for mask in masks.values())
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())


def test_zeroing_as_documented_sets_filters_and_biases_to_zero_and_nothing_else(residual: Planned) -> None:
    zeroed = zero(residual.net, residual.plan)
    before, after = residual.net.state_dict(), zeroed.state_dict()
    touched = set()
    for name, cut in residual.plan.layers.items():
        module = residual.net.get_submodule(name)
        if cut.keep_filters is None or not isinstance(module, nn.Conv2d):
            continue
        dropped = sorted(set(range(cut.filters)) - set(cut.keep_filters))
        for label in ("weight", "bias"):
            key = f"{name}.{label}"
            if key in before:
                touched.add(key)
                kept = list(cut.keep_filters)
                assert dropped and not after[key][dropped].any()
                assert torch.equal(after[key][kept], before[key][kept])
    assert {"stem.weight", "a.weight", "a.bias", "shortcut.bias"} <= touched
    assert all(torch.equal(after[key], before[key]) for key in before if key not in touched)
    assert stages_of(zeroed) == (Stage(residual.plan.cuts, removes=False),)
    with torch.no_grad():
        assert gap(zeroed(residual.images), silenced(residual.net, residual.plan, residual.images)) > 1e-3, (
            "a zeroed filter still speaks through its batch norm"
        )


@pytest.mark.parametrize("where", BOTH)
@pytest.mark.parametrize(
    "name", ["residual", "tied", "grouped by position", "transposed by position", "linear after flatten"]
)
def test_masks_are_what_zero_multiplies_with(name: str, where: Where) -> None:
    each = case(name)
    before = {key: tensor.clone() for key, tensor in each.net.state_dict().items()}
    masks = zero_masks(each.net, each.plan, where=where)
    zeroed = zero(each.net, each.plan, where=where)
    assert masks and all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in masks.values())
    assert all(masks[key].shape == each.net.get_parameter(key).shape for key in masks)
    for key, value in dict(each.net.named_parameters()).items():
        assert torch.equal(zeroed.get_parameter(key), value * masks[key] if key in masks else value)
    assert not {id(p) for p in zeroed.parameters()} & {id(p) for p in each.net.parameters()}
    assert all(torch.equal(value, before[key]) for key, value in each.net.state_dict().items())


def test_a_plan_of_another_network_is_refused(residual: Planned) -> None:
    wider = Residual()
    wider.a, wider.b = nn.Conv2d(8, 7, 3), nn.Conv2d(7, 8, 3)
    for act in (zero, zero_masks):
        with pytest.raises(
            InputError, match="^the plan names the layer 'stem', which the model does not have$"
        ):
            act(plain(), residual.plan)
        with pytest.raises(
            InputError, match="another network: a has 7 filters and 8 inputs, the plan says 6"
        ):
            act(wider, residual.plan)
