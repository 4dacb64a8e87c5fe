"""The folder of `explain`: whole or not at all, its own files replaced, what is somebody else's left alone."""

import json
from pathlib import Path

import pytest

from causal_prune.command_line import explaining
from causal_prune.errors import InputError


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("_json", ".json").replace("_png", ".png")).write_text(text)


def test_files_arrive_together_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "explanation"
    with explaining._folder(out) as partial:
        write(partial, cam_png="1", drift_json="{}")
        assert not out.exists()
    assert sorted(file.name for file in out.iterdir()) == ["cam.png", "drift.json"]
    assert [each.name for each in out.parent.iterdir()] == ["explanation"], "nothing else is left"


def test_an_earlier_explanation_is_replaced_and_notes_stay(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    told = json.dumps({"methods": [{"method": "cam"}, {"method": "saliency"}]})
    write(out, cam_png="old", saliency_png="old", drift_json=told, notes="mine")
    with explaining._folder(out) as partial:
        write(partial, cam_png="new", drift_json="{}")
    assert {file.name: file.read_text() for file in out.iterdir()} == {
        "cam.png": "new", "drift.json": "{}", "notes": "mine",
    }  # fmt: skip


@pytest.mark.parametrize("stop", [InputError("no"), KeyboardInterrupt("no")])
def test_what_was_there_stays_after_an_error(tmp_path: Path, stop: BaseException) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(out, cam_png="old", drift_json="{}")

    def broken() -> None:
        with explaining._folder(out) as partial:
            write(partial, cam_png="new")
            raise stop

    with pytest.raises(type(stop), match="no"):
        broken()
    assert (out / "cam.png").read_text() == "old" and len([*tmp_path.iterdir()]) == 1


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    write(tmp_path / "full", thesis="mine")
    for name, told in (("file", "is a file; name a folder"), ("full", "exists and holds something else")):
        with pytest.raises(InputError, match=f"`out` .*{name}: {told}"), explaining._folder(tmp_path / name):
            pass
    with pytest.raises(InputError, match="cannot be written"), explaining._folder(tmp_path / "file" / "in"):
        pass


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"methods": [{}]}', '{"methods": 3}'])
def test_a_damaged_table_names_no_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "drift.json").write_text(text)
    assert explaining._own_files(tmp_path) == set()
