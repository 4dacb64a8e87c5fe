"""The walk of all images through the dense and the cut network, from layer to layer; some join late."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from causal_prune.compensation.layer_repair import LayerRepair, Repairer
from causal_prune.compensation.lockstep import Pair, Stream, stopping
from causal_prune.compensation.output_paths import OutputPaths, output_paths
from causal_prune.compensation.reestimation import check_same_task
from causal_prune.errors import InputError, warn
from causal_prune.network.row_groups import groups_in, row_groups_of, rows_together
from causal_prune.network.running import attempt, batch_size, joined_batches
from causal_prune.progress import track
from causal_prune.surgery import Cuts

HELD_OUT = 8
"""One image in so many judges the fits instead of making them."""
LIVING = 10
"""So many tensors of the size of a layer's input or output live per image while the layer is refitted."""
SHARE = 0.5
"""Of the memory this much is for them; the rest is for what one layer needs besides: patches, matrices, gradients."""


def walk(
    pruned: nn.Module,
    dense: nn.Module,
    cuts: Cuts,
    batches: Sequence[Any],
    *,
    seed: int,
    max_memory: int,
    label: str,
    views: int = 1,
) -> list[LayerRepair]:
    """Repair the layers of a cut network one after the other.

    Args:
        pruned: The cut network, in eval mode; its weights change.
        dense: The dense network.
        cuts: What was cut.
        batches: Inputs.
        seed: Of the places that are drawn.
        max_memory: Bytes for the activations that live at once, and for the matrices of one layer.
        label: What the progress bar is called.
        views: So many rows after each other are views of one image.

    Returns:
        What became of every layer, in order of execution.
    """
    together = rows_together(dense, batches[0], views)
    paths = _common_paths(pruned, dense, batches[0], together)
    repairer = Repairer(pruned, dense, cuts, paths, seed=seed, max_memory=max_memory)
    with ExitStack() as stack:
        stack.enter_context(stopping(pruned, paths))
        stack.enter_context(stopping(dense, paths))
        images = _Images(pruned, dense, batches, repairer, together, max_memory, stack)
        stops = sum(paths.calls.values()) + len(paths.sums)
        standing = track(images.standing(), label, total=stops, unit="layer")
        return [done for here in standing if (done := repairer.meet(here)) is not None]


def _common_paths(pruned: nn.Module, dense: nn.Module, inputs: Any, together: int) -> OutputPaths:
    few = row_groups_of(inputs, slice(0, 2), together)
    outputs = attempt("compensate: the pruned network", pruned, few, "batch 1 of calibration")
    check_same_task(dense, few, outputs)
    ours, theirs = output_paths(pruned, few), output_paths(dense, few)
    norms = {layer: norm for layer, norm in ours.norms.items() if theirs.norms.get(layer) == norm}
    same = {layer for layer in ours.calls if ours.norms.get(layer) == theirs.norms.get(layer)}
    sums = ours.sums & theirs.sums & same
    same -= ours.sums ^ theirs.sums
    rectified = {
        layer: bounds
        for layer, bounds in ours.rectified.items()
        if layer in same and theirs.rectified.get(layer) == bounds
    }
    feeders = {
        layer: feeder
        for layer, feeder in ours.feeders.items()
        if feeder in rectified and theirs.feeders.get(layer) == feeder
    }
    # of the two, the dense network's tensors are the larger ones
    sizes = theirs.sizes if len(theirs.sizes) == len(ours.sizes) else ours.sizes
    more = ours.given_more | theirs.given_more
    return OutputPaths(ours.calls, norms, frozenset(sums), sizes, rectified, feeders, more)


