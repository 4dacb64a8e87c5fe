"""Units that say nothing: constant for every input, so that they can go without a trace."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from causal_prune.network.computed_weights import take_off
from causal_prune.network.hooks import calls_seen
from causal_prune.network.layer_kinds import MIXING, Convolution, computes_what_its_type_says
from causal_prune.network.layer_matrices import channel_dim, groups_of, matrix_of, weight_of
from causal_prune.network.running import Inputs, call, copied, device_of, modes_kept, seeded
from causal_prune.network.tensor_trees import mapped
from causal_prune.surgery import ConstantFold
from causal_prune.tracing.filter_graph import FilterGraph, Group, Member, Silence
from causal_prune.tracing.trial_cuts import difference, noise_like

SAME = 1e-6
"""Values of a channel that differ by no more than this share of their size are one constant, and rounding."""
LOUDER = 10.0
"""Inputs of this many times the size are tried, too: what saturates or clips may look constant at one size."""


@dataclass
class _Read:
    """The least and the largest value of every input channel of a layer, over all that it read."""

    low: Tensor
    high: Tensor

    def see(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)

    def constant(self, position: int) -> float | None:
        """The value of a channel that never changed; None of one that did."""
        low, high = float(self.low[position]), float(self.high[position])
        return (low + high) / 2 if high - low <= SAME * max(abs(low), abs(high)) else None


@dataclass
class _Finding:
    """What is known while silent units are looked for."""

    graph: FilterGraph
    modules: Mapping[str, nn.Module]
    reads: dict[str, _Read]
    silent: dict[str, set[int]] = field(default_factory=dict)

    def quiet(self) -> dict[str, set[int]]:
        """By layer the inputs that are known to be constant."""
        found: dict[str, set[int]] = {}
        for group in self.graph.prunable:
            for member in group.of_role("consumer"):
                positions = member.positions_of(self.silent.get(group.name, ()))
                found.setdefault(member.layer, set()).update(positions)
        return found

    def stir(self, model: nn.Module, inputs: Inputs) -> None:
        """Look again, with other weights wherever filters speak; then units that have silent filters count, too."""
        quiet = self.quiet()
        stirred = _stirred(model, self.graph, quiet)
        _reads(stirred, self.graph, inputs, self.reads)
        for group in self.graph.prunable:
            self.silent[group.name] = {
                unit
                for unit in _with_silent_filter(group, self.modules, quiet)
                if self.values(group, unit) is not None
            }

    def values(self, group: Group, unit: int) -> dict[tuple[str, int], float] | None:
        """What the readers of a unit read, by layer and position; None where that is no constant, or not known."""
        found: dict[tuple[str, int], float] = {}
        for member in group.of_role("consumer"):
            for position in member.positions_of([unit]):
                read = self.reads.get(member.layer) if member.dim is None else None
                value = None if read is None else read.constant(position)
                if value is None:
                    return None
                found[member.layer, position] = value
        return found


def find_silent(model: nn.Module, graph: FilterGraph, inputs: Inputs) -> Silence:
    """Find the units that are constant for every input, and how they go without changing what the network computes.

    A filter is silent if it has no weight but on inputs that are constant themselves. A unit with such a filter can go
    if everything that reads it is seen to read one value everywhere: on the example, on noise and on louder noise,
    with the network's weights, and with other weights in all filters that speak. That rules out what merely happens
    to be constant on the inputs tried, and what later operations make of a constant (padding at borders, gates). The
    constants are folded into the readers: into the bias where that is exact; where a convolution pads its input with
    zeros, into its weight on one silent unit of the group, which stays and carries them. The cut network is then
    compared with the whole one; a group that fails keeps its units.

    Args:
        model: The network in eval mode, with plain weights; it is not changed.
        graph: From the trace.
        inputs: An example input.

    Returns:
        The silent units, those that stay, and the folds; empty where no filter is without weights.

    Cost: nothing where all filters have weights, else about ten forward passes.
    """
    modules = dict(model.named_modules())
    if not any(_with_silent_filter(group, modules, {}) for group in graph.prunable):
        return Silence()
    finding = _Finding(graph, modules, _reads(model, graph, inputs, {}))
    while _grown(finding):
        pass
    finding.stir(model, inputs)
    silent = {
        group.name: units
        for group in graph.prunable
        if (
            units := tuple(
                sorted({*_without_weight(group, modules, finding.quiet()), *finding.silent[group.name]})
            )
        )
    }
    leaving = [group for group in graph.prunable if finding.silent[group.name] and not group.approximate]
    while leaving:
        departures = {group.name: _departure(finding, group) for group in leaving}
        failing = _failing(model, graph, inputs, departures)
        if not failing:
            return Silence(silent, *_together(graph, departures))
        leaving = [group for group in leaving if group.name not in failing]
    return Silence(silent)


def _grown(finding: _Finding) -> bool:
    """Look for further silent units, given those found so far; whether there are any."""
    before = sum(map(len, finding.silent.values()))
    quiet = finding.quiet()
    for group in finding.graph.prunable:
        finding.silent[group.name] = {
            unit
            for unit in _without_weight(group, finding.modules, quiet)
            if finding.values(group, unit) is not None
        }
    return sum(map(len, finding.silent.values())) > before


def _speaking(member: Member, module: nn.Module, quiet: Mapping[str, set[int]]) -> Iterator[tuple[int, int]]:
    """Filters that have a weight on an input that is not constant, as position and unit."""
    weight = cast(Tensor, module.weight).detach()
    groups, elements = groups_of(module), prod(weight.shape[2:])
    used = (matrix_of(module, weight) != 0).unflatten(2, (-1, elements)).any(3)  # group, filter, input
    live = torch.ones(groups, used.shape[2], dtype=torch.bool, device=used.device)
    live.view(-1)[[*quiet.get(member.layer, ())]] = False
    speaks = (used & live[:, None]).any(2).flatten().tolist()
    for position, unit in zip(member.positions, member.units, strict=True):
        if speaks[position]:
            yield position, unit


def _makers(group: Group, modules: Mapping[str, nn.Module]) -> Iterator[tuple[Member, nn.Module]]:
    """The layers that make a group's channels; a bare parameter does not depend on the input."""
    for member in group.of_role("producer"):
        module = modules.get(member.layer)
        if member.dim is None and isinstance(module, MIXING):
            yield member, module


