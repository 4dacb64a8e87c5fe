"""Images that join the walk late stand where the others stand, with what the repaired layers in front make of them."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import causal_prune as cp
from causal_prune.compensation import walk as room
from causal_prune.compensation.compensation import _known_cuts, _least_squares, repair
from causal_prune.compensation.layer_repair import Repairer
from causal_prune.compensation.options import Repair
from causal_prune.errors import InputError
from causal_prune.surgery import stages_of
from tests.unit.drawn_weights import drawn
from tests.unit.own_padding import SameConv2d


class Narrowing(nn.Module):
    """Maps of a quarter of the size behind every stage; sums in place and not, and a series of three."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.n0 = nn.Conv2d(3, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.a1, self.a2 = nn.Conv2d(12, 12, 3, padding=1), nn.Conv2d(12, 12, 3, padding=1)
        self.b1, self.dw = nn.Conv2d(12, 24, 1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.b2, self.middle = nn.Conv2d(24, 12, 1), nn.Conv2d(12, 12, 1)
        self.c1, self.c2 = nn.Conv2d(12, 20, 3, padding=1), nn.Conv2d(20, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.n0(self.stem(x)))
        x = F.relu(self.a2(F.relu(self.a1(x))) + x)
        x = F.max_pool2d(x, 2)
        y = self.b2(F.relu6(self.dw(F.relu6(self.b1(x)))))
        y += x
        x = torch.tanh(self.middle(y))
        x = F.relu(self.c2(F.relu(self.c1(F.max_pool2d(x, 2)))))
        return self.head(x.mean(dim=(2, 3)))


def halved(net: nn.Module, images: Tensor) -> nn.Module:
    graph = cp.trace(net, images[:2])
    return cp.remove(net, cp.plan(graph, cp.score(graph, cp.observe(net, graph, [images])), keep_macs=0.5))


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


WIDEST, LAST = 12 * 256 * 4, 20 * 16 * 4


@pytest.mark.parametrize("batch", [8, 24, 96])
def test_late_images_meet_what_the_repaired_front_makes_of_them(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = drawn(Narrowing()).eval()
    images = noise(96)
    small = halved(net, images)
    standing: list[tuple[str, int]] = []
    meet = Repairer.meet

    def seen(self: Repairer, pairs: Any) -> Any:
        stop = pairs[0].pruned.stop
        standing.append((stop.layer, sum(len(pair.pruned.stop.source) for pair in pairs)))
        if stop.layer == "head":
            here.extend((pair.pruned.stop.source.clone(), pair.dense.stop.source.clone()) for pair in pairs)
        return meet(self, pairs)

    here: list[tuple[Tensor, Tensor]] = []
    monkeypatch.setattr(Repairer, "meet", seen)
    limit = 2 * room.LIVING * WIDEST * 24
    with pytest.warns(
        UserWarning, match="MiB hold the activations of (8|24) of 96 calibration images at the first"
    ):
        found = room_only(small, net, list(images.split(batch)), limit)
    counts = [count for _, count in standing]
    assert counts[0] <= 24 < 96 == counts[-1]
    assert counts == sorted(counts)
    # what stood at the head is what the repaired network computes, image by image, whenever an image joined
    wanted = torch.cat([features(found, image[None]) for image in images])
    met = torch.cat([ours for ours, _ in here])
    assert len(met) == len(wanted)
    for each in met:
        assert float((wanted - each).abs().amax(dim=1).min()) < 1e-5
    theirs = torch.cat([features(net, image[None]) for image in images])
    for each in torch.cat([dense for _, dense in here]):
        assert float((theirs - each).abs().amax(dim=1).min()) < 1e-5


def room_only(small: nn.Module, net: nn.Module, batches: list[Tensor], limit: int) -> nn.Module:
    """The fit alone, without the guard."""
    cuts = _known_cuts(small, net, stages_of(small))
    return _least_squares(small, net, cuts, batches, seed=0, max_memory=limit, device="cpu", label="fit")[0]


def test_late_images_take_part_in_refits_that_began_before_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    net = drawn(
        nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 24, 1), nn.ReLU6(), nn.Conv2d(24, 24, 4, 4, groups=24),
            nn.ReLU6(),
            nn.Conv2d(24, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5),
        )
    ).eval()  # fmt: skip
    images = noise(256)
    small = halved(net, images)
    cuts = _known_cuts(small, net, stages_of(small))
    standing: list[tuple[str, int]] = []
    meet = Repairer.meet

    def seen(self: Repairer, pairs: Any) -> Any:
        standing.append((pairs[0].pruned.stop.layer, sum(len(pair.pruned.stop.source) for pair in pairs)))
        return meet(self, pairs)

    monkeypatch.setattr(Repairer, "meet", seen)
    with pytest.warns(
        UserWarning, match="of 64 of 256 calibration images at the first layers: 256 take part from 6 on"
    ):
        _, layers = _least_squares(
            small, net, cuts, list(images.split(16)), seed=0, max_memory=2 * room.LIVING * 24 * 256 * 4 * 64,
            device="cpu", label="fit",
        )  # fmt: skip
    assert dict(standing)["2"] == 64 and dict(standing)["6"] == 256, "they come in the middle of the series"
    assert {layer.layer: layer.together for layer in layers}["6"] == ("2", "4")


