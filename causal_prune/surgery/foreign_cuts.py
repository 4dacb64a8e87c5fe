"""Networks that torch-pruning has cut: the record of it that repair, export and reports need."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.layer_kinds import CARRYING, MIXING, Convolution, widths_of
from causal_prune.network.layer_matrices import groups_of
from causal_prune.network.running import copied
from causal_prune.surgery.cuts import Cuts, LayerCut
from causal_prune.surgery.lineage import record_cuts

MADE_OF = ("weight", "bias", "running_mean", "running_var")
Kept = tuple[int, ...]


@undisturbed
def cut_by_torch_pruning(
    dense: nn.Module, pruned: nn.Module, history: Sequence[Sequence[Any]] = ()
) -> nn.Module:
    """A network that torch-pruning has cut, as one that `remove` made: it knows what was cut.

    What stayed is found by comparing weights, which must be exactly those of the dense network: do it before any
    training. The pruner's history is checked against it.

    Args:
        dense: The network before.
        pruned: The same after the pruner's step, or a loop over groups.
        history: What the pruner's `pruning_history` returns; empty where it is not at hand.

    Returns:
        A copy of `pruned` that `compensate` and `export_onnx` take.

    Raises:
        InputError: Names the first layer whose filters are not exactly some of the dense one's, or cannot be told
            apart; or that the history tells otherwise.

    Cost: a look at every weight.

    Example:
        >>> import torch_pruning as tp, copy
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> small = copy.deepcopy(net)
        >>> graph = tp.DependencyGraph().build_dependency(small, torch.rand(1, 1, 7, 7))
        >>> graph.get_pruning_group(small[0], tp.prune_conv_out_channels, [1, 2]).prune()
        >>> known = cut_by_torch_pruning(net, small, graph.pruning_history())
        >>> known[0].out_channels
        6
    """
    before, after = dict(dense.named_modules()), dict(pruned.named_modules())
    if before.keys() != after.keys():
        raise InputError(
            "cut_by_torch_pruning: the two networks have different layers; give the same one, uncut"
        )
    layers: dict[str, LayerCut] = {}
    for name, module in after.items():
        if isinstance(module, (*MIXING, *CARRYING)):
            cut = _compared(name, before[name], module)
            if cut is not None:
                layers[name] = cut
    _check_parameters(dense, pruned, layers)
    _check_history(history, dense, layers)
    return record_cuts(copied(pruned), Cuts(layers, {}), ())


def _compared(name: str, dense: nn.Module, pruned: nn.Module) -> LayerCut | None:
    if type(dense) is not type(pruned):
        raise InputError(
            f"cut_by_torch_pruning: {name} is a {type(pruned).__name__}, and was a {type(dense).__name__}"
        )
    (filters, inputs), (left, read) = widths_of(dense), widths_of(pruned)
    if (filters, inputs) == (left, read):
        return None
    if not isinstance(dense, MIXING) or (
        isinstance(dense, Convolution) and groups_of(dense) == filters == inputs
    ):
        kept = _carried(name, dense, pruned)
        depthwise = isinstance(dense, MIXING)
        return LayerCut(
            kept, kept if depthwise else None, filters, inputs, "blocks" if depthwise else "dense"
        )
    if groups_of(dense) > 1:
        raise InputError(f"cut_by_torch_pruning: {name} is a grouped convolution, whose cut cannot be told")
    rows, columns = _mixed(name, _kernels(dense), _kernels(pruned))
    return LayerCut(
        rows if left < filters else None, columns if read < inputs else None, filters, inputs, "dense"
    )


def _kernels(module: nn.Module) -> Tensor:
    """Weights as (filters, inputs, numbers)."""
    weight = module.get_parameter("weight").detach().cpu()
    weight = weight.transpose(0, 1) if getattr(module, "transposed", False) else weight
    return weight.reshape(*weight.shape[:2], -1)


def _mixed(name: str, dense: Tensor, pruned: Tensor) -> tuple[Kept, Kept]:
    """Which filters and inputs of a layer stayed: every kernel is looked up among those of before."""
    places: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for row in range(dense.shape[0]):
        for column in range(dense.shape[1]):
            places[dense[row, column].numpy().tobytes()].append((row, column))
    rows: list[set[int]] = [set(range(dense.shape[0])) for _ in range(pruned.shape[0])]
    columns: list[set[int]] = [set(range(dense.shape[1])) for _ in range(pruned.shape[1])]
    for i in range(pruned.shape[0]):
        for j in range(pruned.shape[1]):
            found = places.get(pruned[i, j].numpy().tobytes(), [])
            rows[i] &= {row for row, _ in found}
            columns[j] &= {column for _, column in found}
    kept = _settled(name, rows, "filters"), _settled(name, columns, "inputs")
    if not torch.equal(dense[list(kept[0])][:, list(kept[1])], pruned):
        raise InputError(f"cut_by_torch_pruning: the weights of {name} are none of the dense network's")
    return kept


def _carried(name: str, dense: nn.Module, pruned: nn.Module) -> Kept:
    """Which channels of a normalisation, or of a depthwise convolution, stayed."""

    def numbers(module: nn.Module) -> Tensor:
        held = [getattr(module, label, None) for label in MADE_OF]
        columns = [each.detach().cpu().float().flatten(1) if each.dim() > 1 else each.detach().cpu().float()[:, None]
                   for each in held if isinstance(each, Tensor) and each.dim()]  # fmt: skip
        return torch.cat(columns, dim=1)

    before, after = numbers(dense), numbers(pruned)
    if before.shape[1] != after.shape[1]:
        raise InputError(f"cut_by_torch_pruning: {name} does not hold what it held before")
    found = [set((before == row).all(dim=1).nonzero().flatten().tolist()) for row in after]
    return _settled(name, found, "channels")


def _settled(name: str, choices: Sequence[set[int]], what: str) -> Kept:
    """One place for each, ascending as torch-pruning leaves them."""
    if any(not each for each in choices):
        raise InputError(
            f"cut_by_torch_pruning: {what} of {name} are none of the dense network's; call it before any training"
        )
    if any(len(each) > 1 for each in choices):
        raise InputError(f"cut_by_torch_pruning: {what} of {name} cannot be told apart: some are equal")
    kept = tuple(next(iter(each)) for each in choices)
    if list(kept) != sorted(set(kept)):
        raise InputError(f"cut_by_torch_pruning: {what} of {name} are not in their order")
    return kept


def _check_parameters(dense: nn.Module, pruned: nn.Module, layers: dict[str, LayerCut]) -> None:
    """Whatever is no layer has the shape that it had."""
    theirs = {name: tensor.shape for name, tensor in dense.state_dict().items()}
    for name, tensor in pruned.state_dict().items():
        if name.rpartition(".")[0] not in layers and theirs.get(name) != tensor.shape:
            raise InputError(
                f"cut_by_torch_pruning: {name} was cut, and belongs to no layer that is known here"
            )


def _check_history(history: Sequence[Sequence[Any]], dense: nn.Module, layers: dict[str, LayerCut]) -> None:
    """No filter is there that the history took (others may have gone with the filters of another root)."""
    left: dict[str, list[int]] = {}
    for name, is_out, indices in history:
        if is_out:
            kept = left.setdefault(name, list(range(widths_of(dense.get_submodule(name))[0])))
            gone = set(indices)
            left[name] = [filter_ for place, filter_ in enumerate(kept) if place not in gone]
    for name, kept in left.items():
        cut = layers.get(name)
        everything = tuple(range(widths_of(dense.get_submodule(name))[0]))
        found = cut.keep_filters if cut is not None and cut.keep_filters is not None else everything
        if not set(found) <= set(kept):
            raise InputError(
                f"cut_by_torch_pruning: the network has filter {min(set(found) - set(kept))} of {name}, which the "
                "history says is gone; give the history of this network"
            )
