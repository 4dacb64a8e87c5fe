"""Proof before surgery: every group is cut on a copy and compared with the same network silenced.

Two mechanisms must fail together for a wrong cut to pass: the graph says what to cut, and here the cut network is
run. The silenced network, its reference, is itself put to the test: noise in the filters that it claims to silence
must not change what it computes, so a reader that the graph has missed shows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from causal_prune.network.comparing import largest_difference
from causal_prune.network.hooks import outputs_of
from causal_prune.network.layer_kinds import MIXING
from causal_prune.network.running import Inputs, call, copied, device_of, seeded, train_without_statistics
from causal_prune.network.tensor_trees import mapped, outputs_in
from causal_prune.surgery import Cuts, cut_network, silence_network, silencing_masks
from causal_prune.tracing.channel_labels import compact
from causal_prune.tracing.channel_statistics import Place, StatisticsHeld
from causal_prune.tracing.filter_graph import FilterGraph, Group

TOLERANCE = 1e-5
EXACT_TOLERANCE = 1e-9
"""Largest difference relative to the largest output, in float32 and for the second look in float64."""


@dataclass(frozen=True)
class Failure:
    """What went wrong in a trial.

    Attributes:
        reason: In a user's words.
        module: The module that raised an error; None where the outputs differ.
    """

    reason: str
    module: str | None = None


class Trials:
    """Trial cuts of one network.

    The copy has random weights wherever trained or fresh ones could hide a mix-up (equal statistics, tiny scales), and
    normalisation over channels is switched off in all that is compared, as it differs by nature.

    Args:
        model: The dense network in eval mode; it is not changed.
        inputs: An example input; noise of the same shape is tried as well.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        self._device = device_of(model)
        with seeded(0, self._device):
            self._scrambled = _scrambled(model)
            self._examples = [inputs, noise_like(inputs)]

    def of_all(self, graph: FilterGraph) -> Failure | None:
        """Cut all groups together, once a unit each and once half of their units.

        Args:
            graph: From the trace.

        Returns:
            What went wrong; None where the cuts are right.

        Cost: six forward passes.
        """
        with seeded(0, self._device):
            return self._trial(graph, list(graph.prunable))

    def failing_groups(self, graph: FilterGraph) -> dict[str, str]:
        """Find the groups whose cut is not the same as silencing them.

        Only where all of them together fail, halves of the list are tried on their own.

        Args:
            graph: From the trace.

        Returns:
            By group what went wrong; empty where every cut is right.

        Cost: six forward passes where nothing is wrong.
        """
        return {name: failure.reason for name, failure in self.failures(graph).items()}

    def failures(self, graph: FilterGraph) -> dict[str, Failure]:
        """The same, with the module that raised an error.

        Args:
            graph: From the trace.

        Returns:
            By group what went wrong; empty where every cut is right.
        """
        with seeded(0, self._device):
            return self._search(graph, list(graph.prunable))

    def _search(self, graph: FilterGraph, groups: list[Group]) -> dict[str, Failure]:
        wrong = self._trial(graph, groups)
        if wrong is None:
            return {}
        if len(groups) == 1:
            return {groups[0].name: wrong}
        middle = len(groups) // 2
        found = self._search(graph, groups[:middle]) | self._search(graph, groups[middle:])
        # right alone and wrong together: none of them can be trusted beside the others
        return found or {group.name: wrong for group in groups}

    def _trial(self, graph: FilterGraph, groups: list[Group]) -> Failure | None:
        """Cut some groups on a copy; None if the result is right, else what is wrong."""
        for share in (0.0, 0.5):
            kept = {group.name: tuple(range(group.size)) for group in graph.prunable}
            for group in groups:
                left = max(group.size - max(1, int(group.size * share)), 1)
                order = torch.randperm(group.size).tolist()
                if not share:  # without the first unit all others stand elsewhere
                    order = [*(unit for unit in order if unit), 0]
                kept[group.name] = group.first(left, order)
            wrong = compared(
                self._scrambled,
                graph.cuts(kept),
                self._examples,
                as_in_training=graph.trains_more,
                held=graph.statistics,
            )
            if wrong is not None:
                return wrong
        return None


def failing_groups(model: nn.Module, graph: FilterGraph, inputs: Inputs) -> dict[str, str]:
    """Find the groups whose cut is not the same as silencing them.

    Args:
        model: The dense network in eval mode; it is not changed.
        graph: From the trace.
        inputs: An example input.

    Returns:
        By group what went wrong; empty where every cut is right.

    Cost: six forward passes where nothing is wrong.
    """
    return Trials(model, inputs).failing_groups(graph)