class _Images:
    """All images: those that go from layer to layer side by side, and those that wait for room to join them.

    So many take part as may live at the widest layer that is still ahead; deep in a network, where maps are small,
    these are more than in front. Those that join late first run through the layers that are repaired already.

    Args:
        pruned: The cut network, inside `stopping`.
        dense: The dense network, too.
        batches: Inputs.
        repairer: Repairs where they stand.
        together: Rows that stay together, from `rows_together`.
        max_memory: Bytes for the activations that live at once.
        stack: Closes the passes.
    """

    def __init__(
        self,
        pruned: nn.Module,
        dense: nn.Module,
        batches: Sequence[Any],
        repairer: Repairer,
        together: int,
        max_memory: int,
        stack: ExitStack,
    ) -> None:
        self.pruned, self.dense, self.repairer, self.stack = pruned, dense, repairer, stack
        self.waiting, self.together, self.max_memory = list(batches), together, max_memory
        sizes = repairer.paths.sizes
        self.ahead = [*accumulate(reversed(sizes), max)][::-1]
        """By layer the widest from it on."""
        self.pairs: list[Pair] = []
        self.living = self.groups = 0
        self.joined: list[tuple[str, int]] = []
        """At which layers some joined, and how many images took part from then on."""
        self.visits: Counter[tuple[str, str]] = Counter()
        """How often those in front have stood at every place."""

    def standing(self) -> Iterator[Sequence[Pair]]:
        """From stop to stop the pairs that stand there; whoever takes them lets them run on."""
        self._join()
        if not any(pair.held_out for pair in self.pairs):
            told = f"{self.max_memory / 2**20:,.0f} MiB hold" if self.waiting else "calibration has"
            warn(
                f"compensate: {told} fewer than {HELD_OUT} images to hold some out: refits are judged by what they fit"
            )
        for pair in self.pairs:
            pair.advance(None, None)
        while standing := [pair for pair in self.pairs if pair.pruned.stop is not None]:
            place = standing[0].pruned.place
            _check_same_place(standing)
            self.visits[place] += 1
            if self.waiting and place[0] == "layer":
                standing += self._join(place)
            yield [pair for pair in standing if pair.pruned.place == place]
        if len(self.joined) > 1 or self.waiting:
            self._tell()

    def _tell(self) -> None:
        """Warn that memory did not hold all images at all layers."""
        total = self.living + sum(map(batch_size, self.waiting))
        layer, count = self.joined[-1]
        later = f"{count} take part from {layer} on" if len(self.joined) > 1 else ""
        if self.waiting:
            later += f"{', ' if later else ''}the others are not used"
        warn(
            f"compensate: {self.max_memory / 2**20:,.0f} MiB hold the activations of {self.joined[0][1]} of {total} "
            f"calibration images at the first layers: {later}"
        )

    def _join(self, place: tuple[str, str] | None = None) -> list[Pair]:
        """Let as many of those that wait come along as there is room for; the new pairs, where the others stand."""
        at = sum(count for (kind, _), count in self.visits.items() if kind == "layer") - (place is not None)
        ahead = self.ahead[min(at, len(self.ahead) - 1)] if self.ahead else 0
        room = int(SHARE * self.max_memory / max(LIVING * ahead, 1)) - self.living
        sizes = [*accumulate(map(batch_size, self.waiting))]
        count = sum(size <= room for size in sizes)
        if not count and not self.pairs and sizes[0] > 1:
            first = max(1, room // self.together)
            self.waiting[:1] = [
                row_groups_of(self.waiting[0], slice(0, first), self.together),
                row_groups_of(self.waiting[0], slice(first, None), self.together),
            ]
        count = count if self.pairs else max(count, 1)
        coming, self.waiting = self.waiting[:count], self.waiting[count:]
        new = []
        for inputs, held_out in self._parts(coming):
            index = len(self.pairs)
            streams = [Stream(net, inputs, self.repairer.paths) for net in (self.dense, self.pruned)]
            pair = Pair(streams[0], streams[1], held_out, index)
            for stream in reversed(streams):
                self.stack.callback(stream.close)
            if place is not None and not self._through_the_front(pair, place):
                continue
            self.pairs.append(pair)
            new.append(pair)
        self.living += sum(map(batch_size, coming))
        if coming:
            self.joined.append((place[1] if place else "", self.living))
        return new

    def _through_the_front(self, pair: Pair, place: tuple[str, str]) -> bool:
        """Bring a pair to where the others stand; whether it comes there."""
        been: Counter[tuple[str, str]] = Counter()
        pair.advance(None, None)
        while pair.pruned.stop is not None:
            _check_same_place([pair])
            been[pair.pruned.place] += 1
            if pair.pruned.place == place and been[place] == self.visits[place]:
                return True
            self.repairer.pass_by(pair)
        return False

    def _parts(self, batches: Sequence[Any]) -> Iterator[tuple[Any, bool]]:
        """Every batch without each eighth image (or group of rows that belong together), and then those images."""
        last = []
        for batch in batches:
            size = groups_in(batch, self.together)
            chosen = (torch.arange(size) + self.groups) % HELD_OUT == HELD_OUT - 1
            self.groups += size
            if bool(chosen.any()):
                last.append(row_groups_of(batch, chosen, self.together))
            if not bool(chosen.any()):
                yield batch, False
            elif not bool(chosen.all()):
                yield row_groups_of(batch, ~chosen, self.together), False
        for group in [last[k : k + HELD_OUT] for k in range(0, len(last), HELD_OUT)]:
            yield from ((part, True) for part in joined_batches(group))


def _check_same_place(pairs: Sequence[Pair]) -> None:
    for pair in pairs:
        if pair.pruned.place != pair.dense.place:
            raise InputError(
                f"compensate: the cut network runs {pair.pruned.place[1]} where the dense one does not, so that the "
                "code of the network depends on the data; use method='batchnorm'"
            )
