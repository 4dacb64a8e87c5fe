import copy
import doctest
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
import torchvision
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.tracing import network_trace as filter_graph
from causal_prune.tracing.filter_graph import FilterGraph, Group
from causal_prune.tracing.network_trace import trace

Part = tuple[str, str, tuple[int, ...]]
"""(layer, "in", "out" or "carried", indices): a layer's part in a cut."""


class Residual(nn.Module):
    """stem + branch, read by a head: 'stem' and 'b' meet in an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a = nn.Conv2d(6, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.b = nn.Conv2d(5, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.b(F.relu(self.norm(self.a(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Concat(nn.Module):
    """Two branches side by side, then pooled, flattened and read by a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 5, 3, padding=1)
        self.mix = nn.Conv2d(9, 6, 1)
        self.fc = nn.Linear(6 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.left(x), F.max_pool2d(F.relu(self.right(x)), 3, 1, 1)), dim=1)
        return self.fc(F.adaptive_max_pool2d(self.mix(x), 2).flatten(1))


class SqueezeExcite(nn.Module):
    """A convolution whose output is scaled by a gate computed from it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.reduce = nn.Conv2d(6, 2, 1)
        self.expand = nn.Conv2d(2, 6, 1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.conv(x))
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(x * gate)


class Shared(nn.Module):
    """One convolution used twice, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.again = nn.Conv2d(5, 5, 3, padding=1)
        self.unused = nn.Conv2d(5, 7, 1)
        self.head = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.again(F.relu(self.again(F.relu(self.stem(x)))))))


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def group_of(graph: FilterGraph, producer: str) -> Group:
    return next(g for g in graph.groups for m in g.of_role("producer") if m.layer == producer)


def parts(group: Group) -> set[Part]:
    """Every member with all its positions."""
    return {(m.layer, m.axis, m.positions) for m in group.members}


def up_to(count: int) -> tuple[int, ...]:
    return tuple(range(count))


def test_parents_and_groups_through_a_residual_addition() -> None:
    graph = trace(Residual(), images(1, 3, 6, 6))
    assert graph.parents("graph") == {"stem": (), "a": ("stem",), "b": ("a",), "fc": ("b", "stem")}
    stream = group_of(graph, "b")
    assert stream is group_of(graph, "stem")
    assert parts(stream) == {
        ("stem", "out", up_to(6)), ("a", "in", up_to(6)), ("b", "out", up_to(6)), ("fc", "in", up_to(6))
    }  # fmt: skip
    inner = group_of(graph, "a")
    assert parts(inner) == {("a", "out", up_to(5)), ("norm", "out", up_to(5)), ("b", "in", up_to(5))}
    assert [m.role for m in inner.members] == ["producer", "passenger", "consumer"]