def difference(
    model: nn.Module,
    cuts: Cuts,
    examples: Sequence[Inputs],
    *,
    as_in_training: bool = False,
    from_dense: bool = False,
    held: frozenset[Place] = frozenset(),
) -> str | None:
    """Compare a cut network with the silenced one, and that with itself under noise in what it silences.

    Args:
        model: The dense network.
        cuts: What is cut.
        examples: Inputs.
        as_in_training: Whether heads that run only in training are compared as well.
        from_dense: Whether the cut network must compute what the dense one computes, and not the silenced one: for
            units that are constant, whose constants are folded.
        held: Statistics over channels, which differ by nature.

    Returns:
        None where all agree, else what does not.
    """
    found = compared(model, cuts, examples, as_in_training=as_in_training, from_dense=from_dense, held=held)
    return None if found is None else found.reason


def compared(
    model: nn.Module,
    cuts: Cuts,
    examples: Sequence[Inputs],
    *,
    as_in_training: bool = False,
    from_dense: bool = False,
    held: frozenset[Place] = frozenset(),
) -> Failure | None:
    """Like `difference`, and tell the module that raised an error.

    Args:
        model: The dense network.
        cuts: What is cut.
        examples: Inputs.
        as_in_training: As there.
        from_dense: As there.
        held: As there.

    Returns:
        None where all agree, else what does not.
    """
    running: list[str] = []
    try:
        for precision, tolerance in ((torch.float32, TOLERANCE), (torch.float64, EXACT_TOLERANCE)):
            plain = all(t.dtype == precision for t in model.parameters() if t.is_floating_point())
            network = model if plain else copied(model).to(precision)
            batches = [_cast(inputs, precision) for inputs in examples]
            if from_dense:
                worst = _change(network, cuts, batches)
            else:
                worst = _largest_difference(network, cuts, batches, as_in_training, held, running)
            if worst <= tolerance:
                return None
        return Failure(f"a trial cut changes the output by {worst:.1e} of its size")
    except Exception as error:  # noqa: BLE001 - whatever the user's code raises on a cut network is the answer
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return Failure(f"a trial cut fails: {first[:120]}", running[-1] if running else None)


@contextmanager
def _located(model: nn.Module, running: list[str]) -> Iterator[None]:
    """Keep the name of the module that runs, also when it raises an error."""
    handles = []
    for name, module in model.named_modules():
        handles.append(
            module.register_forward_pre_hook(lambda *_, name=name: running.append(name), prepend=True)
        )
        handles.append(module.register_forward_hook(lambda *_: _left(running)))
    running.clear()
    running.append("")
    yield
    running.clear()
    for handle in handles:
        handle.remove()


def _left(running: list[str]) -> None:
    running.pop()


def _largest_difference(
    model: nn.Module,
    cuts: Cuts,
    examples: Sequence[Inputs],
    as_in_training: bool,
    held: frozenset[Place],
    running: list[str],
) -> float:
    watched = _uncut(model, cuts)
    modes = (nn.Module.eval, train_without_statistics) if as_in_training else (nn.Module.eval,)
    with torch.no_grad(), NormalisationOff():
        smaller = cut_network(model, cuts)
        with _located(smaller, running):  # first what may raise an error
            found = [
                _outputs(_prepared(smaller, prepare), inputs, watched, held)
                for prepare in modes
                for inputs in examples
            ]
        silenced = silence_network(model, cuts, where="consumers")
        noisy = _with_noise(model, silenced, cuts)
        worst, outputs = 0.0, iter(found)
        for prepare in modes:
            for inputs in examples:
                reference = _outputs(_prepared(silenced, prepare), inputs, watched, held)
                under_noise = _outputs(_prepared(noisy, prepare), inputs, watched, held)
                for other in (next(outputs), under_noise):
                    worst = max(worst, largest_difference(reference, other))
    return worst


def _prepared(model: nn.Module, prepare: Callable[[nn.Module], object]) -> nn.Module:
    prepare(model)
    return model