def _without_weight(
    group: Group, modules: Mapping[str, nn.Module], quiet: Mapping[str, set[int]]
) -> list[int]:
    """Units of which no filter speaks."""
    makers = list(_makers(group, modules))
    loud = {unit for member, module in makers for _, unit in _speaking(member, module, quiet)}
    return [unit for unit in range(group.size) if makers and unit not in loud]


def _with_silent_filter(
    group: Group, modules: Mapping[str, nn.Module], quiet: Mapping[str, set[int]]
) -> list[int]:
    """Units of which at least one layer's filters do not speak: nothing comes of a product with nothing."""
    found: set[int] = set()
    for member, module in _makers(group, modules):
        found |= set(member.units) - {unit for _, unit in _speaking(member, module, quiet)}
    return sorted(found)


def _stirred(model: nn.Module, graph: FilterGraph, quiet: Mapping[str, set[int]]) -> nn.Module:
    """A copy with other weights in every filter that speaks."""
    copy = copied(model)
    modules = dict(copy.named_modules())
    with seeded(1, device_of(copy)), torch.no_grad():
        for group in graph.prunable:
            for member, module in _makers(group, modules):
                speaking = [position for position, _ in _speaking(member, module, quiet)]
                if not speaking:
                    continue
                take_off(module)
                weight, bias = cast(Tensor, module.weight), cast(Tensor | None, module.bias)
                matrix = matrix_of(module, weight).flatten(0, 1).clone()
                matrix[speaking] = torch.randn_like(matrix[speaking]) * matrix.shape[1] ** -0.5
                weight.copy_(weight_of(module, matrix.unflatten(0, (groups_of(module), -1))))
                if bias is not None:
                    bias[speaking] = torch.randn_like(bias[speaking])
    return copy


def _reads(model: nn.Module, graph: FilterGraph, inputs: Inputs, found: dict[str, _Read]) -> dict[str, _Read]:
    """What the readers of prunable groups read, on several inputs; added to what is found already."""
    names = {member.layer for group in graph.prunable for member in group.of_role("consumer")}
    layers = {
        name: module for name, module in model.named_modules() if name in names and isinstance(module, MIXING)
    }

    def see(name: str, module: nn.Module, source: Tensor, _: Any) -> None:
        values = source.detach().double().movedim(channel_dim(module, source), 0).flatten(1)
        low, high = values.amin(dim=1).cpu(), values.amax(dim=1).cpu()
        if name in found:
            found[name].see(low, high)
        else:
            found[name] = _Read(low, high)

    with seeded(0, device_of(model)), torch.no_grad(), modes_kept(model), calls_seen(layers, see, first=True):
        for batch in (inputs, noise_like(inputs), _louder(noise_like(inputs))):
            call(model.eval(), batch)
    return found


def _louder(inputs: Any) -> Any:
    return mapped(lambda t: t * LOUDER if t.is_floating_point() else t, inputs)


