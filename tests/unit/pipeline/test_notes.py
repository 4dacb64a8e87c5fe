"""Sentences for the report, and when they are said."""

from dataclasses import replace

import pytest
from torch import nn

from causal_prune.comparison.chosen import Chosen
from causal_prune.comparison.outcome import ArmResult, Stages
from causal_prune.compensation.layer_repair import LayerRepair
from causal_prune.data.data import Data
from causal_prune.importance.scores import FilterScores
from causal_prune.measure.cost import Cost
from causal_prune.observation.filter_moments import FilterMoments
from causal_prune.pipeline.notes import notes, repairs
from causal_prune.pipeline.options import Options
from causal_prune.report.target import Target
from causal_prune.surgery.cuts import Cuts
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.tracing.filter_graph import FilterGraph, Group, Member, Role

CALIBRATION = "calibration: 20 images"


def group(*producers: str, frozen: str | None = None, approximate: bool = False) -> Group:
    def member(layer: str, role: Role) -> Member:
        return Member(layer, role, "out" if role == "producer" else "in", None, 2, (0, 1), (0, 1))

    members = (*(member(name, "producer") for name in producers), member("reader", "consumer"))
    return Group(producers[0], 2, members, frozen, approximate)


def chosen(*groups: Group, observed: tuple[str, ...] = ()) -> Chosen:
    scores = FilterScores("structural", "", {}, {})
    plan = PruningPlan(Target("keep_macs", 0.5, 0.5), {}, Cuts({}, {}, ()))
    moments = FilterMoments(20, {}, {}, {}, {}, notes=observed)
    return Chosen(FilterGraph({}, groups, {}, {}), moments, scores, plan, lambda _: scores)


def said(data: Data, known: Chosen, **options: object) -> list[str]:
    return list(notes(data, Options.model_validate({"align": 1, **options}), known))


def test_where_calibration_images_come_from_is_always_said(data: Data) -> None:
    assert said(data, chosen()) == [CALIBRATION]
    assert said(replace(data, calibration_source="7 of 9"), chosen(group("a"))) == ["calibration: 7 of 9"]


def test_doubts_of_the_network_come_first(data: Data) -> None:
    assert said(data, replace(chosen(), doubts=("it knows nothing",))) == ["it knows nothing", CALIBRATION]


@pytest.mark.parametrize("block", [2, 16])
def test_aligned_widths_are_said(data: Data, block: int) -> None:
    sentence = f"widths are multiples of up to {block}, the block of ONNX Runtime's convolutions here"
    assert said(data, chosen(), align=block) == [CALIBRATION, sentence]


@pytest.mark.parametrize(("parents", "shown"), [(None, "graph"), ("graph", "graph"), ("chain", "chain")])
def test_the_documented_score_names_its_parents(data: Data, parents: str | None, shown: str) -> None:
    sentence = f"the documented score was computed over the {shown} of convolutions"
    assert said(data, chosen(), importance="documented", parents=parents) == [CALIBRATION, sentence]
    assert said(data, chosen(), importance="structural", parents=parents) == [CALIBRATION]


def test_layers_that_are_frozen_together_are_named_with_the_reason(data: Data) -> None:
    known = chosen(
        group("p", "q"), group("a", "b", frozen="it is padded"), group("c", frozen="it is the output")
    )
    assert said(data, known) == [CALIBRATION, "frozen together, because it is padded: a, b"]


def test_an_approximate_group_is_said_once_and_only_where_it_can_be_cut(data: Data) -> None:
    sentence = (
        "a normalisation over channels makes removal differ from silencing in some layers (approximate)"
    )
    known = chosen(group("a", approximate=True), group("b", approximate=True))
    assert said(data, known) == [CALIBRATION, sentence]
    assert said(data, chosen(group("a", approximate=True, frozen="by the caller"))) == [CALIBRATION]


def test_what_observing_had_to_say_comes_last(data: Data) -> None:
    known = chosen(group("a", approximate=True), observed=("first", "second"))
    assert said(data, known)[-2:] == ["first", "second"]


def arm(*repaired: LayerRepair) -> ArmResult:
    stages = Stages(None)  # type: ignore[arg-type]  # quality is not told here
    return ArmResult("causal", "structural", None, nn.Identity(), stages, Cost(1, 1, {}), repaired)


def test_of_a_repair_that_never_was_nothing_is_said() -> None:
    assert list(repairs(arm())) == []


def test_refitted_layers_are_counted_and_others_named_with_the_reason() -> None:
    found = repairs(
        arm(
            LayerRepair("a", "refitted", error_left=0.2),
            LayerRepair("b", "kept", "it reads NaN"),
            LayerRepair("c", "unchanged"),
            LayerRepair("d", "refitted", remark="by half of the images"),
            LayerRepair("e", "kept", "nothing was gained", remark="tried twice"),
        )
    )
    assert list(found) == [
        "compensation refitted 2 of 5 layers of the causal arm",
        "compensation left the weights of b as they were cut: it reads NaN",
        "compensation left the weights of e as they were cut: nothing was gained",
        "compensation of d: by half of the images",
        "compensation of e: tried twice",
    ]


def test_layers_that_moved_with_their_reader_are_counted_once_each() -> None:
    joined = [
        LayerRepair("c", "refitted", together=("a", "b")),
        LayerRepair("d", "refitted", together=("b",)),
    ]
    (sentence,) = repairs(arm(*joined))
    assert sentence.endswith(" of the causal arm, 2 of them together with the layer that reads them")
