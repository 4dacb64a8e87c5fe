"""Ablation against literal interventions: a hook, a full forward pass and a mean, unit by unit."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causal_prune.comparison.agreement import spearman_by_group
from causal_prune.errors import InputError
from causal_prune.importance import ablation
from causal_prune.importance.ablation import ablate, joined
from causal_prune.intervention.replay import Constant, Recorder, Replay, Rerun
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace


def reading(net: nn.Module, images: Tensor, layer: str) -> Tensor:
    seen: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    net(images)
    handle.remove()
    return seen[0]


@torch.no_grad()
def literal(net: nn.Module, graph: FilterGraph, images: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Rise of the loss of every image, shape (units, images), by group."""
    dense = F.cross_entropy(net(images).double(), labels, reduction="none")
    found = {}
    for group in graph.prunable:
        rows = []
        reads = {member.layer: reading(net, images, member.layer) for member in group.of_role("consumer")}
        for unit in range(group.size):
            handles = []
            for member in group.of_role("consumer"):
                positions = [p for p, u in zip(member.positions, member.units, strict=True) if u == unit]
                read = reads[member.layer]

                def hold(_, args, positions=positions, read=read):
                    changed = args[0].clone()
                    for position in positions:
                        changed[:, position] = read[:, position].double().mean()
                    return (changed,)

                handles.append(net.get_submodule(member.layer).register_forward_pre_hook(hold))
            rows.append(F.cross_entropy(net(images).double(), labels, reduction="none") - dense)
            for handle in handles:
                handle.remove()
        found[group.name] = torch.stack(rows).numpy()
    return found


def test_rises_are_the_literal_interventions_with_their_standard_errors(traced) -> None:
    labels = torch.cat([labels for _, labels in traced.labelled])
    expected = literal(traced.net, traced.graph, traced.images, labels)
    found = ablate(traced.net, traced.graph, traced.labelled)
    assert found.images == 60
    assert found.loss == pytest.approx(
        float(F.cross_entropy(traced.net(traced.images), labels).detach()), rel=1e-5
    )
    assert found.rise.keys() == expected.keys()
    for name, rises in expected.items():
        np.testing.assert_allclose(found.rise[name], rises.mean(axis=1), rtol=1e-4, atol=1e-8)
        spread = rises.std(axis=1, ddof=1) / 60**0.5
        np.testing.assert_allclose(found.error[name], spread, rtol=1e-3, atol=1e-8)
        assert np.abs(rises.mean(axis=1)).max() > 1e-5
    assert any(float(rise.min()) < 0 for rise in found.rise.values())


