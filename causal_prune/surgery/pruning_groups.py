"""Torch-pruning's dependency graph: made of a network, searched to an end, and pruned through."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from causal_prune.errors import InputError, first_line
from causal_prune.network.layer_kinds import CARRYING, MIXING, widths_of
from causal_prune.network.running import Inputs, device_of
from causal_prune.network.tensor_trees import own
from causal_prune.surgery.cuts import Cuts, ExampleForm

OLDEST = (1, 6, 1)
LEAST_BUDGET, PER_CHANNEL = 100_000, 20
"""Torch-pruning's search for a group that meets more channels than this, or than so many times every channel at every
node, does not come to an end."""
Graph: TypeAlias = Any
Found: TypeAlias = Any


@cache
def check_version() -> None:
    """Refuse a version of torch-pruning that is known to be wrong.

    Raises:
        InputError: If it is older than 1.6.1.
    """
    found = version("torch-pruning")
    numbers = tuple(int(part) for part in found.split(".")[:3] if part.isdigit())
    if numbers < OLDEST:
        raise InputError(f"torch-pruning {found} is too old; install 1.6.1 or newer")


def dependency_graph(model: nn.Module, inputs: Inputs) -> Graph:
    """Torch-pruning's graph of a network.

    Args:
        model: The network itself, not a copy: what is pruned through the graph is pruned in it. It is put into eval
            mode, and all its parameters must ask for gradients (of frozen ones torch-pruning finds nothing).
        inputs: An example: a tensor, a tuple of positional arguments or a mapping of keyword arguments.

    Returns:
        A `torch_pruning.DependencyGraph`.

    Raises:
        InputError: If torch-pruning cannot make one, or is too old.

    Cost: a forward pass, and a walk over autograd's graph.
    """
    import torch_pruning as tp

    check_version()
    model.eval()
    given = own(inputs)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is told by the proof
            return tp.DependencyGraph().build_dependency(model, example_inputs=given, verbose=False)
    except Exception as error:  # whatever torch-pruning raises on the user's network is the answer
        raise InputError(
            f"dependencies: torch-pruning cannot follow this network ({_operation(error)}{first_line(error)}); "
            "'labels' can"
        ) from error


def pruning_group(graph: Graph, name: str, channels: Sequence[int]) -> Found:
    """What goes with some filters of a layer.

    Args:
        graph: From `dependency_graph`.
        name: The layer.
        channels: Its filters.

    Returns:
        A `torch_pruning.dependency.Group`.

    Raises:
        InputError: If torch-pruning does not know the layer, fails, or does not come to an end.
    """
    module = graph.model.get_submodule(name)
    if module not in graph.module2node:
        raise InputError(f"dependencies: torch-pruning does not reach {name}; 'labels' may")
    pruner = graph.get_pruner_of_module(module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check_end(graph, name, module, pruner.prune_out_channels, channels)
            return graph.get_pruning_group(module, pruner.prune_out_channels, list(channels))
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"dependencies: torch-pruning finds no group of {name} ({_operation(error)}{first_line(error)}); "
            "'labels' does"
        ) from error


def _check_end(graph: Graph, name: str, module: nn.Module, prune: Any, channels: Sequence[int]) -> None:
    """Walk as torch-pruning does, but no further than a limit: some networks send it round for ever."""
    from torch_pruning import _helpers
    from torch_pruning.dependency import index_mapping

    index_mapping.update_index_mapping(graph)
    start = [_helpers._HybridIndex(idx=k, root_idx=k) for k in channels]
    stack: list[tuple[Any, Any, Any]] = [(graph.module2node[module], prune, start)]
    seen: set[tuple[Any, ...]] = set()
    budget = max(LEAST_BUDGET, PER_CHANNEL * len(start) * len(graph.module2node))
    while stack:
        node, trigger, indices = stack.pop()
        for step in node.dependencies:
            if not step.is_triggered_by(trigger):
                continue
            further = indices
            for mapping in step.index_mapping:
                further = further if mapping is None else mapping(further)
            budget -= len(further)
            if budget < 0:
                raise InputError(
                    f"dependencies: torch-pruning does not come to an end with {name} (at {step.target.name}); "
                    "'labels' does"
                )
            key = (id(step.target), step.handler, tuple(further))
            if len(further) and key not in seen:
                seen.add(key)
                stack.append((step.target, step.handler, further))


def prune_through(model: nn.Module, cuts: Cuts) -> None:
    """Cut a network by the groups of torch-pruning's graph, and check that the cut is the one that was planned.

    Args:
        model: The network; it is changed.
        cuts: With `roots`, whose filters go with all that torch-pruning couples to them.

    Raises:
        InputError: If torch-pruning fails, or cuts something else.
    """
    assert cuts.example is not None, "roots come with the form of an example"
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = [(module, module.training) for module in model.modules()]
    model.requires_grad_(True)
    widths = _widths(model)
    graph = dependency_graph(model, example_of(cuts.example, model))
    for root in cuts.roots:
        group = pruning_group(graph, root.layer, root.drop)
        try:
            group.prune()
        except Exception as error:
            raise InputError(
                f"torch-pruning cannot cut the group of {root.layer} ({first_line(error)}); 'labels' can"
            ) from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(flags.get(name, True))
    for module, training in modes:
        module.training = training
    _check_cut(widths, _widths(model), cuts)


def _check_cut(
    before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]], cuts: Cuts
) -> None:
    """Every layer of the plan is as wide as it says, and no other layer has changed."""
    for name, shape in after.items():
        cut = cuts.layers.get(name)
        planned = before[name]
        if cut is not None:
            filters = cut.filters if cut.keep_filters is None else len(cut.keep_filters)
            inputs = cut.inputs if cut.keep_inputs is None else len(cut.keep_inputs)
            planned = (filters, inputs)
        if shape != planned:
            raise InputError(
                f"torch-pruning cut {name} to {shape[0]} filters and {shape[1]} inputs, the plan says "
                f"{planned[0]} and {planned[1]}; 'labels' cuts it"
            )


def _widths(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {
        name: widths_of(module)
        for name, module in model.named_modules()
        if isinstance(module, (*MIXING, *CARRYING))
    }


def form_of(inputs: Any) -> ExampleForm:
    """The form of an example, so that a graph can be made again.

    Args:
        inputs: A tensor, a tuple of tensors or a mapping of tensors.

    Returns:
        Names, shapes and types.

    Raises:
        InputError: If it is something else.
    """
    kind: Literal["tensor", "tuple", "mapping"]
    entries: Iterable[tuple[str, Any]]
    if isinstance(inputs, Tensor):
        kind, entries = "tensor", [("", inputs)]
    elif isinstance(inputs, Mapping):
        kind, entries = "mapping", inputs.items()
    else:
        kind, entries = "tuple", [("", each) for each in inputs]
    pairs = list(entries)
    if not all(isinstance(each, Tensor) for _, each in pairs):
        raise InputError(
            "dependencies: torch-pruning's graph needs an example of tensors; 'labels' takes others"
        )
    return ExampleForm(
        kind,
        tuple(name for name, _ in pairs),
        tuple(tuple(each.shape) for _, each in pairs),
        tuple(str(each.dtype).removeprefix("torch.") for _, each in pairs),
    )


def example_of(form: ExampleForm, model: nn.Module) -> Inputs:
    """An example of a form: noise, and zeros where whole numbers are asked for.

    Args:
        form: Of the example.
        model: Where it shall be.

    Returns:
        Inputs.
    """
    where, generator = device_of(model), torch.Generator().manual_seed(0)
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    made = []
    for shape, name in zip(form.shapes, form.dtypes, strict=True):
        kind = getattr(torch, name)
        drawn = torch.randn(shape, generator=generator) if kind.is_floating_point else torch.zeros(shape)
        # a proof may run in another precision than the network that was traced
        made.append(drawn.to(where, floating if kind.is_floating_point else kind))
    if form.kind == "tensor":
        return made[0]
    return dict(zip(form.names, made, strict=True)) if form.kind == "mapping" else tuple(made)


def _operation(error: BaseException) -> str:
    """What torch-pruning was at, from the frames of its error."""
    place, trace = "", error.__traceback__
    while trace is not None:
        for label in (
            "node",
            "split_node",
            "cat_node",
            "reshape_node",
            "fc_node",
            "slice_node",
            "unbind_node",
        ):
            name = getattr(trace.tb_frame.f_locals.get(label), "name", None)
            place = str(name) if name else place
        trace = trace.tb_next
    return f"at {place}: " if place else ""
