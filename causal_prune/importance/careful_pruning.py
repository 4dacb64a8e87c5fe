"""Torch-pruning's pruners without their traps: what they would do in silence is refused or told."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from causal_prune.errors import InputError, TargetError

TABLES = ("in_channel_groups", "out_channel_groups", "num_heads", "channel_groups")
"""Options that torch-pruning fills in: where none is given, every pruner fills the same one."""


def careful_pruner(
    kind: Callable[..., Any], model: nn.Module, example_inputs: Any, importance: Any, **options: Any
) -> Any:
    """Make one of torch-pruning's pruners, and keep its traps away.

    Tables that a pruner fills are its own, not those of every pruner. Parameters that ask for no gradient are pruned
    with the others. The network's mode is left as it is.

    Args:
        kind: A class of `torch_pruning.pruner`.
        model: The network; `careful_step` prunes it in place.
        example_inputs: As the pruner takes them.
        importance: As the pruner takes it, such as a `CausalImportance`.
        **options: Of the pruner.

    Returns:
        The pruner.

    Raises:
        InputError: If an ignored layer is no module or parameter (torch-pruning passes over it), or `isomorphic` is
            asked for without `global_pruning` (torch-pruning then takes the channels of one group for another's).

    Example:
        >>> import torch, torch_pruning as tp
        >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> norm = tp.importance.GroupMagnitudeImportance()
        >>> pruner = careful_pruner(
        ...     tp.pruner.BasePruner, net, torch.rand(1, 1, 7, 7), norm, pruning_ratio=0.5, ignored_layers=[net[2]]
        ... )
        >>> careful_step(pruner)
        >>> net[0].out_channels, net.training
        (4, True)
    """
    if options.get("isomorphic") and not options.get("global_pruning"):
        raise InputError(
            "isomorphic: without global_pruning=True torch-pruning cuts wrong channels; give both"
        )
    for layer in options.get("ignored_layers") or ():
        if not isinstance(layer, nn.Module | nn.Parameter):
            raise InputError(
                f"ignored_layers: {layer!r} is no layer, and torch-pruning would pass over it; give the modules"
            )
    tables: dict[str, Mapping[Any, Any]] = {name: dict(options.pop(name, None) or {}) for name in TABLES}
    with _as_it_was(model):
        return kind(model, example_inputs, importance, **tables, **options)


def careful_step(pruner: Any) -> None:
    """Take one step of a pruner, and see that it did what was asked for.

    Args:
        pruner: From `careful_pruner`.

    Raises:
        TargetError: If more channels stayed than was asked for: torch-pruning skips groups that it would empty, and
            those of frozen layers, without a word. The network stays as the step left it.
    """
    before = dict(_channels(pruner))
    with _as_it_was(pruner.model):
        pruner.step()
    after = dict(_channels(pruner))
    if pruner.pruning_ratio_dict:
        return  # every layer has a share of its own
    share = min(pruner.per_step_pruning_ratio[pruner.current_step], pruner.max_pruning_ratio)
    asked = pruner.initial_total_channels * (1 - share)
    slack = len(after) * (pruner.round_to or 1)  # every group is rounded
    left = sum(after.values())
    if left > asked + slack:
        same = [name for name in after if after[name] == before.get(name)]
        skipped = f" (of {', '.join(same[:3])} none went)" if same else ""
        raise TargetError(
            f"pruning_ratio {share:.3g}: {1 - left / pruner.initial_total_channels:.3g} of the channels went"
            f"{skipped}: torch-pruning skips in silence what it would empty; ask for less, or set max_pruning_ratio"
        )


def _channels(pruner: Any) -> Iterator[tuple[str, int]]:
    """Channels by the root of every group that may be cut, counted as the pruner counts them."""
    names = {module: name for name, module in pruner.model.named_modules()}
    groups = pruner.DG.get_all_groups(
        ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types
    )
    for group in groups:
        root = group[0][0].target.module
        yield names.get(root, ""), pruner.DG.get_out_channels(root) // pruner._get_channel_groups(group)


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Let all parameters ask for gradients inside the block; afterwards modes and gradients are as they were."""
    modes = [(module, module.training) for module in model.modules()]
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(True)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags.get(name, True))
