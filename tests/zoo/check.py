"""Cut half of a network and judge the result without believing the graph that the cut came from.

The reference is the dense network in which every layer of the plan reads zeros at the channels that the plan drops
(hooks on its inputs, no weight is touched). Normalisations over channels take their statistics over what is kept.
Whether the reference is a cut at all is proved by noise: whatever the dropped filters emit, it must not notice.
"""

import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from causal_prune.errors import CausalPruneError
from causal_prune.importance.scores import from_units
from causal_prune.network.running import call
from causal_prune.network.tensor_trees import tensors_in
from causal_prune.onnx_files.export import export_onnx
from causal_prune.planning.unit_choice import plan_widths
from causal_prune.surgery.cuts import Cuts
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.rebuilding import bundle_weights, load
from causal_prune.surgery.removal import remove
from causal_prune.surgery.silencing import zero
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace
from tests.zoo.nested import error_between, finite, like, resampled
from tests.zoo.silencing import MIXING, emitting_noise, reading_zeros
from tests.zoo.untouched import TouchedError, untouched

Kind = Literal["right", "frozen", "wrong", "raised"]
TOLERANCE = 1e-5
HALF_TOLERANCE = 1e-2
TRAINING_TOLERANCE = 1e-3
"""Batch norm over a batch of four amplifies rounding."""
DOUBLE_TOLERANCE = 1e-9


class WrongError(Exception):
    """What is wrong with a cut."""


@dataclass(frozen=True)
class Outcome:
    """What became of one network.

    Attributes:
        kind: "right" where something was cut and every check held, "frozen" where nothing can be cut.
        frozen_share: Share of the filters that can never be cut, of those that produce no network output.
        seconds: Of the trace.
        detail: What is wrong, or what could not be checked.
        approximate: Whether a normalisation over channels was cut and could not be checked against a reference.
        cuttable: Layers of which at least one filter belongs to a prunable group.
        groups: Number of prunable groups.
        trained: Whether the removed network took a training step.
        error: Largest relative error of any output.
        onnx: The error between ONNX Runtime and torch, or why there is no file.
    """

    kind: Kind
    frozen_share: float = 1.0
    seconds: float = 0.0
    detail: str = ""
    approximate: bool = False
    cuttable: frozenset[str] = frozenset()
    groups: int = 0
    trained: bool = False
    error: float = 0.0
    onnx: str = ""


def check_network(
    make: Callable[[], nn.Module],
    example: Any,
    *,
    seed: int = 0,
    any_batch: bool = True,
    prepare: Callable[[nn.Module], None] | None = None,
    onnx: bool = False,
    dependencies: Literal["labels", "torch-pruning"] = "labels",
    prove: bool = True,
) -> Outcome:
    """Trace a network, cut a random half of every prunable group, and judge.

    Args:
        make: Makes the network; called several times, with the same seed.
        example: What to trace with: a tensor, a tuple or a mapping.
        seed: Of the choice of units and of the further inputs.
        any_batch: Whether other batch sizes than the example's may be tried.
        prepare: Gives the network under test weights and statistics that `make` alone does not give.
        onnx: Whether to export the removed network as well, with a dynamic batch and a parity of 1e-5.
        dependencies: Whose groups are cut.
        prove: Whether trial cuts may freeze some of them first.

    Returns:
        The outcome; nothing is raised.
    """
    with torch.random.fork_rng(devices=[]):
        model = _made(make)
        if prepare is not None:
            prepare(model)
        next(iter(model.modules())).train()
        start = time.perf_counter()
        try:
            with untouched(model):
                graph = trace(model, example, dependencies=dependencies, prove=prove)
                seconds = time.perf_counter() - start
        except TouchedError as error:
            return Outcome("wrong", detail=f"trace: {error}")
        except Exception as error:  # noqa: BLE001 - any error is an outcome
            return Outcome("raised", seconds=time.perf_counter() - start, detail=_line("trace", error))
        outcome = Outcome("right", *_facts(model, graph, seconds))
        if not graph.prunable:
            return _with(outcome, kind="frozen", detail="; ".join(sorted(set(graph.frozen.values())))[:200])
        inputs = list(_inputs(example, seed, any_batch))
        step = "remove"
        try:
            for step, facts in _judged(make, model, graph, inputs, seed, onnx):  # noqa: B007 - named in the outcome
                outcome = _with(outcome, **facts)
        except (WrongError, TouchedError) as error:
            return _with(outcome, kind="wrong", detail=f"{step}: {error}")
        except Exception as error:  # noqa: BLE001 - any error is an outcome
            return _with(outcome, kind="raised", detail=_line(step, error))
    return outcome


