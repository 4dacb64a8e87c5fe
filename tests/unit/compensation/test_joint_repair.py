"""Layers in series move together where that helps, and stay where it does not."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from causal_prune.compensation.compensation import repair
from causal_prune.compensation.joint_repair import _samples
from causal_prune.compensation.layer_targets import Wanted
from causal_prune.compensation.options import Repair
from causal_prune.surgery.removal import remove
from causal_prune.surgery.silencing import zero
from tests.unit.compensation.cut_nets import bottleneck, images, last_units, series_of
from tests.unit.drawn_weights import drawn


def off(model: nn.Module, net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return (model(x) - net(x)).square().mean(dim=(0, 2, 3))


def test_filters_that_are_left_move_to_where_their_reader_does_best(monkeypatch: pytest.MonkeyPatch) -> None:
    # the eighth that is held out here is of all images
    monkeypatch.setattr("causal_prune.compensation.compensation.MADE_AGAIN", 10**6)
    net, x, probe = bottleneck(), images(256, 3, 8, 8), images(64, 3, 8, 8, seed=3)
    chosen = last_units(net, x, {"0": 8}, ["6"])
    small = remove(net, chosen)
    together = repair(small, net, [x])
    (last,) = [layer for layer in together.layers if layer.layer == "6"]
    assert last.together == ("0", "3") and last.outcome == "refitted"
    silenced = repair(zero(net, chosen), net, [x])
    assert [layer.together for layer in silenced.layers] == [layer.together for layer in together.layers]
    removed, zeroed = (float(off(each.model, net, probe).sum()) for each in (together, silenced))
    assert zeroed == pytest.approx(removed, rel=0.25)  # other rows are drawn
    assert bool((silenced.model[0].weight.flatten(1).abs().sum(dim=1) > 0).sum() == 8)
    held = x[torch.arange(256) % 8 == 7]
    share = off(together.model, net, held) / net[7].weight.detach().square() * net[7].running_var
    cut = off(small, net, held) / net[7].weight.detach().square() * net[7].running_var
    assert last.error_left == pytest.approx(float(share.sum() / cut.sum()), rel=1e-3)
    assert bool((off(together.model, net, held) <= off(small, net, held) * (1 + 1e-3)).all())

    monkeypatch.setattr("causal_prune.compensation.joint_repair.STEPS", 0)
    alone = repair(small, net, [x])
    assert not any(layer.together for layer in alone.layers)
    assert float(off(together.model, net, probe).sum()) < 0.8 * float(off(alone.model, net, probe).sum())


def test_a_step_that_does_not_help_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = bottleneck(), images(64, 3, 8, 8)
    small = remove(net, last_units(net, x, {"0": 8}, ["6"]))
    monkeypatch.setattr("causal_prune.compensation.joint_repair.STEPS", 0)
    alone = repair(small, net, [x])
    monkeypatch.setattr("causal_prune.compensation.joint_repair.STEPS", 2)
    monkeypatch.setattr("causal_prune.compensation.joint_repair.LENGTHS", (-1.0, -0.5))
    refused = repair(small, net, [x])
    assert not any(layer.together for layer in refused.layers)
    for ours, theirs in zip(refused.model.parameters(), alone.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


class Gain(nn.Conv2d):
    """A layer that computes with more than weight and bias."""

    def __init__(self, *args: int) -> None:
        super().__init__(*args)
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.gain)


def test_series_may_overlap_and_leave_out_layers_of_other_kinds() -> None:
    x = images(256, 3, 8, 8)
    for first, names in ((nn.Conv2d, {"2": ("0",), "4": ("2",)}), (Gain, {"4": ("2",)})):
        net = drawn(
            nn.Sequential(first(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3)),
            mean=0.1,
            seed=11,
        )
        small = remove(net, last_units(net, x, {"0": 12 if first is Gain else 6, "2": 6}, ["4"]))
        repaired = repair(small, net, [x])
        assert {layer.layer: layer.together for layer in repaired.layers if layer.together} == names
        assert float(off(repaired.model, net, x).sum()) < 0.5 * float(off(small, net, x).sum())


class Overwriting(nn.Module):
    """What the first layer read is overwritten before the second one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x))
        y = torch.relu(self.a(x))
        x.add_(1)
        return self.b(y) + x.mean(dim=1, keepdim=True)


def test_what_is_gone_cannot_be_computed_again() -> None:
    net, x = drawn(Overwriting(), mean=0.1, seed=11), images(64, 3, 6, 6)
    small = remove(net, last_units(net, x, {"a": 4}, ["stem"]))
    repaired = repair(small, net, [x])
    outcome = {layer.layer: (layer.outcome, layer.together) for layer in repaired.layers}
    assert outcome["b"] == ("refitted", ())


def test_short_memory_looks_at_fewer_images_or_leaves_it() -> None:
    net, x = bottleneck(), images(256, 3, 8, 8)
    small = remove(net, last_units(net, x, {"0": 8}, ["6"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        repaired = repair(small, net, [x], Repair(max_memory=2000))
    assert not any(layer.together for layer in repaired.layers)


def test_images_are_taken_from_all_batches_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causal_prune.compensation.joint_repair.FEWEST_IMAGES", 128)
    monkeypatch.setattr("causal_prune.compensation.joint_repair.IMAGES_AT_ONCE", 64)
    net = bottleneck()
    series = series_of(net)
    sources = [images(40, 3, 8, 8, seed=k) for k in range(5)] + [images(30, 3, 4, 4)]
    fit = []
    for source in sources:
        read = series.read_by_last(source)
        out = net[6](read).detach()
        item = Wanted(None, read, read, out, 1.0, out, out, torch.ones(6))  # type: ignore[arg-type]
        fit.append((source, item))
    counts = [len(sample.source) for sample in _samples(series, fit, 10**9)]
    # 128 of 230: 23 of 40, rounded up in every batch; 64 at once at least, of the same shape
    assert counts == [69, 46, 17]
    assert sum(len(sample.read) for sample in _samples(series, fit, 2 * 10**6)) < 60
    (first, *_) = _samples(series, fit, 10**9)
    torch.testing.assert_close(first.first, net[6](first.read))
    assert torch.equal(first.source[23:46], sources[1][:23])
