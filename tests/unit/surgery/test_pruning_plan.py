"""Plans as JSON and back; damaged ones are refused."""

import json
import math
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from causal_prune.errors import InputError
from causal_prune.report.target import Target
from causal_prune.surgery.cuts import AdapterCut, Cuts, LayerCut, ParameterCut
from causal_prune.surgery.pruning_plan import PLAN_FORMAT, PruningPlan

TARGET = Target("keep_macs", 0.5, 0.48)
PLAN = PruningPlan(
    TARGET,
    {"a": (0, 2), "b": ()},
    Cuts(
        {"a": LayerCut((0, 2), None, 3, 4, "blocks"), "b": LayerCut(None, (1,), 2, 3)},
        {"gamma": ParameterCut(1, (0, 2), 3)},
        (AdapterCut("f", "out", 1, 1, "restore", (0, 2), 3),),
    ),
)


@pytest.mark.parametrize("plan", [PLAN, PruningPlan(TARGET, {}, Cuts({}, {}))])
def test_a_plan_is_read_as_it_was_written(plan: PruningPlan, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan.save(path)
    found = PruningPlan.load(path)
    assert found == plan and isinstance(found.target, Target)
    assert all(isinstance(units, tuple) for units in found.kept_units.values())
    found.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert json.loads(path.read_text())["format"] == PLAN_FORMAT


def test_layers_and_parameters_are_those_of_the_cuts() -> None:
    assert PLAN.layers is PLAN.cuts.layers and PLAN.parameters is PLAN.cuts.parameters


def spoilt(*place: str, value: object) -> str:
    """A plan's JSON with one value changed."""
    content = json.loads(json.dumps({"format": PLAN_FORMAT, **asdict(PLAN)}))
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"not a pruning plan \(JSONDecodeError: .+\)"),
        ("[]", r"not a pruning plan \(TypeError: .+\)"),
        ("{}", r"not a pruning plan \(KeyError: 'format'\)"),
        ('{"format": 1}', r"not a pruning plan \(target: Field required\)"),
        ('{"format": 99}', "plan format 99 is not 1"),
        (
            spoilt("kept_units", "a", value="all"),
            r"not a pruning plan \(kept_units\.a: Input should be a valid .+\)",
        ),
        (
            spoilt("cuts", "layers", "a", "filters", value="3"),
            r"not a pruning plan \(cuts\.layers\.a\.filters: Input should be a valid integer\)",
        ),
        (
            spoilt("cuts", "layers", "a", "grouping", value="odd"),
            r"not a pruning plan \(cuts\.layers\.a\.grouping: Input should be 'dense', 'blocks' or 'positions'\)",
        ),
        (
            spoilt("target", "achieved", value=math.nan),
            r"not a pruning plan \(target\.achieved: Input should be a finite number\)",
        ),
        (
            spoilt("target", "kind", value="keep_most"),
            r"not a pruning plan \(target\.kind: Input should be 'keep_macs', .+\)",
        ),
    ],
)
def test_a_damaged_plan_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}$"):
        PruningPlan.load(path)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_file_that_is_missing_or_no_text_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"plan\.json: not a pruning plan \((FileNotFound|UnicodeDecode)Error: "
    ):
        PruningPlan.load(path)


def test_a_plan_prints_as_widths_and_its_target() -> None:
    cuts = Cuts(
        {
            "a": LayerCut((0, 2), None, 4, 3),
            "b": LayerCut(None, (0, 2), 5, 4),
        },
        {},
    )
    plan = PruningPlan(Target("keep_macs", 0.5, 0.49874), {"a": (0, 2)}, cuts)
    assert str(plan) == "a: 4 -> 2 filters\nkeep_macs: requested 0.5, planned 0.499"