def features(model: nn.Module, image: Tensor) -> Tensor:
    """What the head reads."""
    read: list[Tensor] = []
    hook = model.get_submodule("head").register_forward_pre_hook(lambda _, args: read.append(args[0]))
    with torch.no_grad():
        model.eval()(image)
    hook.remove()
    return read[0]


def test_all_late_images_help() -> None:
    """Where memory is short in front alone, the repair is nearly as good as with all images everywhere."""
    net = drawn(Narrowing()).eval()
    images, probe = noise(256), noise(128, 9)
    small = halved(net, images)
    batches = list(images.split(16))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = net(probe)

        def lost(limit: int) -> float:
            return float((repair(small, net, batches, Repair(max_memory=limit)).model(probe) - wanted).norm())

        cut = float((small(probe) - wanted).norm())
        whole, late = lost(2 * room.LIVING * WIDEST * 256), lost(room.LIVING * WIDEST * 64)
    assert abs(late - whole) < 0.1 * (cut - whole)


def test_where_memory_is_short_to_the_end_it_is_said_how_many_took_part() -> None:
    net = drawn(
        nn.Sequential(nn.Conv2d(3, 12, 3, stride=2), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.Upsample(scale_factor=4),
                      nn.Conv2d(12, 4, 3))
    ).eval()  # fmt: skip
    images = noise(96)
    small = halved(net, images)
    limit = Repair(max_memory=2 * room.LIVING * 12 * 20 * 20 * 4 * 24)
    with pytest.warns(
        UserWarning, match="of 24 of 96 calibration images at the first layers: the others are not"
    ):
        repair(small, net, list(images.split(8)), limit)


def test_all_views_of_an_image_make_the_fit_or_judge_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net = drawn(Narrowing()).eval()
    images = noise(40)
    small = halved(net, images)
    marked = torch.stack(
        [image.clone().index_fill_(0, torch.tensor(0), float(k)) for k, image in enumerate(images)]
    )
    rows = marked.repeat_interleave(3, dim=0)
    parts: list[tuple[list[float], bool]] = []
    meet = Repairer.meet

    def seen(self: Repairer, pairs: Any) -> Any:
        if pairs[0].pruned.stop.layer == "stem":
            parts.extend((pair.pruned.stop.source[:, 0, 0, 0].tolist(), pair.held_out) for pair in pairs)
        return meet(self, pairs)

    monkeypatch.setattr(Repairer, "meet", seen)
    cp.compensate(small, net, list(rows.split(30)), views=3)
    # one walk after the other: the guard's folds, then the last one with all images
    last: list[tuple[list[float], bool]] = []
    total = 0
    for marks, held in reversed(parts):
        last.append((marks, held))
        total += len(marks)
        if total == 120:
            break
    fitting = {mark for marks, held in last if not held for mark in marks}
    judging = {mark for marks, held in last if held for mark in marks}
    assert not fitting & judging
    assert fitting | judging == set(map(float, range(40)))


def test_rows_that_are_no_whole_images_are_refused() -> None:
    net = drawn(Narrowing()).eval()
    images = noise(40)
    small = halved(net, images)
    with pytest.raises(InputError, match="7 rows of a batch are no whole images of 2 views"):
        cp.compensate(small, net, [images[:8], images[:7]], views=2)
    with pytest.raises(InputError, match="7 rows of batch 2 are no whole images of 2 views"):
        cp.observe(net, cp.trace(net, images[:2]), [images[:8], images[:7]], views=2)


def test_convolutions_that_pad_by_themselves_are_refitted_together() -> None:
    net = drawn(
        nn.Sequential(
            SameConv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), SameConv2d(12, 12, 3, groups=12, stride=2),
            nn.ReLU6(), SameConv2d(12, 8, 1), nn.ReLU(), SameConv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 5),
        )
    ).eval()  # fmt: skip
    images = noise(256)
    found = repair(halved(net, images), net, list(images.split(64)))
    assert any(layer.together for layer in found.layers)
