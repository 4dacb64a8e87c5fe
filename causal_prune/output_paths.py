"""What becomes of a layer's output: which batch norm alone reads it, and into which sum it goes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from causal_prune.batches import Inputs, call, tensors_in
from causal_prune.layer_rules import MIXING, BatchNorm

ADDITIONS = (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)


@dataclass(frozen=True)
class OutputPaths:
    """The result of `output_paths`.

    Attributes:
        calls: How often every convolution and linear layer runs, in order of execution.
        norms: By layer the batch norm that reads its output and is its only reader.
        sums: Layers whose output, through that batch norm if there is one, is added to another tensor of the same
            shape and goes nowhere else; one for every sum, the one that reads most.
        widest_bytes: Most bytes that the output of a layer takes for one image.
    """

    calls: Mapping[str, int]
    norms: Mapping[str, str]
    sums: frozenset[str]
    widest_bytes: int = 0


@dataclass
class _Seen(TorchDispatchMode):
    """Counts the readers of every tensor, and notes what is added."""

    uses: Counter[int] = field(default_factory=Counter)
    added: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    overwritten: dict[int, int] = field(default_factory=dict)
    alive: list[Any] = field(default_factory=list)  # an address is a name only while its tensor lives

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def readers(self, tensor: Tensor) -> int:
        """How many operations read what a tensor held when it was made."""
        return self.overwritten.get(id(tensor), self.uses[id(tensor)])

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self.uses[id(leaf)] += 1
        if func in ADDITIONS and isinstance(args[1], Tensor) and args[0].shape == args[1].shape:
            self.added.append((args[0], args[1]))
        if func is ADDITIONS[1]:
            self.overwritten[id(args[0])] = self.uses[id(args[0])]  # whoever reads it later reads the sum
        self.alive.append((args, kwargs, out))
        return out


def output_paths(model: nn.Module, inputs: Inputs) -> OutputPaths:
    """Run a network once and see where the outputs of its layers go.

    Args:
        model: In eval mode.
        inputs: One batch; two images are enough.

    Returns:
        The paths.

    Cost: one forward pass, all of whose activations are kept until its end.
    """
    names = {module: name for name, module in model.named_modules()}
    seen = _Seen()
    calls: Counter[str] = Counter()
    makers: dict[int, str] = {}
    reads: list[tuple[Tensor, Tensor, str]] = []
    widest = 0
    images = max(1, len(tensors_in(inputs)[0]))

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        nonlocal widest
        if isinstance(module, MIXING):
            widest = max(widest, out.numel() * out.element_size() // images)
            calls[names[module]] += 1
            makers[id(out)] = names[module]
        else:
            reads.append((args[0] if args else kwargs["input"], out, names[module]))

    handles = [
        module.register_forward_hook(after, with_kwargs=True, prepend=True)
        for module in names
        if isinstance(module, (*MIXING, *BatchNorm))
    ]
    try:
        with torch.no_grad(), seen:
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    tracked = {n for n, m in model.named_modules() if isinstance(m, BatchNorm) and m.running_mean is not None}
    norms = {
        makers[id(source)]: name
        for source, _, name in reads
        if id(source) in makers and seen.readers(source) == 1 and name in tracked
    }
    norms = {layer: norm for layer, norm in norms.items() if calls[layer] == 1}
    ends = {id(out): makers[id(source)] for source, out, _ in reads if makers.get(id(source)) in norms}
    return OutputPaths(dict(calls), norms, frozenset(_sums(model, seen, {**makers, **ends}, calls)), widest)


def _sums(model: nn.Module, seen: _Seen, ends: Mapping[int, str], calls: Mapping[str, int]) -> set[str]:
    modules = dict(model.named_modules())
    found = set()
    for pair in seen.added:
        candidates = [
            ends[id(t)] for t in pair if id(t) in ends and seen.readers(t) == 1 and calls[ends[id(t)]] == 1
        ]
        if candidates and pair[0] is not pair[1]:
            found.add(max(candidates, key=lambda name: modules[name].weight[0].numel()))
    return found