def _with_noise(model: nn.Module, silenced: nn.Module, cuts: Cuts) -> nn.Module:
    """A copy of a silenced network with noise in the filters that it claims to silence."""
    noisy = copied(silenced)
    parameters = dict(noisy.named_parameters())
    read = silencing_masks(model, cuts, where="consumers")
    for name, mask in silencing_masks(model, cuts, where="filters").items():
        noise = torch.randn_like(parameters[name]).mul_(1 - compact(mask))
        parameters[name].add_(noise.mul_(read[name]) if name in read else noise)
    return noisy


def _change(model: nn.Module, cuts: Cuts, examples: Sequence[Inputs]) -> float:
    smaller, watched = cut_network(model, cuts).eval(), _uncut(model, cuts)
    with torch.no_grad():
        pairs = [
            (_outputs(model.eval(), inputs, watched), _outputs(smaller, inputs, watched))
            for inputs in examples
        ]
    return max(largest_difference(reference, other) for reference, other in pairs)


def _uncut(model: nn.Module, cuts: Cuts) -> tuple[str, ...]:
    """Layers whose outputs must be the same in a cut network: what they return is compared as well.

    A network may return nothing but the place of the largest score, which a wrong cut need not move.
    """
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, MIXING) and (name not in cuts.layers or cuts.layers[name].keep_filters is None)
    )


def _outputs(
    model: nn.Module, inputs: Inputs, watched: Sequence[str], held: frozenset[Place] = frozenset()
) -> list[Tensor]:
    """What the network returns; where that does not tell all, in front of it what some layers return."""
    found: list[Tensor] = []
    layers = {name: model.get_submodule(name) for name in watched}
    with ExitStack() as stack:
        stack.enter_context(seeded(0, device_of(model)))
        stack.enter_context(outputs_of(layers, lambda _, __, out: found.append(out.detach().clone())))
        if held:
            stack.enter_context(StatisticsHeld(model, held))
        returned = outputs_in(call(model, inputs))
    telling = all(tensor.is_floating_point() for tensor in returned) and any(t.numel() > 1 for t in returned)
    return returned if telling else [*found, *returned]


class NormalisationOff(TorchFunctionMode):
    """Layer and group normalisation compute only their affine part: the part that a cut must keep exactly."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.layer_norm:
            return _affine(*args, **kwargs)
        if func is F.group_norm:
            return _affine_by_channel(*args, **kwargs)
        return func(*args, **kwargs)


def _affine(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    if tuple(input.shape[-len(normalized_shape) :]) != tuple(normalized_shape):
        raise ValueError(f"layer_norm over {tuple(normalized_shape)} does not fit {tuple(input.shape)}")
    scaled = input if weight is None else input * weight
    return scaled if bias is None else scaled + bias


def _affine_by_channel(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    if input.shape[1] % num_groups:
        raise ValueError(f"{input.shape[1]} channels do not fit {num_groups} groups")
    shape = (-1, *[1] * (input.dim() - 2))
    return _scaled(input, weight, bias, shape)


def _scaled(tensor: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    tensor = tensor if weight is None else tensor * weight.reshape(shape)
    return tensor if bias is None else tensor + bias.reshape(shape)


def _scrambled(model: nn.Module) -> nn.Module:
    """A copy in which equal or tiny parameters cannot hide a mix-up of channels."""
    copy = copied(model).float()
    with torch.no_grad():
        for name, tensor in (*copy.named_parameters(), *copy.named_buffers()):
            if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.is_meta:
                continue
            if tensor.numel() == max(tensor.shape):  # one number per channel: scales, shifts, statistics
                positive = bool((tensor > 0).all())  # variances, under whatever name
                tensor.uniform_(0.5, 1.5)
                if not positive and not name.endswith(("running_var", "weight", "original0", "_g")):
                    tensor.sub_(1.0)
            elif not bool(tensor.any()) or float(tensor.std()) == 0:
                tensor.normal_(0, max(1, tensor[0].numel()) ** -0.5)
            else:
                tensor.mul_(torch.empty_like(tensor).uniform_(0.7, 1.3))
    return copy.eval()


def noise_like(inputs: Any) -> Any:
    """Noise in the form of an example.

    Args:
        inputs: What `call` takes.

    Returns:
        The same with standard normal values; integers stay, as they may be indices.
    """
    return mapped(lambda t: torch.randn_like(t.float()) if t.is_floating_point() else t, inputs)


def _cast(inputs: Any, precision: torch.dtype) -> Any:
    return mapped(lambda t: t.to(precision) if t.is_floating_point() else t, inputs)
