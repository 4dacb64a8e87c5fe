"""Removal: what is cut out of every kind of layer, and that what is left computes what the silenced network does."""

import copy
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm

from causal_prune.errors import InputError
from causal_prune.network.layer_kinds import Grouping, widths_of
from causal_prune.surgery.cuts import AdapterCut, Cuts, LayerCut, ParameterCut
from causal_prune.surgery.lineage import Stage, stages_of
from causal_prune.surgery.removal import cut_network, remove
from causal_prune.surgery.silencing import zero
from causal_prune.tracing.network_trace import trace
from tests.unit.drawn_weights import drawn
from tests.unit.surgery.cases import (
    CASES,
    Planned,
    Residual,
    Scaled,
    Tied,
    case,
    gap,
    plain,
    planned,
    silenced,
)

Kept = tuple[int, ...] | None

LAYERS: dict[str, tuple[nn.Module, Kept, Kept, Grouping]] = {
    "conv": (nn.Conv2d(4, 6, 3), (0, 2, 5), (1, 2), "dense"),
    "filters alone": (nn.Conv2d(4, 6, 3, bias=False), (5,), None, "dense"),
    "inputs alone": (nn.Conv3d(4, 6, 1), None, (0, 3), "dense"),
    "by position": (nn.Conv2d(8, 6, 3, groups=2), (0, 2, 3, 5), (1, 3, 5, 7), "positions"),
    "by block": (nn.Conv2d(6, 9, 3, groups=3), (0, 1, 2, 6, 7, 8), (0, 1, 4, 5), "blocks"),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), (0, 3), (0, 3), "blocks"),
    "transposed": (nn.ConvTranspose2d(4, 6, 3), (0, 2, 5), (1, 2), "dense"),
    "transposed by position": (nn.ConvTranspose2d(8, 6, 2, groups=2), (0, 2, 3, 5), (1, 3, 5, 7), "positions"),
    "transposed by block": (nn.ConvTranspose2d(6, 9, 2, groups=3), (0, 1, 2, 6, 7, 8), (0, 1, 4, 5), "blocks"),
    "linear": (nn.Linear(4, 6), (0, 2, 5), (1, 2), "dense"),
    "weight norm": (parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), (0, 2, 5), (1, 2), "dense"),
    "spectral norm": (parametrizations.spectral_norm(nn.Linear(4, 6)), (0, 2, 5), (1, 2), "dense"),
    "batch norm": (nn.BatchNorm2d(6), (0, 2, 5), None, "dense"),
    "batch norm without scale": (nn.BatchNorm1d(6, affine=False), (0, 2, 5), None, "dense"),
    "instance norm": (nn.InstanceNorm2d(6, affine=True), (0, 2, 5), None, "dense"),
    "instance norm with statistics": (nn.InstanceNorm2d(6, track_running_stats=True), (1, 2), None, "dense"),
    "group norm by block": (nn.GroupNorm(3, 6), (0, 1, 4, 5), None, "blocks"),
    "prelu": (nn.PReLU(6), (0, 2, 5), None, "dense"),
}  # fmt: skip


def cut_of(layer: nn.Module, filters: Kept, inputs: Kept, grouping: Grouping = "dense") -> Cuts:
    return Cuts({"0": LayerCut(filters, inputs, *widths_of(layer), grouping)}, {})


