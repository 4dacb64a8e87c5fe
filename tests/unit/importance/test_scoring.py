"""The verb: what it refuses, and what it hands to a method."""

import sys
from types import ModuleType

import pytest
from torch import nn

from causal_prune.data.classification import CLASSIFICATION
from causal_prune.data.regression import regression_task
from causal_prune.errors import InputError
from causal_prune.importance.evidence import Evidence
from causal_prune.importance.methods import METHODS, WITH_LABELS, Method, Need
from causal_prune.importance.scores import FilterScores
from causal_prune.importance.scoring import score
from tests.unit.importance.conftest import Traced


def needing(need: Need) -> list[str]:
    return [name for name, method in METHODS.items() if need in method.needs]


def test_an_unknown_method_is_refused_with_the_known_ones(traced: Traced) -> None:
    known = ", ".join(METHODS)
    with pytest.raises(InputError, match=f"^score: method 'l1' is not one of {known}$"):
        score(traced.graph, traced.moments, method="l1")


@pytest.mark.parametrize("method", needing("network"))
def test_a_missing_network_is_named(traced: Traced, method: str) -> None:
    message = rf"^importance '{method}' needs the network: give score\(..., model=the dense network\)$"
    with pytest.raises(InputError, match=message):
        score(traced.graph, traced.moments, method=method, labelled=traced.labelled)


@pytest.mark.parametrize("method", needing("images"))
def test_missing_images_are_named(traced: Traced, method: str) -> None:
    message = (
        rf"^importance '{method}' needs labelled images: "
        r"give score\(..., labelled=batches of \(images, labels\) held out from training\)$"
    )
    with pytest.raises(InputError, match=message):
        score(traced.graph, traced.moments, method=method, model=traced.net)


@pytest.mark.parametrize("method", sorted(WITH_LABELS))
def test_images_that_can_be_read_only_once_are_refused(traced: Traced, method: str) -> None:
    once = iter(traced.labelled)
    message = f"^importance '{method}': labelled can be read only once: give a list or a loader$"
    with pytest.raises(InputError, match=message):
        score(traced.graph, traced.moments, method=method, model=traced.net, labelled=once)


@pytest.mark.parametrize("method", needing("classes"))
def test_a_task_without_classes_is_no_task_of_methods_that_need_some(traced: Traced, method: str) -> None:
    message = f"^importance '{method}' needs classes, and regression has none: choose another one$"
    given = {"model": traced.net, "labelled": traced.labelled, "task": regression_task()}
    with pytest.raises(InputError, match=message):
        score(traced.graph, traced.moments, method=method, **given)  # type: ignore[arg-type]


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[Evidence]:
    """What the method "stand_in" was given: it needs nothing and scores nothing."""
    found: list[Evidence] = []

    def note(evidence: Evidence) -> FilterScores:
        found.append(evidence)
        return FilterScores("stand_in", "", {}, {})

    room = ModuleType("causal_prune.importance.stand_in")
    vars(room)["note"] = note
    monkeypatch.setitem(sys.modules, room.__name__, room)
    monkeypatch.setitem(METHODS, "stand_in", Method("stand_in", function="note"))
    return found


def test_a_method_is_given_all_that_is_known(traced: Traced, handed_over: list[Evidence]) -> None:
    net, task = nn.Identity(), regression_task("metres")
    found = score(
        traced.graph,
        traced.moments,
        method="stand_in",
        parents="chain",
        seed=9,
        model=net,
        labelled=traced.labelled,
        task=task,
    )
    assert found == FilterScores("stand_in", "", {}, {}), "what the method returns is returned"
    given = handed_over[0].network
    assert isinstance(given, nn.Identity) and given is not net, "a copy of the network"
    whole = Evidence(traced.graph, traced.moments, "chain", 9, given, traced.labelled, task)
    assert [vars(evidence) for evidence in handed_over] == [vars(whole)]


def test_a_method_that_needs_nothing_may_be_given_nothing(
    traced: Traced, handed_over: list[Evidence]
) -> None:
    score(traced.graph, traced.moments, method="stand_in")
    (evidence,) = handed_over
    assert (evidence.parents, evidence.seed, evidence.task) == ("graph", 0, CLASSIFICATION)
    assert evidence.model is None and evidence.labelled is None


def test_structural_scores_are_the_standard(traced: Traced) -> None:
    assert score(traced.graph, traced.moments).method == "structural"
