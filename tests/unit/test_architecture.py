"""The house keeps its own rules: the map, the faces, the rooms' tests, how long and how wide a function may be."""

import importlib.util
from pathlib import Path

import pytest

from tests import architecture
from tests.architecture import PACKAGE, ROOT, Room

MOST_LINES, MOST_PARAMETERS = 45, 12
FRONTS = ("causal_prune/pipeline/flow.py:compress", "causal_prune/fine_tuning/training.py:fine_tune")
FILES = ("onnx", "json", "md", "html", "safetensors", "py", "toml")
"""Ends of files, which docstrings name too."""
TESTS = ROOT / "tests" / "unit"


def test_the_map_of_contributing_is_the_house_as_it_stands() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = text.partition(architecture.START)[2].partition(architecture.END)[0]
    assert shown == architecture.map_of_rooms(), "python -m tests.architecture --write"


def test_the_contract_has_about_eleven_storeys_and_names_everything_that_lies_at_the_top() -> None:
    storeys = architecture.storeys()
    assert len(storeys) <= 12
    named = [entry for storey in storeys for entry in storey]
    there = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert sorted(named) == sorted(there - {"__init__"})


def test_no_import_runs_upwards() -> None:
    level = {entry: number for number, storey in enumerate(architecture.storeys()) for entry in storey}
    assert [(a, b) for a, b in architecture.arrows() if level[b] <= level[a]] == []


def test_other_wings_are_met_at_their_faces() -> None:
    assert architecture.around_faces() == []


@pytest.mark.parametrize("wing", architecture.wings())
def test_a_wing_has_a_sentence_and_a_face_of_what_others_take(wing: str) -> None:
    sentence = Room(PACKAGE / wing / "__init__.py").sentence
    assert sentence.endswith(".") and len(sentence) > 20
    if wing == architecture.TOOLS:
        assert architecture.face(wing) == []
    else:
        assert set(architecture.face(wing)) == architecture.taken(wing)
        assert __import__(f"causal_prune.{wing}", fromlist=["x"]).__all__ == architecture.face(wing)


@pytest.mark.parametrize("wing", [wing for wing in architecture.wings() if wing != architecture.TOOLS])
def test_no_name_of_a_face_is_that_of_a_room(wing: str) -> None:
    """Importing the room would put the module where the name was."""
    assert not set(architecture.face(wing)) & {path.stem for path in (PACKAGE / wing).glob("*.py")}


def test_every_room_has_a_test_file_of_its_name_in_the_place_that_mirrors_it() -> None:
    missing = [str(expected) for room in architecture.rooms() if not (expected := mirrored(room)).is_file()]
    assert missing == []


def mirrored(room: Room) -> Path:
    inside = room.path.relative_to(PACKAGE)
    return TESTS / inside.parent / f"test_{inside.stem.strip('_')}.py"


def test_every_test_file_of_a_room_has_a_room() -> None:
    expected = {mirrored(room) for room in architecture.rooms()}
    of_wings = [path for wing in architecture.wings() for path in (TESTS / wing).glob("test_*.py")]
    assert [str(path) for path in of_wings if path not in expected] == []


def test_what_docstrings_tell_of_is_there() -> None:
    held = architecture.held()
    gone = [
        f"{room.path.relative_to(ROOT)}: {owner}.{name}"
        for room in architecture.rooms()
        for owner, name in architecture.told_of(room)
        if name not in held.get(owner, ()) and name not in FILES and importlib.util.find_spec(owner) is None
    ]
    assert gone == []


def test_functions_are_short_and_take_few_arguments() -> None:
    found = list(architecture.functions())
    assert [(place, lines) for place, lines, _, leave in found if lines > MOST_LINES and not leave] == []
    wide = [(place, count) for place, _, count, _ in found if count > MOST_PARAMETERS and place not in FRONTS]
    assert wide == []
