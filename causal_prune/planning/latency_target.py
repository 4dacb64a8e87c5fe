"""The target `keep_latency`: widths found by timing exported candidates on this machine."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import nn

from causal_prune.errors import TargetError
from causal_prune.importance import FilterScores
from causal_prune.measure import measure_latency
from causal_prune.network.running import Inputs
from causal_prune.onnx_files import OnnxForm, export_onnx
from causal_prune.planning.targets import Goal
from causal_prune.planning.unit_choice import check_prunable, plan
from causal_prune.progress import track
from causal_prune.report import Target
from causal_prune.surgery import PruningPlan, remove
from causal_prune.tracing import FilterGraph

STEPS = 7


def plan_latency(
    model: nn.Module,
    graph: FilterGraph,
    scores: FilterScores,
    example: Inputs,
    *,
    keep_latency: float,
    align: int,
    threads: int,
    form: OnnxForm | None = None,
) -> PruningPlan:
    """Choose the units that go, so that a share of the ONNX Runtime latency stays on this machine.

    Bisection over `keep_macs`: each candidate is cut, exported and timed side by side with the dense network.

    Args:
        model: The dense network.
        graph: From `trace`.
        scores: From `score`.
        example: An input for the export.
        keep_latency: Share of the dense network's median latency that stays, in (0, 1).
        align: Widths are multiples of this where a group is wide enough.
        threads: Of ONNX Runtime.
        form: Of the ONNX files that are timed; the standard one if None.

    Returns:
        The candidate that keeps the most while it meets the target.

    Raises:
        InputError: If the target is outside (0, 1).
        TargetError: If nothing can be pruned, or no candidate is fast enough; the fastest is named.

    Cost: eight exports, and about two seconds of timing for each candidate.
    """
    Goal(keep_latency=keep_latency)
    check_prunable(graph)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        form = form or OnnxForm()
        write = partial(export_onnx, example_input=example, dynamic_size=form.dynamic_size, opset=form.opset)
        write(model, folder / "dense.onnx")

        def timed(candidate: PruningPlan) -> float:
            write(remove(model, candidate), folder / "candidate.onnx")
            files = {name: folder / f"{name}.onnx" for name in ("dense", "candidate")}
            latencies = measure_latency(files, threads=threads)
            return latencies["candidate"].median / latencies["dense"].median

        return _bisect(lambda share: plan(graph, scores, keep_macs=share, align=align), timed, keep_latency)


def _bisect(
    candidate: Callable[[float], PruningPlan], timed: Callable[[PruningPlan], float], keep_latency: float
) -> PruningPlan:
    low, high = 0.0, 1.0
    best: tuple[float, PruningPlan] | None = None
    fastest = 1.0
    for _ in track(range(STEPS), "latency target", unit="candidate"):
        middle = (low + high) / 2
        try:
            tried = candidate(middle)
        except TargetError:  # fewer multiply-accumulates than the narrowest network has
            low = middle
            continue
        share = timed(tried)
        fastest = min(fastest, share)
        if share <= keep_latency:
            best, low = (share, tried), middle
        else:
            high = middle
    if best is None:
        raise TargetError(
            f"keep_latency={keep_latency} is out of reach: the fastest network tried keeps "
            f"{fastest:.3f} of the latency; ask for a share between {fastest:.2f} and 1"
        )
    share, chosen = best
    target = Target("keep_latency", keep_latency, share)
    return replace(chosen, target=target)