def test_parents_and_groups_through_concatenation_pooling_and_flatten() -> None:
    graph = trace(Concat(), images(2, 3, 6, 6))
    assert graph.parents("graph")["mix"] == ("left", "right")
    assert graph.parents("graph")["fc"] == ("mix",)
    assert parts(group_of(graph, "left")) == {("left", "out", up_to(4)), ("mix", "in", (0, 1, 2, 3))}
    assert parts(group_of(graph, "right")) == {("right", "out", up_to(5)), ("mix", "in", (4, 5, 6, 7, 8))}
    flattened = next(m for m in group_of(graph, "mix").members if m.layer == "fc")
    assert flattened.positions == up_to(24)
    assert flattened.units == tuple(position // 4 for position in range(24))
    assert flattened.positions_of([1, 5]) == [4, 5, 6, 7, 20, 21, 22, 23]


def test_a_gate_couples_the_layer_that_computes_it() -> None:
    graph = trace(SqueezeExcite(), images(1, 3, 6, 6))
    assert graph.parents("graph") == {
        "conv": (), "reduce": ("conv",), "expand": ("reduce",), "head": ("conv", "expand")
    }  # fmt: skip
    gated = group_of(graph, "conv")
    assert {m.layer for m in gated.of_role("producer")} == {"conv", "expand"}
    assert {m.layer for m in gated.of_role("consumer")} == {"reduce", "head"}
    assert gated.size == 6 and group_of(graph, "reduce").size == 2


def test_a_shared_layer_ties_its_inputs_to_its_outputs() -> None:
    graph = trace(Shared(), images(1, 3, 6, 6))
    assert graph.parents("graph")["again"] == ("again", "stem")
    assert graph.parents("graph")["head"] == ("again",)
    assert parts(group_of(graph, "stem")) == {
        ("stem", "out", up_to(5)), ("again", "in", up_to(5)), ("again", "out", up_to(5)), ("head", "in", up_to(5))
    }  # fmt: skip


def test_the_documented_chain_is_the_order_of_registration() -> None:
    net = Shared()
    net.flat = nn.Linear(2, 2)
    graph = trace(net, images(1, 3, 6, 6))
    expected = {"stem": (), "again": ("stem",), "unused": ("again",), "head": ("unused",)}
    assert graph.parents("chain") == graph.chain == expected


def test_frozen_layers_have_their_reasons() -> None:
    graph = trace(Shared(), images(1, 3, 6, 6))
    assert graph.frozen == {
        "head": "produces an output of the network",
        "unused": "not reached by the example input",
    }
    assert [g.name for g in graph.prunable] == ["stem"]
    assert group_of(graph, "head").frozen == "produces an output of the network"


@pytest.mark.parametrize(
    ("freeze", "frozen", "free"),
    [(["a"], {"a"}, {"stem", "b"}), (["stem"], {"stem", "b"}, {"a"}), (["norm"], {"a"}, {"stem", "b"})],
)
def test_what_the_caller_freezes_takes_its_group_with_it(
    freeze: list[str], frozen: set[str], free: set[str]
) -> None:
    graph = trace(Residual(), images(1, 3, 6, 6), freeze=freeze)
    assert {name for name, why in graph.frozen.items() if why == "frozen by the caller"} == frozen
    assert {m.layer for g in graph.prunable for m in g.of_role("producer")} == free


def test_freezing_a_module_freezes_the_layers_inside() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)), nn.Conv2d(5, 6, 1), nn.Conv2d(6, 2, 1)
    )
    graph = trace(net, images(1, 3, 4, 4), freeze=["0"])
    assert [g.name for g in graph.prunable] == ["1"]
    assert graph.frozen["0.0"] == graph.frozen["0.1"] == "frozen by the caller"


def test_an_unknown_name_to_freeze_is_refused() -> None:
    with pytest.raises(InputError, match="there is no module 'layer9' in the model"):
        trace(Residual(), images(1, 3, 6, 6), freeze=["a", "layer9"])


def test_a_network_that_does_not_run_on_the_example_is_refused() -> None:
    with pytest.raises(InputError, match=r"does not run on an input of shape \(1, 4, 6, 6\): .*channels"):
        trace(Residual(), images(1, 4, 6, 6))


class Flip(nn.Module):
    """Something happens to the channels between two convolutions."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.what, self.second = nn.Conv2d(3, 6, 1), what, nn.Conv2d(6, 4, 1)
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.what(self.first(x))))


@pytest.mark.parametrize(
    "what",
    [lambda x: x.cumsum(1), lambda x: x.softmax(1), lambda x: x * x.sum(1, keepdim=True),
     lambda x: torch.fft.fft(x, dim=1).real],
    ids=["cumsum", "softmax", "sum over channels", "fft"],
)  # fmt: skip
def test_what_cannot_be_followed_is_frozen_and_nothing_else_is(what: Callable[[Tensor], Tensor]) -> None:
    graph = trace(Flip(what), images(1, 3, 4, 4))
    assert [g.name for g in graph.prunable] == ["second"]
    assert graph.frozen["first"]


class Steered(nn.Module):
    """Scales what a layer makes by a number that it reads from it, or from the image."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by, self.inner = by, nn.Sequential(nn.Conv2d(6, 8, 1), nn.Conv2d(8, 6, 1))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        return self.inner(x) * (2 if (x if self.by == "channels" else image).sum() > 0 else 3)


