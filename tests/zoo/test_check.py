"""The check itself: it must notice every way in which a cut can be wrong."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from causal_prune.planning.unit_choice import plan_widths
from causal_prune.surgery.cuts import LayerCut
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace
from tests.zoo import check
from tests.zoo.frame import Frame, block, image, randomised
from tests.zoo.layers import conv
from tests.zoo.untouched import TouchedError, untouched


def plain() -> nn.Module:
    return randomised(Frame(conv()))


def norms() -> nn.Module:
    return randomised(Frame(nn.Sequential(conv(), nn.GroupNorm(2, 8), nn.GELU())))


def outcome(make: Callable[[], nn.Module] = plain) -> check.Outcome:
    return check.check_network(make, image())


def rotated(keep: tuple[int, ...], extent: int) -> tuple[int, ...]:
    return tuple(sorted((k + 1) % extent for k in keep))


def altered(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, LayerCut]], None]) -> None:
    """Let the plan, and with it both `remove` and `zero`, be wrong in one place."""

    def wrong(*args: Any, **kwargs: Any) -> PruningPlan:
        plan = plan_widths(*args, **kwargs)
        layers = dict(plan.cuts.layers)
        if layers:
            change(layers)
        return dataclasses.replace(plan, cuts=dataclasses.replace(plan.cuts, layers=layers))

    monkeypatch.setattr(check, "plan_widths", wrong)


def test_right_network_is_right() -> None:
    result = outcome()
    assert result.kind == "right" and result.trained and not result.approximate, result.detail
    assert result.error < 1e-6
    assert result.cuttable == {"stem.0", "before.0", "pattern", "after.0"}
    assert result.frozen_share == 0


def test_normalisation_over_channels_is_checked_over_the_kept_ones() -> None:
    result = outcome(norms)
    assert result.kind == "right" and not result.approximate, result.detail


def test_wrong_reader_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(layers: dict[str, LayerCut]) -> None:
        cut = layers["pattern"]
        assert cut.keep_inputs is not None
        layers["pattern"] = dataclasses.replace(cut, keep_inputs=rotated(cut.keep_inputs, cut.inputs))

    altered(monkeypatch, change)
    result = outcome()
    assert result.kind == "wrong" and "removed differs from silenced" in result.detail


def test_noise_tells_of_a_reader_that_the_plan_forgot() -> None:
    graph = trace(plain(), image())
    cuts = check._plan(graph, 0, 0.5).cuts
    reference = plain().eval()
    with check.reading_zeros(reference, cuts):
        silenced = reference(image())
        with check.emitting_noise(reference, cuts):
            assert check.error_between(silenced, reference(image())) < 1e-6
    layers = {**cuts.layers, "after.0": dataclasses.replace(cuts.layers["after.0"], keep_inputs=None)}
    forgetful = dataclasses.replace(cuts, layers=layers)
    with check.reading_zeros(reference, forgetful):
        silenced = reference(image())
        with check.emitting_noise(reference, forgetful):
            assert check.error_between(silenced, reference(image())) > 0.1


def test_wrong_norm_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(layers: dict[str, LayerCut]) -> None:
        cut = layers["before.1"]
        assert cut.keep_filters is not None
        layers["before.1"] = dataclasses.replace(cut, keep_filters=rotated(cut.keep_filters, cut.filters))

    altered(monkeypatch, change)
    result = outcome()
    assert result.kind == "wrong" and "removed differs from silenced" in result.detail


def test_forgotten_reader_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    altered(monkeypatch, lambda layers: layers.pop("after.0") and None)
    assert outcome().kind in ("wrong", "raised")


def test_smaller_network_that_computes_something_else_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    remove = check.remove

    def wrong(model: nn.Module, plan: PruningPlan) -> nn.Module:
        smaller = remove(model, plan)
        if plan.cuts.layers:
            smaller.get_submodule("after.1").bias.data[0] += 1e-2
        return smaller

    monkeypatch.setattr(check, "remove", wrong)
    assert outcome().kind == "wrong"


def test_zero_that_forgets_a_layer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: nn.Module, plan: PruningPlan, where: str) -> nn.Module:
        return copy.deepcopy(model)

    monkeypatch.setattr(check, "zero", wrong)
    result = outcome()
    assert result.kind == "wrong" and "zero(where='consumers')" in result.detail


def test_rebuild_of_other_weights_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    load = check.load

    def wrong(folder: Any, factory: Any) -> nn.Module:
        network = load(folder, factory)
        network.get_submodule("head").bias.data[0] += 1e-6
        return network

    monkeypatch.setattr(check, "load", wrong)
    result = outcome()
    assert result.kind == "wrong" and "load gives another" in result.detail


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda model: model.eval(), "modes"),
        (lambda model: model.head.bias.data.add_(1), "weights"),
        (lambda model: model.head.requires_grad_(False), "parameters"),
        (lambda model: model.head.register_forward_hook(lambda *_: None), "hooks"),
        (lambda model: torch.rand(1), "random state"),
        (lambda model: setattr(model.head, "note", 1), "attributes"),
    ],
)
def test_harm_to_the_caller_is_noticed(
    monkeypatch: pytest.MonkeyPatch, harm: Callable[[Any], Any], what: str
) -> None:
    def harmful(model: nn.Module, example: Any, **options: Any) -> FilterGraph:
        harm(model)
        return trace(model, example, **options)

    monkeypatch.setattr(check, "trace", harmful)
    result = outcome()
    assert result.kind == "wrong" and result.detail.endswith(f"was changed: {what}")


def test_untouched_passes_what_is_undone() -> None:
    model = plain()
    with untouched(model):
        model.eval()
        model.train()
    with pytest.raises(TouchedError, match="modes"), untouched(model):
        model.head.eval()


def test_nothing_prunable_is_frozen() -> None:
    result = check.check_network(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), image())
    assert result.kind == "frozen" and result.detail


def test_a_model_that_fails_is_said_to_raise() -> None:
    result = check.check_network(lambda: nn.Sequential(block(4, 8), block(8, 4)), image())
    assert result.kind == "raised" and "trace" in result.detail
