"""Joint moments of what a layer reads: whole patches, or channels where patches would not fit."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from math import gcd, prod
from statistics import median

import torch
from torch import Tensor, nn

from causal_prune.observation.gathering import Gathering, gather_all
from causal_prune.observation.sampling_noise import SamplingNoise
from causal_prune.tracing import FilterGraph

LEAST_TOLD = 0.001
"""Shrinkages below this are not worth a word."""
LONGEST_PATCH = 8192
"""Patches of more numbers than this are read as channels: inverting their covariance would take minutes."""


@dataclass(frozen=True)
class ReadMoments:
    """Joint moments of what a layer reads at its output positions.

    Attributes:
        rows: Number of patches seen; fewer than inputs leave the covariance without full rank.
        covariance: Of shape (groups, inputs, inputs). The inputs of a group are its channels times the kernel's
            elements, the elements of a channel side by side; or its channels alone.
        shape: None, or, where the inputs are channels alone, the mean covariance between the elements of a channel's
            patch, shape (elements, elements), of trace `elements`. The covariance of whole patches is then taken for
            covariance (x) shape: between channels it is the mean over the elements, within a channel that of the mean
            channel. A linear layer behind a flattened map counts the pixels of a channel as its elements.
        shrinkage: How much of the covariances between channels is noise of few images (see `SamplingNoise`).
    """

    rows: int
    covariance: Tensor
    shape: Tensor | None
    shrinkage: float = 0.0

    @property
    def rank(self) -> int:
        """More the covariance's rank cannot be."""
        return self.rows * (1 if self.shape is None else len(self.shape))

    def own(self, elements: int) -> int:
        """Inputs of a channel.

        Args:
            elements: Elements of the layer's kernel; 1 for a linear layer.

        Returns:
            The elements, or 1 where the inputs are channels alone.
        """
        return 1 if self.shape is not None else elements

    def believed(self, elements: int) -> Tensor:
        """The covariance without the noise of few images: what it says between channels, shrunk.

        Args:
            elements: Elements of the layer's kernel; 1 for a linear layer.

        Returns:
            Of the shape of the covariance; a channel's own block is as it was.
        """
        if not self.shrinkage:
            return self.covariance
        groups, inputs = self.covariance.shape[:2]
        own = self.own(elements)
        shrunk = (self.covariance * (1 - self.shrinkage)).reshape(
            groups, inputs // own, own, inputs // own, own
        )
        blocks = self.covariance.reshape(shrunk.shape).diagonal(dim1=1, dim2=3)
        shrunk.diagonal(dim1=1, dim2=3).copy_(blocks)
        return shrunk.reshape(groups, inputs, inputs)

    def columns(self, position: int, elements: int) -> tuple[int, list[int]]:
        """Where an input channel of the layer stands.

        Args:
            position: Index among the layer's input channels; of a linear layer its features.
            elements: Elements of the layer's kernel; 1 for a linear layer.

        Returns:
            The group and the inputs within it.
        """
        inputs = self.covariance.shape[1]
        if self.shape is not None:
            channel = position if elements > 1 else position // len(self.shape)
            return channel // inputs, [channel % inputs]
        inside = inputs // elements
        first = position % inside * elements
        return position // inside, list(range(first, first + elements))

    def equations(self, weight: Tensor) -> Tensor:
        """A layer's weight over these inputs.

        Args:
            weight: Shape (filters, inputs per group, kernel elements).

        Returns:
            Shape (groups, rows, inputs). With channels alone every filter has one row per element, such that the
            squares of all add up to the filter's variance.
        """
        groups, inputs = self.covariance.shape[:2]
        if self.shape is None:
            return weight.reshape(groups, -1, inputs)
        values, vectors = torch.linalg.eigh(self.shape)
        root = vectors * values.clamp_min(0).sqrt()
        mixed: Tensor = weight.reshape(len(weight), inputs, -1) @ root
        return mixed.transpose(1, 2).reshape(groups, -1, inputs)


class ReadGathering:
    """Gathers the moments of one layer.

    Args:
        groups: Groups of the layer.
        channels: Input channels of a group.
        elements: Elements of the kernel.
        whole: Whether patches are read whole.
        device: Where to add up.
    """

    def __init__(self, groups: int, channels: int, elements: int, whole: bool, device: torch.device) -> None:
        self.taps, self._channels, self._whole = elements, channels, whole
        if whole:
            self.gatherings = [Gathering(groups, 1, channels * elements, device)]
        else:
            self.gatherings = [
                Gathering(groups, elements, channels, device), Gathering(groups * channels, 1, elements, device)
            ]  # fmt: skip
        self.noise = SamplingNoise(groups, channels * elements if whole else channels, channels, device)

    @property
    def seen(self) -> bool:
        """Whether anything was read."""
        return self.gatherings[0].count > 0

    def add(self, rows: Tensor, per_image: int = 1) -> None:
        """Count rows.

        Args:
            rows: Shape (groups, n, elements, channels), float64; overwritten.
            per_image: So many rows after each other are of one image.
        """
        groups, n, taps, channels = rows.shape
        if n == 0:
            return
        rows = rows.to(self.gatherings[0].scatter.device)
        if self._whole:
            rows = rows.reshape(groups, n, 1, taps * channels)
        else:
            own = rows.permute(0, 3, 1, 2).reshape(groups * channels, n, 1, taps)
            self.gatherings[1].add(own.clone() if own.data_ptr() == rows.data_ptr() else own)
            rows = rows.contiguous()
        self.noise.add(rows.flatten(1, 2), per_image * rows.shape[2])
        self.gatherings[0].add(rows)

    def gather(self) -> None:
        """Give every process what all have counted."""
        for gathering in self.gatherings:
            gather_all(gathering)
        self.noise.gather(self.gatherings[0].mean.mean(dim=1))

    def result(self) -> ReadMoments:
        """The moments, on the CPU.

        Returns:
            The moments; the gathering's memory is given back.
        """
        rows = self.gatherings[0].count
        covariance = self.gatherings[0].result().covariance.cpu()
        shrinkage = self.noise.shrinkage(covariance.to(self.noise.total.device))
        shape = None
        if self._whole:
            order = torch.arange(covariance.shape[1]).reshape(self.taps, self._channels).mT.flatten()
            covariance = covariance[:, order][:, :, order]
        else:
            own = self.gatherings[1].result().covariance.cpu()
            size = own.diagonal(dim1=1, dim2=2).mean(dim=1)
            live = size > 0
            shape = torch.eye(self.taps, dtype=torch.float64)
            if bool(live.any()):
                shape = (own[live] / size[live][:, None, None]).mean(dim=0)
        self.gatherings.clear()
        return ReadMoments(rows, covariance, shape, shrinkage)


