from pathlib import Path

import pytest
import torch
from torch import nn

from causal_prune.errors import InputError, TargetError
from causal_prune.importance.scores import FilterScores
from causal_prune.measure.cost import count_cost
from causal_prune.measure.latency import Latency
from causal_prune.onnx_files.options import OnnxForm
from causal_prune.onnx_files.parity import Parity
from causal_prune.planning import latency_target
from causal_prune.planning.latency_target import _bisect, plan_latency
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.removal import remove
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 40, 3), nn.ReLU(), nn.Conv2d(40, 50, 3), nn.ReLU(), nn.Conv2d(50, 2, 1))


def scored() -> tuple[FilterGraph, FilterScores]:
    graph = trace(network(), EXAMPLE)
    groups = {g.name: torch.arange(g.size, dtype=torch.float64) for g in graph.prunable}
    return graph, FilterScores("test", "", groups, {})


def candidate(share: float) -> PruningPlan:
    return plan(*scored(), keep_macs=share)


@pytest.mark.parametrize("wanted", [0.3, 0.5, 0.8])
def test_the_candidate_that_keeps_the_most_is_found_among_those_fast_enough(wanted: float) -> None:
    tried: list[tuple[float, float]] = []

    def timed(plan: PruningPlan) -> float:
        tried.append((plan.target.requested, 0.1 + 0.9 * plan.target.achieved))  # a tenth is overhead
        return tried[-1][1]

    found = _bisect(candidate, timed, wanted)
    assert found.target.kind == "keep_latency" and found.target.requested == wanted
    assert found.target.achieved <= wanted
    assert wanted - found.target.achieved < 0.02
    best = max(share for share, latency in tried if latency <= wanted)
    assert found.cuts == candidate(best).cuts and found.kept_units == candidate(best).kept_units
    assert len(tried) == latency_target.STEPS


def test_latency_is_searched_above_what_macs_can_reach() -> None:
    """Where the narrowest network has a fifth of the MACs, smaller shares are passed over, not fatal."""
    asked: list[float] = []

    def reachable(share: float) -> PruningPlan:
        asked.append(share)
        if share < 0.6:
            raise TargetError("keep_macs is out of reach")
        return candidate(share)

    found = _bisect(reachable, lambda plan: plan.target.achieved, 0.7)
    assert 0.66 <= found.target.achieved <= 0.7
    assert min(asked) < 0.6 < max(asked)


def test_a_target_that_no_candidate_reaches_names_the_fastest() -> None:
    with pytest.raises(
        TargetError, match=r"keep_latency=0.2 is out of reach: the fastest .* keeps 0.500 of the latency"
    ):
        _bisect(candidate, lambda plan: 0.5 + 0.4 * (plan.target.achieved > 0.1), 0.2)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int]]:
    """Export and timing by the count of MACs: what was timed, as (MACs, threads)."""
    macs: dict[str, int] = {}
    seen: list[tuple[float, int]] = []

    def export(
        model: nn.Module, path: Path, example_input: torch.Tensor, *, dynamic_size: bool, opset: int | None
    ) -> Parity:
        assert (dynamic_size, opset) == (True, 18)
        path.write_bytes(b"")
        macs[path.name] = count_cost(model, example_input).macs
        return Parity(0.0, 1e-4, True, {})

    def measure(files: dict[str, Path], *, threads: int) -> dict[str, Latency]:
        assert all(path.is_file() for path in files.values())
        seen.append((macs["candidate.onnx"], threads))
        return {name: Latency((float(macs[path.name]),) * 3, threads, 1) for name, path in files.items()}

    monkeypatch.setattr(latency_target, "export_onnx", export)
    monkeypatch.setattr(latency_target, "measure_latency", measure)
    return seen


def test_candidates_are_cut_exported_and_timed_against_the_dense_network(
    stand_ins: list[tuple[float, int]],
) -> None:
    net, (graph, scores) = network(), scored()
    form = OnnxForm(opset=18, dynamic_size=True)
    found = plan_latency(net, graph, scores, EXAMPLE, keep_latency=0.4, align=1, threads=3, form=form)
    share = count_cost(remove(net, found), EXAMPLE).macs / count_cost(net, EXAMPLE).macs
    assert found.target.achieved == pytest.approx(share) and 0.38 < share <= 0.4
    assert {threads for _, threads in stand_ins} == {3} and len(stand_ins) == latency_target.STEPS
    assert net[0].out_channels == 40


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_shares_outside_the_open_interval_are_refused(
    share: float, stand_ins: list[tuple[float, int]]
) -> None:
    graph, scores = scored()
    with pytest.raises(InputError, match=f"keep_latency: {share} is not between 0 and 1"):
        plan_latency(network(), graph, scores, EXAMPLE, keep_latency=share, align=1, threads=1)
    assert not stand_ins


def test_where_everything_is_frozen_nothing_is_exported(stand_ins: list[tuple[float, int]]) -> None:
    graph = trace(network(), EXAMPLE, freeze=["0", "2"])
    with pytest.raises(TargetError, match="nothing can be pruned: every layer is frozen"):
        plan_latency(network(), graph, scored()[1], EXAMPLE, keep_latency=0.5, align=1, threads=1)
    assert not stand_ins