def chosen(x: Tensor, kept: Kept, layer: nn.Module) -> Tensor:
    """Channels of a tensor that stay."""
    dim = -1 if isinstance(layer, nn.Linear | nn.LayerNorm) else 1
    return x if kept is None else x.index_select(dim, torch.tensor(kept))


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_left_of_a_layer_makes_of_what_is_left_of_its_input_what_it_made_before(name: str) -> None:
    layer, filters, inputs, grouping = LAYERS[name]
    dense = drawn(nn.Sequential(layer))
    width, read = widths_of(layer)
    size = {nn.Conv3d: (2, 2, 2), nn.Linear: (), nn.BatchNorm1d: (4,)}.get(type(layer), (4, 4))
    if name == "spectral norm":
        size = ()
    x = torch.randn(3, read or width, *size, generator=torch.Generator().manual_seed(2))
    before = {key: tensor.clone() for key, tensor in dense.state_dict().items()}
    small = cut_network(dense, cut_of(layer, filters, inputs, grouping))
    seen = x
    if inputs is not None:
        gone = sorted(set(range(read)) - set(inputs))
        seen = x.index_fill(1, torch.tensor(gone), 0.0)
    with torch.no_grad():
        expected = chosen(dense(seen), filters, layer)
        torch.testing.assert_close(small(chosen(x, inputs if read else filters, layer)), expected)
    assert widths_of(small[0]) == (  # type: ignore[index]
        width if filters is None else len(filters), read if inputs is None else len(inputs)
    )  # fmt: skip
    assert all(torch.equal(tensor, before[key]) for key, tensor in dense.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "grouping", "kept"),
    [
        (nn.GroupNorm(1, 6), "dense", (0, 2, 5)),
        (nn.GroupNorm(2, 6), "positions", (0, 2, 3, 5)),
        (nn.LayerNorm(6), "dense", (0, 2, 5)),
        (nn.LayerNorm(600), "dense", tuple(range(0, 600, 7))),
    ],
)
def test_norms_over_channels_keep_scales_and_shifts_of_what_is_left(
    layer: nn.Module, grouping: Grouping, kept: tuple[int, ...]
) -> None:
    dense = drawn(nn.Sequential(layer))
    small = cut_network(dense, cut_of(layer, kept, None, grouping))
    for key, tensor in small.state_dict().items():
        assert torch.equal(tensor, dense.state_dict()[key][list(kept)])
    x = torch.ones(2, len(kept))
    assert small(x).shape == x.shape and widths_of(small.get_submodule("0")) == (len(kept), 0)
    if isinstance(layer, nn.GroupNorm):
        assert small.get_submodule("0").num_groups == layer.num_groups


def test_weight_norm_of_the_old_style_is_put_on_again() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        dense = nn.Sequential(weight_norm(nn.Linear(4, 6)))
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(2))
    small = cut_network(dense, cut_of(dense[0], (1, 4), None))
    assert small.state_dict().keys() == dense.state_dict().keys() == {"0.bias", "0.weight_g", "0.weight_v"}
    torch.testing.assert_close(small(x), dense(x)[:, [1, 4]])


def test_bare_parameters_and_adapters_are_cut_as_well() -> None:
    net = Scaled()
    cuts = Cuts(
        {}, {"gamma": ParameterCut(0, (1, 6), 8), "shift": ParameterCut(1, (1, 6), 8)},
        (AdapterCut("first", "out", 0, 1, "pick", (1, 6), 8), AdapterCut("second", "in", 0, 1, "restore", (1, 6), 8)),
    )  # fmt: skip
    small = cut_network(net, cuts)
    assert torch.equal(small.get_parameter("gamma"), net.gamma[[1, 6]])
    assert torch.equal(small.get_buffer("shift"), net.get_buffer("shift")[:, [1, 6]])
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(8).index_fill(0, torch.tensor([1, 6]), 1.0)[:, None, None]
    middle = F.relu(net.first(x) * net.gamma + net.get_buffer("shift")) * mask
    torch.testing.assert_close(small(x), net.second(middle))
    assert sum(len(module._forward_hooks) for module in net.modules()) == 0


@pytest.mark.parametrize("name", CASES)
def test_removal_computes_what_silencing_at_the_consumers_computes(name: str) -> None:
    each = case(name)
    small = remove(each.net, each.plan)
    with torch.no_grad():
        expected, dense = silenced(each.net, each.plan, each.images), each.net(each.images)
        assert gap(small(each.images), expected) < 1e-5
        assert gap(zero(each.net, each.plan, where="consumers")(each.images), expected) < 1e-5
    assert gap(dense, expected) > 1e-2, "the cut is large enough to be seen"
    count = sum(p.numel() for p in each.net.parameters())
    assert sum(p.numel() for p in small.parameters()) < 0.75 * count
    assert stages_of(small) == (Stage(each.plan.cuts),)


