"""The filter graph of a network: what can be cut together, who reads whom, and what is frozen and why."""

from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from functools import partial
from typing import TypeAlias, get_args

import torch
from torch import nn

from causal_prune.errors import CausalPruneError, InputError, nearest
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.computed_weights import unmask
from causal_prune.network.layer_kinds import CARRYING, MIXING
from causal_prune.network.operation_costs import without_fused_attention
from causal_prune.network.running import (
    Inputs,
    as_taken,
    batch_size,
    call_on,
    copied,
    device_of,
    modes_kept,
    on_device,
    seeded,
    train_without_statistics,
)
from causal_prune.network.tensor_trees import outputs_in, own, tensors_in
from causal_prune.surgery import Dependencies, stages_of
from causal_prune.tracing.channel_labels import Labels
from causal_prune.tracing.channel_tracer import ChannelTracer, TracingForm, tensor_names
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.graph_building import graph_of
from causal_prune.tracing.label_ties import (
    freeze_branches,
    join_calls,
    settle_regions,
    tie_shared_weights,
)
from causal_prune.tracing.layer_rules import TraceRecord, labelling
from causal_prune.tracing.operation_rules import rule_of
from causal_prune.tracing.silent_units import find_silent
from causal_prune.tracing.torch_pruning_groups import why_wrong, with_torch_pruning
from causal_prune.tracing.trial_cuts import Failure, Trials

MOST_FORMS = 24
"""So many functions are given all channels, one class of modules after the other, before groups are searched."""
LEAST_LEFT = 3
"""Parts are cut alike where that leaves at least one unit in so many to choose from."""
OUTPUT = "produces an output of the network"


@undisturbed
def trace(
    model: nn.Module,
    example_input: Inputs,
    *,
    freeze: Iterable[str] = (),
    prove: bool = True,
    dependencies: Dependencies = "labels",
) -> FilterGraph:
    """Find what can be cut together in a network, by running a copy of it.

    Channels are followed by labels through every operation below autograd (see `channel_tracer`), so index maps
    through concatenation, shuffling, flattening and grouped convolutions are exact. Functions that count channels by
    position (slices, shuffles, zero-padded shortcuts) keep all channels: what was cut is put back in front of them and
    picked out behind them. What is not understood is frozen with a reason. Then every group is proved by a trial cut
    (see `trial_cuts`), and frozen where the proof fails. Masks of `torch.nn.utils.prune` count as part of the weights,
    and units that are constant already are found (see `silent_units`).

    Args:
        model: The network; it is not changed, and its mode, hooks and random state stay as they are.
        example_input: A tensor of shape (N, C, H, W), a tuple of positional arguments or a mapping of keyword
            arguments. One image is enough.
        freeze: Names of layers, or of modules that hold them, that must not be cut.
        prove: Whether trial cuts are made, and silent units looked for.
        dependencies: Who finds what must go together: our labels, or "torch-pruning": its dependency graph, through
            whose groups all cuts are then made. Groups of it whose trial cut is wrong are frozen, with what is wrong.

    Returns:
        The graph.

    Raises:
        InputError: If a name in `freeze` is no module, the network does not run on the example, or torch-pruning cannot
            make a graph of it.

    Cost: one forward pass and memory for one integer tensor beside every activation that lives; about eight further
        forward passes for the proof where nothing is wrong.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> [group.name for group in trace(net, torch.zeros(1, 3, 9, 9)).prunable]
        ['0']
    """
    names = dict(model.named_modules())
    unknown = [name for name in freeze if name not in names]
    if unknown:
        hint = nearest(unknown[0], names) or "; `trace(model, example).layers` names those with filters"
        raise InputError(f"freeze: there is no module {unknown[0]!r} in the model{hint}")
    _refuse(model, example_input)
    plain = unmask(copied(model).eval())
    inputs = as_taken(plain, on_device(example_input, device_of(plain)))
    traced = partial(_traced, plain, inputs, tuple(freeze))
    if dependencies not in get_args(Dependencies):
        raise InputError(f"dependencies: {dependencies!r} is not 'labels' or 'torch-pruning'")
    if dependencies == "torch-pruning":
        graph = _of_torch_pruning(plain, inputs, traced(TracingForm())[0], prove=prove)
        graph = replace(graph, earlier=stages_of(model))
        return replace(graph, silence=find_silent(plain, graph, inputs)) if prove else graph
    if not prove:
        return replace(traced(TracingForm())[0], earlier=stages_of(model))
    graph = replace(_proved(plain, inputs, traced), earlier=stages_of(model))
    return replace(graph, silence=find_silent(plain, graph, inputs))