@dataclass(frozen=True)
class _Departure:
    """How the silent units of a group go: those that stay, and by reader (position, value, into, its value)."""

    kept: tuple[int, ...]
    parts: Mapping[str, Sequence[tuple[int, float, int, float]]]


def _departure(finding: _Finding, group: Group) -> _Departure:
    values = {unit: finding.values(group, unit) or {} for unit in finding.silent[group.name]}
    carriers = _carriers(finding, group, values)
    staying = (set(range(group.size)) - set(values)) | {unit for units in carriers.values() for unit in units}
    for member in group.members:
        if not staying & set(member.units):
            staying.add(min(member.units))  # no layer is left without a channel
    parts: dict[str, list[tuple[int, float, int, float]]] = {}
    for unit in set(values) - staying:
        for (layer, position), value in values[unit].items():
            if value:
                into, scale = _place(finding, values, carriers.get(layer, ()), layer, position)
                parts.setdefault(layer, []).append((position, value, into, scale))
    return _Departure(tuple(sorted(staying)), parts)


def _together(
    graph: FilterGraph, departures: Mapping[str, _Departure]
) -> tuple[dict[str, tuple[int, ...]], dict[str, ConstantFold]]:
    """Units that stay, by prunable group, and the folds by reader."""
    kept = {group.name: tuple(range(group.size)) for group in graph.prunable}
    parts: dict[str, list[tuple[int, float, int, float]]] = {}
    for name, departure in departures.items():
        kept[name] = departure.kept
        for layer, each in departure.parts.items():
            parts.setdefault(layer, []).extend(each)
    return kept, {layer: ConstantFold(*zip(*sorted(each), strict=True)) for layer, each in parts.items()}


def _carriers(
    finding: _Finding, group: Group, values: Mapping[int, Mapping[tuple[str, int], float]]
) -> dict[str, list[int]]:
    """Silent units that stay to carry constants, by the layers whose bias cannot take them; as few as do."""
    wanting = [
        layer
        for layer in dict.fromkeys(member.layer for member in group.of_role("consumer"))
        if not takes_in_bias(finding.modules[layer])
        and any(value for each in values.values() for (name, _), value in each.items() if name == layer)
    ]
    size = {
        (unit, layer): min((abs(v) for (name, _), v in values[unit].items() if name == layer), default=0.0)
        for unit, layer in product(values, wanting)
    }
    found: dict[str, list[int]] = {}
    while left := [layer for layer in wanting if layer not in found]:
        best = max(
            sorted(values),
            key=lambda unit: (
                sum(size[unit, layer] > 0 for layer in left),
                min((size[unit, layer] for layer in left if size[unit, layer] > 0), default=0.0),
            ),
        )
        served = [layer for layer in left if size[best, layer] > 0]
        if not served:  # positions of one unit, some of them 0: all its units stay
            return {layer: sorted(values) for layer in wanting}
        found |= {layer: [best] for layer in served}
    return found


def _place(
    finding: _Finding,
    values: Mapping[int, Mapping[tuple[str, int], float]],
    carriers: Sequence[int],
    layer: str,
    position: int,
) -> tuple[int, float]:
    """The input that takes a constant over, and its value; -1 for the bias."""
    module = finding.modules[layer]
    block = finding.graph.layers[layer].inputs // groups_of(module)
    for unit in carriers:
        for (name, other), value in values[unit].items():
            if name == layer and other // block == position // block and value:
                return other, value
    return -1, 1.0


def takes_in_bias(module: nn.Module) -> bool:
    """Whether a constant input of a layer is a constant in its output, so that its bias can take it.

    Args:
        module: A convolution or linear layer.

    Returns:
        False for convolutions that pad with zeros, for transposed ones, and for layers with code of their own.
    """
    if isinstance(module, nn.Linear):
        return type(module).forward is nn.Linear.forward
    if not isinstance(module, Convolution) or not computes_what_its_type_says(module) or module.transposed:
        return False
    padding = cast(Any, module.padding)
    none = padding == "valid" or (not isinstance(padding, str) and not any(padding))
    return none or module.padding_mode != "zeros" or set(module.kernel_size) == {1}


def _failing(
    model: nn.Module, graph: FilterGraph, inputs: Inputs, departures: Mapping[str, _Departure]
) -> set[str]:
    """Groups whose silent units do not go without a trace; empty where all do."""

    def wrong(names: Iterable[str]) -> bool:
        kept, folds = _together(graph, {name: departures[name] for name in names})
        examples = [inputs, noise_like(inputs)]
        return difference(model, graph.cuts(kept, folds), examples, from_dense=True) is not None

    if not wrong(departures):
        return set()
    return {name for name in departures if wrong([name])} or set(departures)