def planned_reads(
    modules: Mapping[str, nn.Module], graph: FilterGraph, limit: int, device: torch.device
) -> tuple[dict[str, ReadGathering], tuple[str, ...]]:
    """What is to be read of every consumer of a prunable group, within a limit.

    Whole patches are the exact inputs of the structural equations. The layers with the longest patches are read as
    channels, until all fit: then the coefficients with which channels reproduce each other are the same for all
    elements of the kernel, which is exact where patches look alike at every element.

    Args:
        modules: The network's modules by name.
        graph: From `trace`.
        limit: Bytes that all moments together may take.
        device: Where to add up.

    Returns:
        Empty gatherings by layer, and notes on what is read as channels.
    """
    names = dict.fromkeys(m.layer for group in graph.prunable for m in group.of_role("consumer"))
    sizes: dict[str, tuple[int, int, int]] = {}
    whole: dict[str, bool] = {}
    for name in names:
        module, layer = modules[name], graph.layers[name]
        if isinstance(module, nn.Linear):
            sizes[name], whole[name] = (1, layer.inputs, 1), True
        else:
            elements = prod(module.kernel_size)  # type: ignore[arg-type]
            sizes[name], whole[name] = (layer.groups, layer.inputs // layer.groups, elements), True

    def reduced(name: str) -> tuple[int, int, int]:
        groups, channels, elements = sizes[name]
        if elements > 1:
            return sizes[name]
        run = _shortest_run(graph, name) if groups == 1 and isinstance(modules[name], nn.Linear) else 1
        return groups, channels // run, run

    def needed(name: str) -> int:
        return _bytes(*(sizes[name] if whole[name] else reduced(name)), whole=whole[name])

    notes: list[str] = []
    open_names = sorted((name for name in names if reduced(name)[2] > 1), key=needed, reverse=True)
    for name in open_names:
        long = sizes[name][1] * sizes[name][2] > LONGEST_PATCH
        if long or sum(map(needed, names)) > limit:
            whole[name] = False
            why = f"longer than {LONGEST_PATCH}" if long else f"not within {limit / 1e6:.0f} MB of memory"
            notes.append(
                f"{name} is read as channels: its patches of {sizes[name][1] * sizes[name][2]} numbers are {why}"
            )
    if sum(map(needed, names)) > limit:
        notes.append(
            f"the moments take {sum(map(needed, names)) / 1e6:.0f} MB, more than the {limit / 1e6:.0f} MB "
            "that max_memory leaves for them, though all layers that can be are read as channels"
        )
    made = {
        name: ReadGathering(*(sizes[name] if whole[name] else reduced(name)), whole[name], device)
        for name in names
    }
    return made, tuple(notes)


def _bytes(groups: int, channels: int, elements: int, *, whole: bool) -> int:
    if whole:
        return 8 * groups * (channels * elements) ** 2
    return 8 * groups * (channels**2 + channels * elements**2)


def _shortest_run(graph: FilterGraph, name: str) -> int:
    """Consecutive features of a linear layer that belong together: the pixels of a flattened map."""
    owners: list[tuple[str, int] | None] = [None] * graph.layers[name].inputs
    for group in graph.groups:
        for member in group.members:
            if member.layer == name and member.axis == "in":
                for position, unit in zip(member.positions, member.units, strict=True):
                    owners[position] = (group.name, unit)
    run = 0
    for _, features in groupby(owners):
        run = gcd(run, sum(1 for _ in features))
    return max(run, 1)


def undetermined(reads: Mapping[str, ReadMoments]) -> tuple[str, ...]:
    """Notes on layers of which no more patches were seen than they have inputs.

    Args:
        reads: Moments by layer.

    Returns:
        One sentence per layer, with both numbers.
    """
    return tuple(
        f"{read.rows} patches cannot determine how the {read.covariance.shape[1]} inputs of {name} reproduce each "
        "other: give more images"
        for name, read in reads.items()
        if read.rows <= read.covariance.shape[1]
    )


def how_shrunk(reads: Mapping[str, ReadMoments]) -> tuple[str, ...]:
    """A note on what few images leave open, and what was done about it.

    Args:
        reads: Moments by layer.

    Returns:
        One sentence, with the median and the largest shrinkage; none where all are below a thousandth.
    """
    shares = {name: read.shrinkage for name, read in reads.items()}
    if not shares or max(shares.values()) < LEAST_TOLD:
        return ()
    worst = max(shares, key=shares.__getitem__)
    by = f"by {median(shares.values()):.1%} at the median layer, by {shares[worst]:.1%} at {worst}"
    return (f"covariances between channels were shrunk for what the images leave open: {by}",)