def test_batches_and_their_parts_make_no_difference(traced, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ablate(traced.net, traced.graph, traced.labelled)
    monkeypatch.setattr(ablation, "ACTIVATION_BYTES", 100_000)
    found = ablate(traced.net, traced.graph, [({"x": x}, y) for x, y in traced.labelled])
    for name, rise in expected.rise.items():
        torch.testing.assert_close(found.rise[name], rise, rtol=1e-4, atol=1e-8)
        torch.testing.assert_close(found.error[name], expected.error[name], rtol=1e-3, atol=1e-8)


def test_chosen_units_are_those_of_all(traced) -> None:
    whole = ablate(traced.net, traced.graph, traced.labelled)
    found = ablate(traced.net, traced.graph, traced.labelled, units={"a": [3, 1], "c": [0]})
    torch.testing.assert_close(found.rise["a"], whole.rise["a"][[3, 1]])
    torch.testing.assert_close(found.rise["c"], whole.rise["c"][[0]])
    assert found.units == {"stem": (), "a": (3, 1), "c": (0,), "d": (), "hidden": ()}
    with pytest.raises(InputError, match="'b' is no prunable group"):
        ablate(traced.net, traced.graph, traced.labelled, units={"b": [0]})
    with pytest.raises(InputError, match="group 'a' has the units 0 to 4"):
        ablate(traced.net, traced.graph, traced.labelled, units={"a": [5]})


def test_a_dead_unit_raises_nothing_and_one_image_has_no_error(traced) -> None:
    with torch.no_grad():
        traced.net.a.weight[2] = traced.net.a.bias[2] = 0
    image, label = traced.images[:1], torch.tensor([1])
    found = ablate(traced.net, traced.graph, [(image, label)])
    assert float(found.rise["a"][2]) == 0 and float(found.rise["a"][1]) != 0
    assert bool(found.error["a"].isnan().all())


class StoppedError(Exception):
    pass


def test_an_interrupted_run_goes_on_where_it_stopped(traced, tmp_path: Path, monkeypatch) -> None:
    expected = ablate(traced.net, traced.graph, traced.labelled)
    place, under, calls = tmp_path / "partial.npz", Replay.under, []

    def counted(self: Replay, intervention: dict[str, Constant]) -> Tensor:
        calls.append(intervention)
        if len(calls) == 40:
            raise StoppedError
        return under(self, intervention)

    monkeypatch.setattr(Replay, "under", counted)
    with pytest.raises(StoppedError, match="^$"):
        ablate(traced.net, traced.graph, traced.labelled, partial=place)
    found = ablate(traced.net, traced.graph, traced.labelled, partial=place)
    for name, rise in expected.rise.items():
        assert torch.equal(found.rise[name], rise) and torch.equal(found.error[name], expected.error[name])
    units = sum(group.size for group in traced.graph.prunable)
    largest = max(group.size for group in traced.graph.prunable)
    assert 3 * units < len(calls) <= 3 * units + largest, "at most one group was done twice"
    before = len(calls)
    ablate(traced.net, traced.graph, traced.labelled, partial=place)
    assert len(calls) == before, "what is done is not done again"


def test_a_partial_result_of_something_else_is_refused(traced, tmp_path: Path) -> None:
    place = tmp_path / "partial.npz"
    ablate(traced.net, traced.graph, traced.labelled, partial=place)
    with pytest.raises(InputError, match="is of other units .group stem.; delete it"):
        ablate(traced.net, traced.graph, traced.labelled, units={"a": [1]}, partial=place)
    with pytest.raises(InputError, match="is of another network or of other images; delete it"):
        ablate(traced.net, traced.graph, [(traced.images[:25] + 1, torch.zeros(25).long())], partial=place)
    place.write_text("no archive")
    with pytest.raises(InputError, match="partial: .*partial.npz cannot be read; delete it"):
        ablate(traced.net, traced.graph, traced.labelled, partial=place)


class Branching(nn.Module):
    """What runs depends on the values: this cannot be recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)
        self.second = nn.Sequential(nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        if float(x.mean()) > 0:
            x = F.relu(self.second(x))
        return self.head(x.mean((2, 3)))


def test_a_network_that_cannot_be_recorded_is_run_as_a_whole() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net, images = Branching().eval(), torch.randn(12, 1, 6, 6)
    labels = torch.arange(12) % 3
    graph = trace(net, images[:1])
    assert graph.prunable
    with torch.no_grad():
        assert isinstance(Recorder(net, ["second.1"]).subject(images), Rerun)
    expected = literal(net, graph, images, labels)
    found = ablate(net, graph, [(images, labels)])
    for name, rises in expected.items():
        np.testing.assert_allclose(found.rise[name], rises.mean(axis=1), rtol=1e-4, atol=1e-8)


def test_the_clamped_score_ranks_as_the_rise_where_it_rises(traced) -> None:
    found = ablate(traced.net, traced.graph, traced.labelled)
    clamped = {name: rise.clamp_min(0) for name, rise in found.rise.items()}
    agreement = spearman_by_group(clamped, found.rise)
    assert all(rho is None or rho > 0.5 for rho in agreement.values()) and any(agreement.values())


def test_two_halves_join_to_the_whole(traced) -> None:
    images = torch.cat([images for images, _ in traced.labelled])
    labels = torch.cat([labels for _, labels in traced.labelled])
    parts = [
        ablate(traced.net, traced.graph, [(images[part], labels[part])])
        for part in (slice(0, 20), slice(20, 60))
    ]
    found = joined(*parts)
    assert found.images == 60
    assert found.loss == pytest.approx((20 * parts[0].loss + 40 * parts[1].loss) / 60)
    for name, rise in found.rise.items():
        expected = (20 * parts[0].rise[name] + 40 * parts[1].rise[name]) / 60
        torch.testing.assert_close(rise, expected)
        variance = (parts[0].error[name] / 3) ** 2 + (parts[1].error[name] * 2 / 3) ** 2
        torch.testing.assert_close(found.error[name], variance.sqrt())
    with pytest.raises(InputError, match="two ablations of different units cannot be joined"):
        joined(parts[0], ablate(traced.net, traced.graph, [(images, labels)], units={"a": [0]}))
