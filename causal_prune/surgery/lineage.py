"""What a cut network knows of its past: every cut that led to it, and what they come to together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from causal_prune.errors import InputError
from causal_prune.network.layer_kinds import widths_of
from causal_prune.surgery.cuts import Cuts, LayerCut, ParameterCut

RECORD = "_causal_prune_cuts"
"""Attribute of a cut network, and of each of its layers that were cut; copies and pickles carry it, state dicts do not.
"""


@dataclass(frozen=True)
class Stage:
    """One cut.

    Attributes:
        cuts: What was cut, in indices of the network before.
        removes: Whether channels were removed; else they were silenced, and all shapes stayed.
    """

    cuts: Cuts
    removes: bool = True


@dataclass(frozen=True)
class Record:
    """What a network or one of its layers remembers.

    Attributes:
        stages: All cuts, the first first.
        name: Name of the layer in the network that was cut; empty for the network itself.
    """

    stages: tuple[Stage, ...]
    name: str = ""

    def __deepcopy__(self, memo: Any) -> "Record":
        return self  # nothing in it changes


def record_cuts(
    model: nn.Module, cuts: Cuts, before: Sequence[Stage] = (), *, removes: bool = True
) -> nn.Module:
    """Keep the cuts that made a network with it.

    Every layer that was cut keeps them as well: copies of a `torch.fx.GraphModule`, feature extractors made of the
    network and wrappers around it forget what the network itself holds, and keep its layers.

    Args:
        model: The cut network.
        cuts: What was cut, or silenced, in indices of the network before.
        before: The cuts that had led to that one.
        removes: Whether channels were removed.

    Returns:
        The same network.
    """
    stages = (*before, Stage(cuts, removes))
    vars(model)[RECORD] = Record(stages)
    for name, module in model.named_modules():
        if name and any(name in stage.cuts.layers for stage in stages):
            vars(module)[RECORD] = Record(stages, name)
    return model


def stages_of(model: nn.Module) -> tuple[Stage, ...]:
    """The cuts that made a network.

    Args:
        model: From `remove`, `zero` or `load`, a copy of it, or a wrapper around it.

    Returns:
        The cuts, the first first, by the names that the layers have in `model`; empty for a network that was not made
        there.
    """
    own = vars(model).get(RECORD)
    if isinstance(own, Record):
        return own.stages
    found: list[tuple[str, tuple[Stage, ...]]] = []
    for name, module in model.named_modules():
        record = vars(module).get(RECORD)
        if isinstance(record, Record) and record.name and name.endswith(record.name):
            here = (name.removesuffix(record.name), record.stages)
            if here not in found:
                found.append(here)
    if len(found) != 1:
        return ()
    front, stages = found[0]
    return tuple(replace(stage, cuts=_renamed(stage.cuts, front)) for stage in stages) if front else stages


def _renamed(cuts: Cuts, front: str) -> Cuts:
    return Cuts(
        {front + name: cut for name, cut in cuts.layers.items()},
        {front + name: cut for name, cut in cuts.parameters.items()},
        tuple(replace(adapter, module=front + adapter.module) for adapter in cuts.adapters),
        {front + name: fold for name, fold in cuts.folds.items()},
        tuple(replace(root, layer=front + root.layer) for root in cuts.roots),
        cuts.example,
    )


def inner_of(model: nn.Module) -> nn.Module:
    """The network inside wrappers that add nothing to what it computes.

    Args:
        model: A network, in `DataParallel`, `DistributedDataParallel`, `AveragedModel` or `torch.compile`, or in none.

    Returns:
        The network itself.
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if hasattr(model, "_orig_mod"):
            model = model.get_submodule("_orig_mod")
        elif isinstance(model, wrappers) or type(model).__name__ == "AveragedModel":
            model = model.get_submodule("module")
        else:
            return model


def with_inner(wrapper: nn.Module, inner: nn.Module) -> nn.Module:
    """Put another network into a copied wrapper.

    Args:
        wrapper: A copy of what `inner_of` looked into.
        inner: The network to put there.

    Returns:
        The wrapper, or the network itself where there was none.
    """
    if inner_of(wrapper) is wrapper:
        return inner
    label = "_orig_mod" if hasattr(wrapper, "_orig_mod") else "module"
    setattr(wrapper, label, with_inner(getattr(wrapper, label), inner))
    return wrapper


def composed(stages: Sequence[Stage]) -> Cuts:
    """Several cuts as one, in indices of the network before the first.

    Args:
        stages: The cuts, the first first.

    Returns:
        What they keep together; adapters and folds, which a repair does not ask for, are left out of more than one.
    """
    if len(stages) == 1:
        return stages[0].cuts
    layers: dict[str, LayerCut] = {}
    parameters: dict[str, ParameterCut] = {}
    removing = any(stage.removes for stage in stages)
    for stage in stages:
        if removing and not stage.removes:
            continue
        for name, cut in stage.cuts.layers.items():
            layers[name] = _after(layers.get(name), cut, removes=stage.removes)
        for name, each in stage.cuts.parameters.items():
            known = parameters.get(name)
            kept = each.keep if known is None else tuple(known.keep[place] for place in each.keep)
            parameters[name] = ParameterCut(each.dim, kept, known.size if known else each.size)
    return Cuts(layers, parameters)


def _after(first: LayerCut | None, second: LayerCut, *, removes: bool) -> LayerCut:
    if first is None:
        return second

    def both(a: tuple[int, ...] | None, b: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if a is None or b is None:
            return b if a is None else a
        return tuple(a[place] for place in b) if removes else tuple(sorted({*a} & {*b}))

    return LayerCut(
        both(first.keep_filters, second.keep_filters),
        both(first.keep_inputs, second.keep_inputs),
        first.filters,
        first.inputs,
        first.grouping,
    )


def cuts_since(pruned: nn.Module, ancestor: nn.Module, stages: Sequence[Stage]) -> Cuts:
    """What was cut between an ancestor and a network.

    Args:
        pruned: The network.
        ancestor: The dense network, or any that was made on the way.
        stages: All cuts of `pruned`.

    Returns:
        The cuts, in indices of the ancestor.

    Raises:
        InputError: If `ancestor` is none; names a layer and its widths.
    """
    first = ""
    for start in range(len(stages) + 1):
        cuts = composed(stages[start:]) if start < len(stages) else Cuts({}, {})
        trouble = _misfit(
            pruned, ancestor, cuts.layers, removed=any(stage.removes for stage in stages[start:])
        )
        if not trouble:
            return cuts
        first = first or trouble
    raise InputError(f"compensate: dense is none of the networks that the pruned one was cut from: {first}")


def _misfit(pruned: nn.Module, ancestor: nn.Module, layers: Mapping[str, LayerCut], *, removed: bool) -> str:
    """The first layer that is not as wide as it must be; empty where all are."""
    theirs, ours = dict(ancestor.named_modules()), dict(pruned.named_modules())
    for name, module in ours.items():
        cut = layers.get(name)
        needed = (cut.filters, cut.inputs) if cut is not None and removed else widths_of(module)
        if not any(needed):
            continue
        other = theirs.get(name)
        found = widths_of(other) if other is not None else (0, 0)
        if found != needed:
            return f"{name} has {_widths(found)} there, and had {_widths(needed)}"
    return ""


def _widths(widths: tuple[int, int]) -> str:
    if not any(widths):
        return "no such layer"
    return f"{widths[0]} filters and {widths[1]} inputs" if widths[1] else f"{widths[0]} channels"