@pytest.mark.parametrize("name", CASES)
def test_the_removed_network_has_the_planned_widths_and_can_be_trained(name: str) -> None:
    each = case(name)
    small = remove(each.net, each.plan).train()
    for layer, cut in each.plan.layers.items():
        kept = (cut.keep_filters, cut.keep_inputs)
        assert widths_of(small.get_submodule(layer)) == tuple(
            before if keep is None else len(keep)
            for keep, before in zip(kept, (cut.filters, cut.inputs), strict=True)
        )
    small(each.images).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


@pytest.mark.parametrize(
    "what",
    [lambda x: x.cumsum(1), lambda x: x.softmax(1), lambda x: x - x.sum(1, keepdim=True),
     lambda x: x + torch.arange(8.0).reshape(1, 8, 1, 1), lambda x: x.flip(1), lambda x: x.roll(1, 1),
     lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2), lambda x: x.chunk(2, 1)[0].repeat(1, 2, 1, 1),
     lambda x: F.pad(x[:, :5], (0, 0, 0, 0, 1, 2)), lambda x: x[:, [3, 1, 2, 0, 4, 5, 6, 7]],
     lambda x: F.glu(x, 1).repeat_interleave(2, 1),
     lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), lambda x: F.softmax(x.flatten(2), -1).view_as(x),
     lambda x: torch.stack((x[:, 0::2], x[:, 1::2]), 2).flatten(1, 2), lambda x: x + x.flip(1)],
    ids=["cumsum", "softmax", "sum", "constant", "flip", "roll", "shuffle", "chunk", "pad", "index", "glu",
         "pixel shuffle", "spatial softmax", "interleave", "add flipped"],
)  # fmt: skip
def test_a_network_is_cut_correctly_or_left_alone_with_a_reason(what: Callable[[Tensor], Tensor]) -> None:
    class Between(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(F.relu(self.second(what(self.first(x)))))
            return out

    with torch.random.fork_rng():
        torch.manual_seed(2)
        net, x = Between().eval(), torch.randn(3, 3, 4, 4)
    plan = planned(net, x)
    with torch.no_grad():
        assert gap(remove(net, plan)(x), silenced(net, plan, x)) < 1e-5
    assert "second" in plan.layers
    assert plan.layers.get("first") is not None or trace(net, x[:1]).frozen["first"]


def test_a_plan_of_another_network_is_refused(residual: Planned) -> None:
    with pytest.raises(InputError, match="^the plan names the layer 'stem', which the model does not have$"):
        remove(plain(), residual.plan)
    wider = Residual()
    wider.a, wider.b = nn.Conv2d(8, 7, 3), nn.Conv2d(7, 8, 3)
    with pytest.raises(
        InputError, match="made for another network: a has 7 filters and 8 inputs, the plan says 6"
    ):
        remove(wider, residual.plan)


def test_a_plan_whose_bare_parameter_has_another_width_is_refused() -> None:
    net = Scaled()
    net.gamma = nn.Parameter(torch.ones(9, 1, 1))
    text = "the plan was made for another network: gamma has 9 channels, the plan says 8"
    with pytest.raises(InputError, match=f"^{text}$"):
        remove(net, case("bare parameters").plan)


def test_flags_ties_and_mode_stay_and_the_dense_network_is_untouched() -> None:
    each = case("tied")
    net = each.net
    net.get_parameter("a.bias").requires_grad_(False)
    net.get_parameter("stem.weight").requires_grad_(False)
    net.train()
    net.get_submodule("head").eval()
    before, twin = {key: tensor.clone() for key, tensor in net.state_dict().items()}, copy.deepcopy(net)
    small = remove(net, each.plan)
    assert isinstance(small, Tied)
    assert small.a.weight is small.b.weight and small.alias is small.stem
    assert small.a.weight.shape == (4, 4, 3, 3)
    assert {n for n, p in small.named_parameters() if not p.requires_grad} == {"a.bias", "stem.weight"}
    assert small.training and small.a.training and not small.head.training
    assert not {id(p) for p in small.parameters()} & {id(p) for p in net.parameters()}
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert [m.training for m in net.modules()] == [m.training for m in twin.modules()]
