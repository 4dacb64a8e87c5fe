"""Trial cuts: right graphs pass, and of wrong ones the group that is wrong is named."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.network.running import Inputs
from causal_prune.surgery.cuts import Cuts, LayerCut
from causal_prune.tracing.filter_graph import FilterGraph, Member
from causal_prune.tracing.network_trace import trace
from causal_prune.tracing.trial_cuts import NormalisationOff, difference, failing_groups
from tests.unit.drawn_weights import drawn


class Net(nn.Module):
    """Three groups; what `beside` makes of the channels of the first is added to the output."""

    def __init__(self, beside: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6)
        self.b, self.c, self.head = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1)
        self.beside = beside

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.a(x)))
        extra = 0 if self.beside is None else self.beside(x)
        out: Tensor = self.head(F.relu(self.c(F.relu(self.b(x))))) + extra
        return out


def images(seed: int = 1) -> Tensor:
    return torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(seed))


def graph_of_net() -> FilterGraph:
    """What is true of `Net` without anything beside."""
    return trace(Net(), images(), prove=False)


def with_member(
    graph: FilterGraph, group: str, layer: str, change: Callable[[Member], Member]
) -> FilterGraph:
    """The same graph but for a layer's part in a group."""
    groups = [
        replace(each, members=tuple(change(m) if m.layer == layer else m for m in each.members))
        if each.name == group
        else each
        for each in graph.groups
    ]
    return replace(graph, groups=tuple(groups))


def turned(member: Member) -> Member:
    """Units by the wrong positions."""
    return replace(member, units=member.units[1:] + member.units[:1])


def test_a_right_graph_passes_and_nothing_is_left_behind() -> None:
    net, x = drawn(Net()).train(), images()
    graph, before = graph_of_net(), {name: tensor.clone() for name, tensor in net.state_dict().items()}
    random_state = torch.get_rng_state()
    assert [group.name for group in graph.prunable] == ["a", "b", "c"]
    assert failing_groups(net, graph, x) == {}
    assert net.training and torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(("group", "layer"), [("a", "norm"), ("a", "b"), ("b", "c"), ("c", "head")])
def test_units_by_the_wrong_positions_are_found_even_in_a_fresh_network(group: str, layer: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = Net().eval()  # all statistics are equal
    found = failing_groups(net, with_member(graph_of_net(), group, layer, turned), images())
    assert found.keys() == {group}
    assert found[group].startswith("a trial cut changes the output by ")
    assert found[group].endswith(" of its size")


def test_a_layer_that_the_graph_has_missed_is_found() -> None:
    graph = graph_of_net()
    groups = [
        replace(group, members=tuple(m for m in group.members if m.layer != "c"))
        if group.name == "b"
        else group
        for group in graph.groups
    ]
    found = failing_groups(drawn(Net()), replace(graph, groups=tuple(groups)), images())
    assert found.keys() == {"b"} and found["b"].startswith("a trial cut fails: ")
    assert "\n" not in found["b"] and len(found["b"]) <= len("a trial cut fails: ") + 120


@pytest.mark.parametrize(
    "beside",
    [lambda x: x.sum((1, 2, 3), keepdim=True), lambda x: x[:, 1:2], lambda x: x.mean(1, keepdim=True)],
)
def test_a_reader_that_the_graph_has_missed_is_found(beside: Callable[[Tensor], Tensor]) -> None:
    found = failing_groups(drawn(Net(beside)), graph_of_net(), images())
    assert found.keys() == {"a"}


def cuts(*kept: int) -> Cuts:
    """Filters of the first convolution of `Net` that stay."""
    return Cuts(
        {
            "a": LayerCut(kept, None, 6, 2),
            "norm": LayerCut(kept, None, 6, 0),
            "b": LayerCut(None, kept, 4, 6),
        },
        {},
    )


@pytest.mark.parametrize("inputs", [images(), (images(),), {"x": images()}])
def test_a_right_cut_makes_no_difference(inputs: Inputs) -> None:
    assert difference(drawn(Net()), cuts(0, 2, 5), [inputs]) is None
    assert difference(drawn(Net()), cuts(0, 2, 5), [inputs], as_in_training=True) is None


def test_a_wrong_cut_says_by_how_much_it_changes_the_output() -> None:
    net, right = drawn(Net()), cuts(0, 2, 5)
    wrong = replace(right, layers={**right.layers, "b": LayerCut(None, (0, 2, 4), 4, 6)})
    with torch.no_grad():
        net.get_parameter("b.weight")[:, 5] = 0
    text = difference(net, wrong, [images()])
    assert text is not None
    share = float(text.removeprefix("a trial cut changes the output by ").removesuffix(" of its size"))
    assert 1e-5 < share < 100


def test_heads_that_run_only_in_training_are_compared_on_request() -> None:
    class Auxiliary(Net):
        def __init__(self) -> None:
            super().__init__()
            self.extra = nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            whole = super().forward(x)
            if not self.training:
                return whole
            return torch.cat((whole, self.extra(F.relu(self.norm(self.a(x))))))

    net = drawn(Auxiliary())
    assert difference(net, cuts(0, 2, 5), [images()]) is None
    text = difference(net, cuts(0, 2, 5), [images()], as_in_training=True)
    assert text is not None and text.startswith("a trial cut fails: ")


def test_an_output_without_a_number_proves_nothing() -> None:
    net = drawn(Net(lambda x: x[:, :1] * torch.nan))
    assert difference(net, cuts(0, 2, 5), [images()]) == (
        "a trial cut fails: there is no number to compare in what the network returns"
    )


@pytest.mark.parametrize("affine", [True, False])
def test_normalisation_that_is_off_is_its_affine_part(affine: bool) -> None:
    x = images().repeat(1, 2, 1, 1)
    for norm in (nn.GroupNorm(2, 4, affine=affine), nn.LayerNorm([6, 6], elementwise_affine=affine)):
        drawn(norm, mean=1.0)
        normalised = norm(x)
        with NormalisationOff():
            found = norm(x)
        expected = x
        if affine:
            shape = (4, 1, 1) if isinstance(norm, nn.GroupNorm) else (6, 6)
            expected = x * norm.weight.reshape(shape) + norm.bias.reshape(shape)
        torch.testing.assert_close(found, expected)
        assert torch.equal(norm(x), normalised) and not torch.allclose(normalised, found)


def test_normalisation_that_is_off_still_asks_for_its_width() -> None:
    with (
        NormalisationOff(),
        pytest.raises(ValueError, match=r"^layer_norm over \(3,\) does not fit \(2, 4\)$"),
    ):
        F.layer_norm(torch.ones(2, 4), [3])
    with NormalisationOff(), pytest.raises(ValueError, match="^4 channels do not fit 3 groups$"):
        F.group_norm(torch.ones(2, 4), 3)