def _judged(
    make: Callable[[], nn.Module],
    model: nn.Module,
    graph: FilterGraph,
    inputs: list[Any],
    seed: int,
    onnx: bool,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every check in turn.

    Yields:
        The name of the step that comes next, and what the last one found.
    """
    half, full = (_plan(graph, seed, share) for share in (0.5, 0.0))
    with untouched(model):
        remove(model, half)
    cut = _Cut(make, model, half)
    yield "keep all", {}
    _check_keeping_all(cut, full, inputs[0])
    yield "zero", {}
    with untouched(model):
        silenced = zero(model, half, where="consumers")
    yield "compare", {}
    yield "rebuild", _compare(cut, silenced, graph, inputs)
    _check_rebuilt(cut, inputs)
    yield "train", {}
    approximate = any(group.approximate for group in graph.prunable)
    yield "export", {"trained": _check_training(cut, inputs[-1], approximate)}
    if onnx:
        yield "end", {"onnx": _exported(cut.removed(), inputs[0])}


@dataclass(frozen=True)
class _Cut:
    make: Callable[[], nn.Module]
    model: nn.Module
    plan: PruningPlan

    @property
    def cuts(self) -> Cuts:
        """What the plan does to each layer."""
        return self.plan.cuts

    def removed(self) -> nn.Module:
        """A fresh removed network, in eval mode."""
        return remove(self.model, self.plan).eval()

    def dense(self) -> nn.Module:
        """A fresh dense network with the model's weights, in eval mode; `deepcopy` is not relied on."""
        fresh = _made(self.make)
        fresh.load_state_dict(self.model.state_dict())
        return fresh.eval()


def _made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(11)
    return make()


def _with(outcome: Outcome, **changes: Any) -> Outcome:
    return Outcome(**{**vars(outcome), **changes})


def _line(step: str, error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{step}: {type(error).__name__}: {text[0] if text else ''}"[:300]


def _plan(graph: FilterGraph, seed: int, share: float) -> PruningPlan:
    generator = torch.Generator().manual_seed(seed)
    scores = from_units(
        "random", "none", graph, lambda g: torch.rand(g.size, generator=generator, dtype=torch.float64)
    )
    widths = {group.name: max(group.size - int(group.size * share), 1) for group in graph.prunable}
    return plan_widths(graph, scores, widths, kind="remove_filters", requested=0.5)


def _facts(
    model: nn.Module, graph: FilterGraph, seconds: float
) -> tuple[float, float, str, bool, frozenset[str], int]:
    free: dict[str, set[int]] = {}
    for group in graph.prunable:
        for member in group.of_role("producer"):
            free.setdefault(member.layer, set()).update(member.positions)
    total = frozen = 0
    for name, module in model.named_modules():
        if not isinstance(module, MIXING):
            continue
        filters = getattr(module, "out_channels", None) or getattr(module, "out_features", 0)
        passenger = getattr(module, "groups", 1) == filters > 1 and name not in free
        output = "output of the network" in graph.frozen.get(name, "") and name not in free
        if passenger or output:
            continue
        total += filters
        frozen += filters - len(free.get(name, ()))
    approximate = any(group.approximate for group in graph.prunable)
    return frozen / max(total, 1), seconds, "", approximate, frozenset(free), len(graph.prunable)


def _check_keeping_all(cut: _Cut, plan: PruningPlan, example: Any) -> None:
    model, same = cut.model, remove(cut.model, plan)
    expected, found = _run(cut.dense(), example), _run(same.eval(), example)
    state, dense = same.state_dict(), model.state_dict()
    if list(state) != list(dense) or any(not torch.equal(state[key], dense[key]) for key in dense):
        raise WrongError("a plan that keeps every unit changes the state dict")
    if error_between(expected, found) != 0:
        raise WrongError("a plan that keeps every unit gives other outputs")


def _inputs(example: Any, seed: int, any_batch: bool) -> Iterator[Any]:
    """The example, its negative (other branches), and a random batch of four."""
    yield example
    yield resampled(example, None, seed, sign=-1.0)
    yield resampled(example, 4 if any_batch else None, seed + 1, sign=1.0)


def _run(model: nn.Module, inputs: Any, *, seed: int = 5) -> Any:
    torch.manual_seed(seed)
    with torch.no_grad():
        return call(model, like(inputs))


def _compare(cut: _Cut, silenced: nn.Module, graph: FilterGraph, inputs: list[Any]) -> dict[str, Any]:
    approximate = any(group.approximate for group in graph.prunable)
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in cut.model.parameters())
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    removed = cut.removed()
    reference = cut.dense()
    _adopt_parameters(reference, silenced, cut.cuts)
    result: dict[str, Any] = {"error": 0.0}
    if sum(p.numel() for p in removed.parameters()) >= sum(p.numel() for p in reference.parameters()):
        raise WrongError("the removed network has no fewer parameters")
    with reading_zeros(reference, cut.cuts):
        for place, batch in enumerate(inputs):
            expected, found = _run(reference, batch), _run(removed, batch)
            if not finite(found):
                raise WrongError("outputs are not finite")
            error = error_between(expected, found)
            result["error"] = max(result["error"], error)
            if error > tolerance and not approximate:
                exact = None if half else _error_in_double(cut, silenced, batch)
                if exact is None or exact > DOUBLE_TOLERANCE:
                    raise WrongError(f"input {place}: removed differs from silenced by {error:.2g}")
                result["detail"] = f"float32 error {error:.2g}, float64 {exact:.2g}"
            result["approximate"] = result.get("approximate", False) or (error > tolerance and approximate)
            with emitting_noise(reference, cut.cuts):
                noticed = error_between(expected, _run(reference, batch))
            if noticed > tolerance and not approximate:
                raise WrongError(
                    f"input {place}: a reader of a dropped filter is not in the plan ({noticed:.2g})"
                )
    _check_zero(cut, silenced, inputs[-1], tolerance, approximate)
    _check_not_vacuous(cut, inputs)
    return result


def _error_in_double(cut: _Cut, silenced: nn.Module, batch: Any) -> float | None:
    reference, removed = cut.dense(), cut.removed()
    _adopt_parameters(reference, silenced, cut.cuts)
    batch = like(batch, dtype=torch.float64)
    try:
        with reading_zeros(reference.double().eval(), cut.cuts):
            return error_between(_run(reference, batch), _run(removed.double().eval(), batch))
    except RuntimeError:  # a network with float32 written into it
        return None


def _check_zero(cut: _Cut, silenced: nn.Module, batch: Any, tolerance: float, approximate: bool) -> None:
    """`zero` at the consumers computes what a network computes that reads zeros."""
    reference = cut.dense()
    _adopt_parameters(reference, silenced, cut.cuts)
    with reading_zeros(reference, cut.cuts, norms=False):
        error = error_between(_run(reference, batch), _run(silenced.eval(), batch))
    if error > tolerance and not approximate:
        raise WrongError(f"zero(where='consumers') differs from reading zeros by {error:.2g}")


def _check_not_vacuous(cut: _Cut, inputs: list[Any]) -> None:
    dense = cut.dense()
    expected = [_run(dense, batch) for batch in inputs]
    with emitting_noise(dense, cut.cuts):
        changes = [error_between(old, _run(dense, new)) for old, new in zip(expected, inputs, strict=True)]
    if max(changes) < 1e-4:
        raise WrongError("nothing that was cut has an effect on the outputs")


def _adopt_parameters(reference: nn.Module, silenced: nn.Module, cuts: Cuts) -> None:
    """Bare parameters have no hook: for them alone the zeros of `zero` are used."""
    for name in cuts.parameters:
        path, _, label = name.rpartition(".")
        target, source = (getattr(m.get_submodule(path), label) for m in (reference, silenced))
        with torch.no_grad():
            target.copy_(source)


def _check_rebuilt(cut: _Cut, inputs: list[Any]) -> None:
    removed = cut.removed()
    with tempfile.TemporaryDirectory() as folder:
        cut.plan.save(Path(folder) / "plan.json")
        bundle_weights(removed, Path(folder) / "model.safetensors")
        rebuilt = load(folder, lambda: _made(cut.make))
    state, other = removed.state_dict(), rebuilt.state_dict()
    if list(state) != list(other) or any(not torch.equal(state[key], other[key]) for key in state):
        raise WrongError("load gives another state dict than remove")
    for batch in inputs:
        if error_between(_run(removed, batch), _run(rebuilt, batch)) != 0:
            raise WrongError("load gives another network than remove: outputs are not the same bits")
    if _tied(cut.model) != _tied(rebuilt):
        raise WrongError("load unties weights that were tied")


def _tied(model: nn.Module) -> list[tuple[str, ...]]:
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    return sorted(tuple(names) for names in owners.values() if len(names) > 1)


def _check_training(cut: _Cut, batch: Any, approximate: bool) -> bool:
    """A step of training: the same parameters learn, and before it both networks compute the same.

    Returns:
        False where not even the dense network trains on this input.
    """
    dense, removed = cut.dense(), cut.removed()
    free, expected = (
        _plain_names(name for name, p in net.named_parameters() if p.requires_grad)
        for net in (removed, cut.model)
    )
    there = _plain_names(name for name, _ in removed.named_parameters())
    if free != expected & there:  # gains of a weight that is made in the forward become part of it
        raise WrongError(f"requires_grad flags differ: {sorted(free ^ expected)[:3]}")
    if _tied(cut.model) != _tied(removed):
        raise WrongError("tied weights are no longer tied")
    try:
        learned = _step(dense, batch)
    except (RuntimeError, ValueError):
        return False
    if learned is None:
        return False
    error = _error_in_training(cut, batch)
    if error > TRAINING_TOLERANCE and not approximate:
        raise WrongError(f"removed differs from silenced by {error:.2g} in train mode")
    found = _step(removed, batch)
    if found != learned & there:
        raise WrongError(f"other parameters learn: {sorted(learned ^ (found or set()))[:3]}")
    if not finite(_run(removed.eval(), batch)) or not all(
        bool(p.isfinite().all()) for p in removed.parameters()
    ):
        raise WrongError("not finite after a training step")
    return True


def _error_in_training(cut: _Cut, batch: Any) -> float:
    """Difference between removed and silenced in train mode; 0 where that is random or moves."""
    if set(cut.removed().state_dict()) != set(cut.model.state_dict()):
        return 0.0  # spectral norm was taken off, which moves in training
    reference, again, removed = cut.dense().train(), cut.dense().train(), cut.removed().train()
    if error_between(_run(again, batch, seed=1), _run(again, batch, seed=2)) > HALF_TOLERANCE:
        return 0.0
    with reading_zeros(reference, cut.cuts):
        return error_between(_run(reference, batch), _run(removed, batch))


def _exported(removed: nn.Module, example: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return f"{export_onnx(removed, Path(folder) / 'net.onnx', example, tolerance=1e-5).max_abs:.0e}"
        except CausalPruneError as error:
            return f"{type(error).__name__}: {error}"


def _plain_names(names: Iterable[str]) -> set[str]:
    """Names of parameters without what weight norm and spectral norm make of them: a cut may take these off."""
    return {
        re.sub(r"\.parametrizations\.(\w+)\.original\d?$|\.(\w+)_(?:orig|g|v)$", r".\1\2", name)
        for name in names
    }


def _step(model: nn.Module, batch: Any) -> set[str] | None:
    """Names of the parameters that got a gradient; None where no output can be trained on."""
    model.train()
    torch.manual_seed(3)
    outputs = [t for t in tensors_in(call(model, like(batch))) if t.requires_grad]
    if not outputs:
        return None
    loss = sum((t.abs() if t.is_complex() else t).float().pow(2).mean() for t in outputs)
    loss.backward()
    learned = _plain_names(name for name, p in model.named_parameters() if p.grad is not None)
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3).step()
    return learned