Traced: TypeAlias = Callable[[TracingForm], tuple[FilterGraph, frozenset[str]]]
"""From a form to the graph, and the modules in which parts of equal size are cut alike."""


def _of_torch_pruning(model: nn.Module, inputs: Inputs, labels: FilterGraph, *, prove: bool) -> FilterGraph:
    """Torch-pruning's groups; those whose trial cut is wrong are frozen, and the reason says what is wrong."""
    graph = with_torch_pruning(model, inputs, labels)
    if not prove:
        return graph
    trials = Trials(model, inputs)
    while failing := trials.failures(graph) if graph.prunable else {}:
        groups = {group.name: group for group in graph.prunable}
        graph = graph.without({name: why_wrong(groups[name], why, labels) for name, why in failing.items()})
    return graph


def _proved(model: nn.Module, inputs: Inputs, traced: Traced) -> FilterGraph:
    """The graph in the first form whose trial cuts are right, or with what fails frozen in the best one."""
    trials = Trials(model, inputs)
    graph, _, wrong = _best_form(model, traced, trials)
    failing = trials.failing_groups(graph) if wrong is not None else {}
    if failing:
        careful, _ = traced(TracingForm(rigid=frozenset(dict(model.named_modules()))))
        there = trials.failing_groups(careful) if careful.prunable else {}
        if _units(careful, there) > _units(graph, failing):
            graph, failing = careful, there
    while failing:
        graph = graph.without(failing)
        failing = trials.failing_groups(graph) if graph.prunable else {}
    return graph


def _best_form(
    model: nn.Module, traced: Traced, trials: Trials
) -> tuple[FilterGraph, TracingForm, Failure | None]:
    """Parts of equal size cut alike, or whole; then with further functions that get all channels.

    Parts are cut alike only where that leaves enough units to choose from, as it needs no adapters.
    """
    by_share, plain = TracingForm(shares=True), TracingForm()
    graph, alike = traced(by_share)
    forms = [(graph, by_share)]
    if alike:
        whole, _ = traced(plain)
        forms = [*forms, (whole, plain)] if _units(graph) * LEAST_LEFT >= _units(whole) else [(whole, plain)]
    found: list[tuple[FilterGraph, TracingForm, Failure | None]] = []
    for graph, form in forms:
        found.append((graph, form, trials.of_all(graph) if graph.prunable else None))
        if found[-1][2] is None:
            return found[-1]
    settled = [_settled(model, *each, traced, trials) for each in found]
    return max(settled, key=lambda each: (each[2] is None, _units(each[0])))


def _settled(
    model: nn.Module,
    graph: FilterGraph,
    form: TracingForm,
    wrong: Failure | None,
    traced: Traced,
    trials: Trials,
) -> tuple[FilterGraph, TracingForm, Failure | None]:
    """Give all channels to functions that break a cut network, until none does; and what is still wrong then."""
    for _ in range(MOST_FORMS):
        if wrong is None or wrong.module is None:
            break
        culprits = _culprits(model, wrong.module, form.rigid)
        if not culprits:
            break
        form = replace(form, rigid=form.rigid | culprits)
        graph, _ = traced(form)
        wrong = trials.of_all(graph) if graph.prunable else None
    return graph, form, wrong


