"""What the report says of the arms."""

from dataclasses import replace
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from causal_prune.comparison.outcome import ArmResult, Exported, Outcome, Stages
from causal_prune.importance.scores import FilterScores
from causal_prune.measure.cost import Cost
from causal_prune.measure.latency import Latency
from causal_prune.measure.quality import Measured
from causal_prune.measure.statistics import change_interval, two_way_difference
from causal_prune.observation import observe
from causal_prune.onnx_files.parity import Parity
from causal_prune.pipeline.findings import arm_entry, compared, layer_entries
from causal_prune.planning.unit_choice import plan
from causal_prune.report.report import hits_to_text
from causal_prune.report.yardstick import ACCURACY
from causal_prune.tracing.network_trace import trace


def accuracy(*hits: int) -> Measured:
    right = np.array(hits, dtype=bool)
    places = np.arange(len(right))
    return Measured(places, right, np.where(right, places, -1))


def arm(name: str, end: Measured, seed: int | None = None) -> ArmResult:
    stages = Stages(end, accuracy(0, 0), None, accuracy(1, 0)) if name != "dense" else Stages(end)
    return ArmResult(name, None if name == "dense" else name, seed, nn.Identity(), stages, Cost(100, 10, {}))


CAUSAL = (1, 1, 1, 1, 1, 0, 1, 1, 0, 1)
RANDOMS = ((1, 1, 0, 1, 0, 0, 1, 0, 0, 0), (1, 0, 0, 0, 0, 0, 0, 0, 0, 1), (1, 1, 1, 1, 1, 1, 1, 1, 1, 0))


def results(*randoms: tuple[int, ...]) -> Outcome:
    others = [arm("random", accuracy(*hits), seed) for seed, hits in enumerate(randoms)]
    others.append(arm("magnitude", accuracy(*[0] * 10)))
    return Outcome(arm("dense", accuracy(*[1] * 10)), arm("causal", accuracy(*CAUSAL)), tuple(others))


def literal_mcnemar(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    only_a = sum(x > y for x, y in zip(a, b, strict=True))
    only_b = sum(x < y for x, y in zip(a, b, strict=True))
    n, tail = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(stats.binom.pmf(k, n, 0.5) for k in range(tail + 1)))


def test_the_comparison_is_recomputed_from_the_hits() -> None:
    found = compared(results(*RANDOMS), ACCURACY)
    differences = [(sum(CAUSAL) - sum(hits)) / 10 for hits in RANDOMS]
    assert found.mean_difference == pytest.approx(mean(differences))
    spread = stats.t.ppf(0.975, 2) * stdev(differences) * (1 + 1 / 3) ** 0.5
    whole = two_way_difference(np.array(CAUSAL, bool), np.array(RANDOMS, bool))
    assert found.ci95 == whole.ci95 == pytest.approx((mean(differences) - spread, mean(differences) + spread))
    assert found.ci95_over == "images and seeds"
    assert found.wins_of == (2, 3)
    assert (found.arm, found.versus) == ("causal", "random")
    assert found.paired_p == pytest.approx(literal_mcnemar(CAUSAL, RANDOMS[0])), (
        "the random arm of median accuracy"
    )


def test_random_arms_that_happen_to_be_equal_give_no_verdict_of_one_image() -> None:
    random = (1,) * 9 + (0,) * 1
    found = compared(results(random, random), ACCURACY)
    assert found.mean_difference == pytest.approx(-0.1) and found.paired_p == pytest.approx(1.0)
    assert found.ci95[0] < -0.2 and found.ci95[1] > 0.1


def test_one_random_arm_has_no_interval_and_none_no_comparison() -> None:
    assert compared(results(RANDOMS[1]), ACCURACY).ci95 is None
    assert compared(results(), ACCURACY) is None


def exported(median: float) -> Exported:
    return Exported(Parity(1e-6, 1e-4, True, {}), 1234, Latency((median,) * 5, 1, 1))


def test_entries_hold_what_was_measured_and_none_for_what_was_not() -> None:
    medians = iter((4.0, 1.6, 2.0))
    outcome = results(*RANDOMS).each(
        lambda each: replace(each, exported=exported(median)) if (median := next(medians, None)) else each
    )
    entries = [arm_entry(each, outcome) for each in outcome]
    assert [entry.name for entry in entries] == ["dense", "causal", "random", "random", "random", "magnitude"]
    assert [entry.seed for entry in entries] == [None, None, 0, 1, 2, None]
    assert [entry.speedup for entry in entries] == [1.0, 2.5, 2.0, None, None, None]
    assert entries[1].latency_ms.median == 1.6 and entries[3].latency_ms is None
    assert entries[1].onnx_bytes == 1234 and entries[5].onnx_bytes is None
    assert entries[0].quality_after_cut is None and entries[0].quality_after_compensation is None
    assert entries[1].quality_after_cut == 0 and entries[1].quality_after_compensation == 0.5
    for entry, result in zip(entries, outcome, strict=True):
        hits = tuple(result.stages.end.merits.astype(int).tolist())
        assert entry.accuracy == sum(hits) / 10 and entry.correct == sum(hits) and entry.total == 10
        assert entry.merits == hits_to_text(hits)
        expected = None if entry.name == "causal" else pytest.approx(literal_mcnemar(CAUSAL, hits))
        assert entry.paired_p == expected
        dense = np.ones(10, bool)
        change = None if entry.name == "dense" else change_interval(np.array(hits, bool), dense)
        assert entry.change_ci95 == change


def test_layers_show_their_widths_before_and_after_and_why_they_are_frozen() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 10, 3), nn.BatchNorm2d(10), nn.Conv2d(10, 20, 3), nn.Flatten(), nn.Linear(80, 3)
    )
    graph = trace(net, torch.zeros(2, 1, 6, 6))
    groups = {g.name: torch.arange(g.size, dtype=torch.float64) for g in graph.prunable}
    scores = FilterScores("test", "", groups, {})
    moments = observe(net, graph, [torch.randn(6, 1, 6, 6, generator=torch.Generator().manual_seed(0))])
    planned = plan(graph, scores, remove_filters=0.4)
    entries = {entry.name: entry for entry in layer_entries(graph, planned, moments)}
    assert list(entries) == ["0", "2", "4"], "convolutions and linear layers"
    assert (entries["0"].filters_before, entries["0"].filters_after, entries["0"].frozen) == (10, 6, None)
    assert (entries["2"].filters_before, entries["2"].filters_after) == (20, 12)
    assert (entries["4"].filters_before, entries["4"].filters_after) == (3, 3)
    assert entries["4"].frozen == graph.frozen["4"]
    assert entries["0"].shrinkage is None, "it reads no channels that can go"
    assert entries["2"].shrinkage == moments.reads["2"].shrinkage > 0.001
