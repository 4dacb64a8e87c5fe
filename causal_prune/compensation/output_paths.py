"""What becomes of a layer's output: which batch norm alone reads it, which sum it goes into, what rectifies that."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from causal_prune.network.hooks import Further, calls_seen
from causal_prune.network.layer_kinds import MIXING, BatchNorm
from causal_prune.network.layer_matrices import channel_dim
from causal_prune.network.running import Inputs, batch_size, call
from causal_prune.network.tensor_trees import tensors_in

ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
INFINITE = float("inf")
Bounds = tuple[float, float]


@dataclass(frozen=True)
class OutputPaths:
    """The result of `output_paths`.

    Attributes:
        calls: How often every convolution and linear layer runs, in order of execution.
        norms: By layer the batch norm that reads its output and is its only reader.
        sums: Layers whose output, through that batch norm if there is one, is added to another tensor of the same
            shape and goes nowhere else; one for every sum, the one that reads most.
        sizes: By call of a layer, in order of execution, the bytes that its input or its output takes for one image,
            whichever is larger.
        rectified: By layer that runs once the least and the largest value that get through, where its output, behind
            that batch norm and that sum if there are such, is read by a rectifier (ReLU, ReLU6, clamp) and by nothing
            else.
        feeders: By layer that runs once the layer whose rectified output it reads, where nothing else reads that and
            no sum lies between.
        given_more: Layers that are called with more than their input.
    """

    calls: Mapping[str, int]
    norms: Mapping[str, str]
    sums: frozenset[str]
    sizes: Sequence[int] = ()
    rectified: Mapping[str, Bounds] = field(default_factory=dict)
    feeders: Mapping[str, str] = field(default_factory=dict)
    given_more: frozenset[str] = frozenset()


Contents = tuple[int, int]
"""What a tensor holds: its address, and how often it has been overwritten."""


@dataclass
class _Seen(TorchDispatchMode):
    """Counts the readers of what every tensor holds, and notes what is added and what is rectified."""

    written: Counter[int] = field(default_factory=Counter)
    uses: Counter[Contents] = field(default_factory=Counter)
    added: list[tuple[Contents, Contents, Contents]] = field(default_factory=list)
    rectified: dict[Contents, Bounds] = field(default_factory=dict)
    let_through: dict[Contents, Contents] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)  # an address is a name only while its tensor lives

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def held_by(self, tensor: Tensor) -> Contents:
        """What a tensor holds now."""
        return id(tensor), self.written[id(tensor)]

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        read = [self.held_by(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        self.uses.update(read)
        bounds = _bounds(func, args, kwargs)
        if bounds is not None:
            self.rectified[read[0]] = bounds
        out = func(*args, **kwargs)
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor):
                self.written[id(value)] += 1
        if bounds is not None:
            self.let_through[self.held_by(out)] = read[0]
        if func in ADDITIONS and isinstance(args[1], Tensor) and args[0].shape == args[1].shape:
            self.added.append((read[0], read[1], self.held_by(out)))
        self.alive.append((args, kwargs, out))
        return out


@dataclass
class _Calls:
    """Notes which layer or batch norm made a tensor of another one.

    `makers` names by what a layer returned that layer, `sources` by layer what it read last; `channels_first` are the
    layers whose channels are where a batch norm has its own; `normed` holds for every run of a batch norm what it read,
    what it returned, and its name.
    """

    seen: _Seen
    images: int
    runs: Counter[str] = field(default_factory=Counter)
    makers: dict[Contents, str] = field(default_factory=dict)
    sources: dict[str, Contents] = field(default_factory=dict)
    channels_first: set[str] = field(default_factory=set)
    normed: list[tuple[Contents, Contents, str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    given_more: set[str] = field(default_factory=set)

    def note(self, name: str, module: nn.Module, read: Tensor, out: Tensor) -> None:
        """Take down a call of a layer or a batch norm."""
        source, made = self.seen.held_by(read), self.seen.held_by(out)
        if not isinstance(module, MIXING):
            self.normed.append((source, made, name))
            return
        self.runs[name] += 1
        self.sources[name], self.makers[made] = source, name
        self.sizes.append(max(each.numel() * each.element_size() for each in (read, out)) // self.images)
        if channel_dim(module, out) == 1:
            self.channels_first.add(name)


def _bounds(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bounds | None:
    """The least and the largest value that an operation lets through, if that is all it does."""
    name = str(func._schema.name).split("::")[-1].rstrip("_")
    if name == "relu":
        return 0.0, INFINITE
    given = {argument.name: argument.default_value for argument in func._schema.arguments} | dict(kwargs)
    given |= {argument.name: value for argument, value in zip(func._schema.arguments, args, strict=False)}
    low, high = {
        "hardtanh": (given.get("min_val"), given.get("max_val")),
        "clamp": (given.get("min"), given.get("max")),
        "clamp_min": (given.get("min"), None),
    }.get(name, (None, None))
    if isinstance(low, Tensor) or isinstance(high, Tensor) or low is high is None:
        return None
    return -INFINITE if low is None else float(low), INFINITE if high is None else float(high)


def output_paths(model: nn.Module, inputs: Inputs) -> OutputPaths:
    """Run a network once and see where the outputs of its layers go.

    Args:
        model: In eval mode.
        inputs: One batch; two images are enough.

    Returns:
        The paths.

    Cost: one forward pass, all of whose activations are kept until its end.
    """
    seen, calls = _watched(model, inputs)
    runs, makers = calls.runs, calls.makers
    tracked = {n for n, m in model.named_modules() if isinstance(m, BatchNorm) and m.running_mean is not None}
    norm_runs = Counter(name for _, _, name in calls.normed)
    norms = {
        makers[source]: name
        for source, _, name in calls.normed
        if makers.get(source) in calls.channels_first
        and seen.uses[source] == runs[makers[source]] == norm_runs[name] == 1
        and name in tracked
    }
    ends = makers | {out: makers[source] for source, out, _ in calls.normed if makers.get(source) in norms}
    sums = _sums(model, seen, ends, runs)
    last = {layer: contents for contents, layer in ends.items()} | sums
    rectified = {
        layer: seen.rectified[contents]
        for layer, contents in last.items()
        if runs[layer] == 1 and seen.uses[contents] == 1 and contents in seen.rectified
    }
    before = {contents: layer for layer, contents in last.items() if layer in rectified and layer not in sums}
    feeders = {
        layer: before[seen.let_through[contents]]
        for layer, contents in calls.sources.items()
        if runs[layer] == seen.uses[contents] == 1 and seen.let_through.get(contents) in before
    }
    more = frozenset(calls.given_more)
    return OutputPaths(dict(runs), norms, frozenset(sums), calls.sizes, rectified, feeders, more)


def _watched(model: nn.Module, inputs: Inputs) -> tuple[_Seen, _Calls]:
    seen = _Seen()
    calls = _Calls(seen, images=max(1, batch_size(inputs)))
    layers = {n: module for n, module in model.named_modules() if isinstance(module, (*MIXING, *BatchNorm))}

    def further(name: str, more: Further) -> None:
        if more:
            calls.given_more.add(name)

    with calls_seen(layers, calls.note, first=True, further=further), torch.no_grad(), seen:
        returned = call(model, inputs)
        seen.uses.update(seen.held_by(leaf) for leaf in tensors_in(returned))
    return seen, calls


def _sums(
    model: nn.Module, seen: _Seen, ends: Mapping[Contents, str], calls: Mapping[str, int]
) -> dict[str, Contents]:
    modules = dict(model.named_modules())
    found = {}
    for first, second, total in seen.added:
        candidates = [
            ends[held]
            for held in (first, second)
            if held in ends and seen.uses[held] == 1 and calls[ends[held]] == 1
        ]
        if candidates and first != second:
            found[max(candidates, key=lambda name: modules[name].weight[0].numel())] = total
    return found
