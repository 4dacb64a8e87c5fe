"""One layer after the other: what it should return, whether it is refitted, and what runs on."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from causal_prune.compensation.layer_repair import LayerRepair, Repairer
from causal_prune.compensation.lockstep import LayerStop, Pair, Stop, Stream, SumStop
from causal_prune.compensation.output_paths import OutputPaths
from causal_prune.errors import InputError
from causal_prune.surgery.cuts import Cuts
from causal_prune.surgery.lineage import stages_of
from causal_prune.surgery.removal import remove
from tests.unit.compensation.cut_nets import bottleneck, images, last_units
from tests.unit.drawn_weights import drawn

pytestmark = pytest.mark.usefixtures("no_gradients")

COUNT = 256


class Standing:
    """A pass that stands at a stop and keeps what it is told to run on with."""

    def __init__(self, stop: Stop) -> None:
        self.stop, self.reply = stop, cast(Tensor, None)

    def advance(self, reply: Tensor) -> None:
        self.reply = reply


def pair(dense: Stop, pruned: Stop, *, held_out: bool = False) -> Pair:
    return Pair(cast(Stream, Standing(dense)), cast(Stream, Standing(pruned)), held_out, 0)


def replies(pairs: Sequence[Pair]) -> list[tuple[Tensor, Tensor]]:
    """What the dense and the pruned pass run on with."""
    return [(cast(Any, each.dense).reply, cast(Any, each.pruned).reply) for each in pairs]


def cuts_of(net: nn.Module) -> Cuts:
    return stages_of(net)[0].cuts


def two_layers() -> tuple[nn.Sequential, nn.Sequential]:
    """A network of which the first layer is cut in half, and what is left of it."""
    net = cast(
        nn.Sequential,
        drawn(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 5, 1), nn.Conv2d(5, 5, 1)), seed=2),
    )
    small = cast(nn.Sequential, remove(net, last_units(net, images(4, 3, 4, 4), {"0": 4}, ["2", "3"])))
    return net, small


def paths(*layers: str, sums: Sequence[str] = (), calls: int = 1) -> OutputPaths:
    return OutputPaths(dict.fromkeys(layers, calls), {}, frozenset(sums))


def repairer(net: nn.Module, small: nn.Module, known: OutputPaths) -> Repairer:
    return Repairer(small, net, cuts_of(small), known, seed=0, max_memory=10**9)


def at_third(net: nn.Sequential, small: nn.Sequential, *seeds: int) -> list[Pair]:
    """Pairs at the layer that reads the cut one; the second of two is held out."""
    found = []
    for number, seed in enumerate(seeds):
        x = images(COUNT, 3, 4, 4, seed=seed)
        ours, theirs = small[1](small[0](x)), net[1](net[0](x))
        stops = LayerStop("2", theirs, net[2](theirs)), LayerStop("2", ours, small[2](ours))
        found.append(pair(*stops, held_out=number == 1))
    return found


def squares(pairs: Sequence[Pair], wanted: Sequence[Tensor]) -> list[float]:
    return [float((reply - w).square().sum()) for (_, reply), w in zip(replies(pairs), wanted, strict=True)]


def test_a_layer_is_refitted_and_both_passes_run_on_with_what_their_layer_returns() -> None:
    net, small = two_layers()
    pairs = at_third(net, small, 1, 2)
    wanted = [cast(LayerStop, each.dense.stop).out for each in pairs]
    cut = [
        float((cast(LayerStop, each.pruned.stop).out - w).square().sum())
        for each, w in zip(pairs, wanted, strict=True)
    ]
    sources = [cast(LayerStop, each.pruned.stop).source for each in pairs]
    done = repairer(net, small, paths("0", "2", "3")).meet(pairs)
    assert done is not None and (done.layer, done.outcome, done.reason) == ("2", "refitted", "")
    for (dense, pruned), w, source in zip(replies(pairs), wanted, sources, strict=True):
        assert torch.equal(dense, w)
        torch.testing.assert_close(pruned, small[2](source))
    left = squares(pairs, wanted)
    assert done.error_left == pytest.approx(left[1] / cut[1], rel=1e-3) and done.error_left < 0.9
    assert left[0] < cut[0]


def test_a_layer_that_already_returns_what_it_should_is_left() -> None:
    net, _ = two_layers()
    small = copy.deepcopy(net)
    whole = cuts_of(remove(net, last_units(net, images(4, 3, 4, 4), {"0": 8}, ["2", "3"])))
    pairs, before = at_third(net, small, 1), small[2].weight.clone()
    mine = Repairer(small, net, whole, paths("0", "2", "3"), seed=0, max_memory=10**9)
    assert mine.meet(pairs) == LayerRepair("2", "unchanged")
    ((_, reply),) = replies(pairs)
    assert torch.equal(reply, small[2](small[1](small[0](images(COUNT, 3, 4, 4, seed=1)))))
    assert torch.equal(small[2].weight, before)


def computed_weight(net: nn.Sequential, small: nn.Sequential) -> None:
    torch.nn.utils.parametrizations.weight_norm(small[2])


def shared_weight(net: nn.Sequential, small: nn.Sequential) -> None:
    small[3].weight = nn.Parameter(torch.zeros(5, 4, 1, 1))
    small[2].weight = small[3].weight


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (computed_weight, "its weight is computed from other parameters"),
        (shared_weight, "it shares its weight with another layer"),
    ],
)
def test_a_layer_whose_weight_is_not_its_own_keeps_it_and_says_why(change: Any, reason: str) -> None:
    net, small = two_layers()
    change(net, small)
    pairs = at_third(net, small, 1)
    before = {key: value.clone() for key, value in small.state_dict().items()}
    own = cast(LayerStop, pairs[0].pruned.stop).out
    assert repairer(net, small, paths("0", "2", "3")).meet(pairs) == LayerRepair("2", "kept", reason)
    assert all(torch.equal(value, before[key]) for key, value in small.state_dict().items())
    assert torch.equal(replies(pairs)[0][1], own)


def at_sum(net: nn.Sequential, small: nn.Sequential, branch: int, *, unspoilt: bool = True) -> Pair:
    """The dense network adds half of what a layer returns to other numbers than the pruned one."""
    (standing,) = at_third(net, small, 1)
    dense, pruned = cast(LayerStop, standing.dense.stop), cast(LayerStop, standing.pruned.stop)
    other, off = images(COUNT, 5, 4, 4, seed=8), images(1, 5, 1, 1, seed=9)

    def stop(out: Tensor, source: Tensor, rest: Tensor) -> SumStop:
        summands = (rest, out) if branch else (out, rest)
        return SumStop("2", source, unspoilt, summands, 0.5, branch, in_place=False)

    return pair(stop(dense.out, dense.source, other), stop(pruned.out, pruned.source, other + off))


@pytest.mark.parametrize("branch", [0, 1])
def test_a_layer_makes_up_for_what_the_other_summand_lacks(branch: int) -> None:
    net, small = two_layers()
    mine = repairer(net, small, paths("0", "2", "3", sums=["2"]))
    early = at_third(net, small, 1)
    stops = [(cast(LayerStop, each.dense.stop).out, cast(LayerStop, each.pruned.stop).out) for each in early]
    assert mine.meet(early) is None, "its turn comes at the sum"
    assert all(
        torch.equal(a, b) for given, had in zip(replies(early), stops, strict=True)
        for a, b in zip(given, had, strict=True)
    )  # fmt: skip
    late = at_sum(net, small, branch)
    dense, pruned = cast(SumStop, late.dense.stop), cast(SumStop, late.pruned.stop)
    cut = pruned.summands[0] + 0.5 * pruned.summands[1]
    done = mine.meet([late])
    assert done is not None and done.outcome == "refitted"
    ((total, reply),) = replies([late])
    torch.testing.assert_close(total, dense.summands[0] + 0.5 * dense.summands[1])
    # a constant that the other summand is off by is the bias's to take
    assert float((reply - total).mean(dim=(0, 2, 3)).abs().max()) < 1e-2  # of about 1
    assert float((reply - total).square().sum()) < 0.5 * float((cut - total).square().sum())
    summands = list(pruned.summands)
    summands[branch] = small[2](cast(Tensor, pruned.source))
    torch.testing.assert_close(reply, summands[0] + 0.5 * summands[1])


def test_an_input_that_was_overwritten_cannot_be_fitted_to() -> None:
    net, small = two_layers()
    done = repairer(net, small, paths("2", sums=["2"])).meet([at_sum(net, small, 1, unspoilt=False)])
    assert done == LayerRepair("2", "kept", "its input was overwritten")


def test_a_sum_in_place_is_written_in_place() -> None:
    net, small = two_layers()
    given = at_sum(net, small, 1)
    dense, pruned = (replace(cast(SumStop, each.stop), in_place=True) for each in (given.dense, given.pruned))
    standing = pair(dense, pruned)
    repairer(net, small, paths("2", sums=["2"])).meet([standing])
    ((total, reply),) = replies([standing])
    assert total is dense.summands[0] and reply is pruned.summands[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_no_numbers_name_the_layer(value: float) -> None:
    net, small = two_layers()
    pairs = at_third(net, small, 1)
    cast(LayerStop, pairs[0].dense.stop).out[3, 1, 0, 0] = value
    with pytest.raises(
        InputError, match="compensate: the output of 2 is NaN or infinite on the calibration data"
    ):
        repairer(net, small, paths("2")).meet(pairs)


def test_another_dense_network_is_refused_by_its_shapes() -> None:
    net, small = two_layers()
    (standing,) = at_third(net, small, 1)
    out = cast(LayerStop, standing.dense.stop).out[:, :, :2]
    other = pair(replace(cast(LayerStop, standing.dense.stop), out=out), standing.pruned.stop)
    with pytest.raises(InputError, match=r"2 returns \(256, 5, 4, 4\) where .* \(256, 5, 2, 4\)"):
        repairer(net, small, paths("2")).meet([other])


def run(mine: Repairer, net: nn.Sequential, small: nn.Sequential, x: Tensor) -> dict[str, LayerRepair]:
    """A network of layers in a row, stop by stop."""
    found, theirs, ours = {}, x, x
    for k, (dense, pruned) in enumerate(zip(net, small, strict=True)):
        if not isinstance(dense, nn.Conv2d):
            theirs, ours = dense(theirs), pruned(ours)
            continue
        standing = [pair(LayerStop(str(k), theirs, dense(theirs)), LayerStop(str(k), ours, pruned(ours)))]
        done = mine.meet(standing)
        assert done is not None
        found[done.layer] = done
        ((theirs, ours),) = replies(standing)
    return found


def test_layers_before_move_with_the_one_that_alone_reads_them() -> None:
    net, x = bottleneck(), images(COUNT, 3, 8, 8)
    for each in net:
        if isinstance(each, nn.ReLU6):
            each.inplace = False
    small = cast(nn.Sequential, remove(net, last_units(net, x, {"0": 8}, ["6"])))
    known = OutputPaths(
        {"0": 1, "3": 1, "6": 1}, {"0": "1", "3": "4", "6": "7"}, frozenset(),
        rectified={"0": (0.0, 6.0), "3": (0.0, 6.0)}, feeders={"3": "0", "6": "3"},
    )  # fmt: skip
    found = run(repairer(net, small, known), net.eval(), small.eval(), x)
    assert found["6"].together == ("0", "3") and found["0"].together == found["3"].together == ()
    apart = cast(nn.Sequential, remove(net, last_units(net, x, {"0": 8}, ["6"])))
    alone = run(repairer(net, apart, replace(known, feeders={})), net, apart.eval(), x)
    assert alone["6"].together == () and found["6"].error_left < alone["6"].error_left