@pytest.mark.parametrize("by", ["channels", "image"])
def test_code_that_asks_for_values_keeps_what_it_handles_and_the_rest_is_pruned(by: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.steered, self.second = nn.Conv2d(3, 6, 1), Steered(by), nn.Conv2d(6, 4, 1)
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.steered(self.first(x), x)))

    graph = trace(Net(), images(1, 3, 4, 4))
    assert {g.name for g in graph.prunable} == {"second", "steered.inner.0"}
    assert graph.frozen["steered.inner.1"].endswith("in steered")
    assert graph.frozen["first"]


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def test_the_callers_model_and_random_state_are_untouched() -> None:
    net = nn.Sequential(Residual(), nn.Dropout(0.5)).train()
    net[0].norm.eval()
    net[0].stem.weight.requires_grad_(False)
    net[0].a.register_forward_hook(lambda *_: None)
    modes = [m.training for m in net.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    gradients = [p.requires_grad for p in net.parameters()]
    before, random_state = state_of(net), torch.get_rng_state()
    trace(net, images(1, 3, 6, 6))
    assert [m.training for m in net.modules()] == modes
    assert [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()] == hooks
    assert [p.requires_grad for p in net.parameters()] == gradients
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_inputs_may_be_a_tuple_or_a_mapping() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 4, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"out": self.c(self.a(x) + self.b(y))}

    x, y = images(1, 1, 4, 4), images(1, 2, 4, 4)
    by_place, by_name = trace(Two(), (x, y)), trace(Two(), {"y": y, "x": x})
    assert by_place == by_name
    assert {m.layer for m in by_place.prunable[0].of_role("producer")} == {"a", "b"}


def test_the_examples_of_the_docstrings_run() -> None:
    result = doctest.testmod(filter_graph)
    assert result.attempted >= 3 and result.failed == 0


@pytest.mark.parametrize(("name", "size"), [("resnet18", 32), ("mobilenet_v2", 32), ("densenet121", 32)])
def test_groups_are_those_of_torch_prunings_own_dependency_graph(name: str, size: int) -> None:
    net = getattr(torchvision.models, name)(weights=None).eval()
    example = images(1, 3, size, size)
    graph = trace(net, example)
    theirs = tp.DependencyGraph().build_dependency(copy.deepcopy(net), example_inputs=example)
    compared = 0
    for group in graph.prunable:
        for producer in group.of_role("producer")[:2]:
            for filter_ in {0, producer.extent // 2, producer.extent - 1}:
                unit = dict(zip(producer.positions, producer.units, strict=True))[filter_]
                assert _ours(net, group, unit) == _theirs(theirs, producer.layer, filter_), (
                    producer.layer,
                    filter_,
                )
                compared += 1
    assert compared > 20
    convolutions = {n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    assert {m.layer for g in graph.prunable for m in g.of_role("producer")} >= {
        n for n in convolutions if net.get_submodule(n).groups == 1
    }, "nothing but the classifier is frozen"


def _carries(module: nn.Module) -> bool:
    return not isinstance(module, nn.Conv2d | nn.Linear) or (
        isinstance(module, nn.Conv2d) and module.groups > 1
    )


def _ours(net: nn.Module, group: Group, unit: int) -> set[Part]:
    found = set()
    for member in group.members:
        positions = tuple(member.positions_of([unit]))
        if positions:
            axis = "carried" if _carries(net.get_submodule(member.layer)) else member.axis
            found.add((member.layer, axis, positions))
    return found


def _theirs(graph: tp.DependencyGraph, producer: str, filter_: int) -> set[Part]:
    names = {module: name for name, module in graph.model.named_modules()}
    root = graph.model.get_submodule(producer)
    merged: dict[tuple[str, str], set[int]] = {}
    for dependency, indices in graph.get_pruning_group(root, tp.prune_conv_out_channels, idxs=[filter_]):
        module = dependency.target.module
        if module in names and next(_own_parameters(module), None) is not None:
            out = graph.is_out_channel_pruning_fn(dependency.handler)
            axis = "carried" if _carries(module) else "out" if out else "in"
            merged.setdefault((names[module], axis), set()).update(indices)
    return {(name, axis, tuple(sorted(indices))) for (name, axis), indices in merged.items()}


def _own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    return module.parameters(recurse=False)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (
            lambda net, x: net.to("meta"),
            r"no values yet \(0.weight is on the meta device\): load its weights",
        ),
        (lambda net, x: x.data.fill_(torch.nan), "the example input holds NaN"),
        (
            lambda net, x: net[1].bias.data[:1].fill_(torch.nan),
            "the model's 1.bias holds NaN: load its weights",
        ),
    ],
)
def test_values_that_cannot_be_compared_are_refused(
    spoil: Callable[[nn.Module, Tensor], object], error: str
) -> None:
    net, x = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)), torch.zeros(1, 1, 2, 2)
    spoil(net, x)
    with pytest.raises(InputError, match=error):
        trace(net, x)