def _units(graph: FilterGraph, failing: Container[str] = ()) -> int:
    return sum(group.size for group in graph.prunable if group.name not in failing)


def _culprits(model: nn.Module, place: str, rigid: frozenset[str]) -> frozenset[str]:
    """The module whose function breaks a cut network, and all others of its class: they share the code."""
    modules = dict(model.named_modules())
    while isinstance(modules[place], (*MIXING, *CARRYING)) or place in rigid:
        if not place:
            return frozenset()
        place = place.rpartition(".")[0]
    kind = type(modules[place])
    if kind.__module__.startswith("torch.nn.modules.container"):
        return frozenset({place})
    return frozenset(name for name, module in modules.items() if type(module) is kind)


def _refuse(model: nn.Module, inputs: Inputs) -> None:
    """Name what cannot be traced instead of failing somewhere inside."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the model is a TorchScript module, whose code cannot be cut: pass the module it was made from"
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(
                f"the model holds a TorchScript module ({name}), whose code cannot be cut: "
                "put the module that it was made from in its place"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise InputError(
                f"the model has lazy layers that do not know their sizes yet ({name}): run it on an image first"
            )
    if hasattr(model, "_orig_mod"):
        raise InputError("the model is compiled (torch.compile): pass the module inside, model._orig_mod")
    if any(tensor.is_meta for tensor in tensors_in(inputs)):
        raise InputError("the example input has no values (it is on the meta device): give one with numbers")
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if parameter.is_meta:
            raise InputError(
                f"the model has no values yet ({name} is on the meta device): load its weights first"
            )
    if any(bool(tensor.isnan().any()) for tensor in tensors_in(inputs) if tensor.is_floating_point()):
        raise InputError("the example input holds NaN, and trial cuts compare numbers: give one without")
    for name, parameter in model.named_parameters():
        if bool(parameter.isnan().any()):
            raise InputError(f"the model's {name} holds NaN: load its weights again")


def _traced(
    model: nn.Module, inputs: Inputs, freeze: tuple[str, ...], form: TracingForm
) -> tuple[FilterGraph, frozenset[str]]:
    copy = copied(model)
    record = TraceRecord(dict(copy.named_modules()))
    tracer = ChannelTracer(tensor_names(copy), lambda func: rule_of(func, record), form=form)
    _run(copy, inputs, tracer, record)
    if record.unreached:
        _run_as_in_training(copy, inputs, tracer, record)
    tie_shared_weights(tracer, record)
    freeze_branches(tracer)
    for name, layer in record.layers.items():
        if any(name == frozen or name.startswith(f"{frozen}.") for frozen in freeze):
            tracer.sets.freeze(layer.out_labels, "frozen by the caller")
    join_calls(tracer)
    settle_regions(tracer, record)
    images = 1 if record.unbatched else max(batch_size(inputs), 1)
    return graph_of(model, tracer, record, images), frozenset(tracer.alike)


def _run(model: nn.Module, inputs: Inputs, tracer: ChannelTracer, record: TraceRecord) -> None:
    try:
        with (
            torch.no_grad(),
            seeded(0, device_of(model)),
            modes_kept(model),
            without_fused_attention(),
            labelling(tracer, model, record),
            tracer,
        ):
            given = own(inputs)
            for tensor in tensors_in(given):
                tracer.note(tensor, Labels(data=True))
            for tensor in outputs_in(call_on(model, given)):
                tracer.freeze(tracer.labels(tensor).ids, OUTPUT)
    except CausalPruneError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs))
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"the model does not run on an input of shape {shapes}: {first}") from error


def _run_as_in_training(model: nn.Module, inputs: Inputs, tracer: ChannelTracer, record: TraceRecord) -> None:
    """Follow the channels into heads that run only in training; they must fit after a cut as well."""
    record.counting = tracer.counting = False
    train_without_statistics(model)
    try:
        _run(model, inputs, tracer, record)
    except InputError:
        return  # what cannot run on the example is not reached
    record.trains_more = True
