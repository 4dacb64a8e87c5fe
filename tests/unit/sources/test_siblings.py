"""Folders of the user's own code: each file sees the modules beside it, in whatever order files are named."""

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from causal_prune.errors import InputError
from causal_prune.sources import siblings
from causal_prune.sources.factories import call_factory
from causal_prune.sources.siblings import run_file, seen_from

Folders = tuple[Path, Path]


@pytest.fixture(autouse=True)
def own_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known of folders of other tests, and what is loaded here is forgotten."""
    monkeypatch.setattr(siblings, "_FOLDERS", {})
    before, path, finders = dict(sys.modules), list(sys.path), list(sys.meta_path)
    yield
    assert sys.path == path and sys.meta_path == finders
    for name in set(sys.modules) - set(before):
        if not name.startswith(("torch", "numpy", "causal_prune.")):
            del sys.modules[name]
    assert all(sys.modules.get(name) is module for name, module in before.items()), (
        "what was loaded is in its place"
    )


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('_in_', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """Two folders with neighbours of the same names, each of which says where it lies."""
    found = tmp_path / "a", tmp_path / "b ö"
    for folder in found:
        write(
            folder,
            utils=f"import helper\nNAME = '{folder.name}'\nHELP = helper.NAME\n",
            helper=f"NAME = '{folder.name}'\n",
            parts_in___init__="",
            parts_in_blocks=f"NAME = '{folder.name}'\ndef late():\n    from .more import NAME\n    return NAME\n",
            parts_in_more=f"NAME = '{folder.name}'\n",
            mine=(
                "import utils, parts.blocks\nfrom utils import NAME\n"
                "def now(): return {NAME, utils.HELP, parts.blocks.NAME}\n"
                "def during():\n    import late_one\n    from utils import NAME as again\n"
                "    import importlib\n    return {late_one.NAME, again, importlib.import_module('utils').NAME}\n"
                "def later(): return inside\n"
                "def inside():\n    import later_one\n    from utils import NAME as again\n"
                "    return {later_one.NAME, again, parts.blocks.late()}\n"
            ),
            late_one=f"NAME = '{folder.name}'\n",
            later_one=f"import utils\nassert utils.NAME == '{folder.name}'\nNAME = utils.NAME\n",
        )
    return found


def call(folder: Path, name: str, file: str = "mine") -> object:
    return call_factory(f"{folder / file}.py:{name}", {}, option="model")


@pytest.mark.parametrize("order", [*itertools.product((0, 1), repeat=3)])
def test_every_file_sees_its_own_neighbours_whatever_was_named_before(
    folders: Folders, order: tuple[int, ...]
) -> None:
    for place in order:
        folder = folders[place]
        assert call(folder, "now") == call(folder, "during") == {folder.name}
        later = call(folder, "later")
        assert callable(later)
        for other in folders:
            assert call(other, "now") == {other.name}
            assert later() == {folder.name}, "also long after the factory was called"


def test_files_of_one_folder_share_their_neighbours_and_one_may_import_the_other(tmp_path: Path) -> None:
    write(
        tmp_path,
        state="seen = []\n",
        net="import state\nstate.seen.append('net')\nclass Net: pass\ndef make(): return state, Net\n",
        data="import state, net\nstate.seen.append('data')\ndef make(): return state, net.Net\n",
    )
    made = call(tmp_path, "make", "net"), call(tmp_path, "make", "data"), call(tmp_path, "make", "net")
    assert made[0] == made[1] == made[2], "one module each, however often and in whatever way it is named"
    assert made[0][0].seen == ["net", "data"]  # type: ignore[index]  # a module and a class


def test_a_neighbour_that_only_the_other_folder_has_is_missing(tmp_path: Path) -> None:
    write(tmp_path / "a", utils="", mine="import utils\ndef f(): return 1\n")
    write(tmp_path / "b", mine="import utils\ndef f(): return 2\n", late="def f():\n    import utils\n")
    assert call(tmp_path / "a", "f") == 1
    with pytest.raises(InputError, match="cannot be imported: ModuleNotFoundError: No module named 'utils'"):
        call(tmp_path / "b", "f")
    with pytest.raises(InputError, match="raised ModuleNotFoundError: No module named 'utils'"):
        call(tmp_path / "b", "f", "late")


def test_a_module_of_the_working_folder_and_a_file_do_not_meet(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = folders
    monkeypatch.chdir(first)
    for _ in range(2):
        assert call_factory("mine:now", {}, option="data") == {first.name}
        assert call(second, "now") == {second.name}
    assert call_factory("mine:now", {}, option="data", within=second) == {second.name}


def test_a_neighbour_wins_over_a_package_that_others_have_loaded(tmp_path: Path) -> None:
    write(tmp_path / "site", tables_like="NAME = 'site'\n")
    write(
        tmp_path / "a",
        tables_like="NAME = 'a'\n",
        mine="import tables_like\ndef f(): return tables_like.NAME\n",
    )
    sys.path.insert(0, str(tmp_path / "site"))
    try:
        installed = importlib.import_module("tables_like")
        assert call(tmp_path / "a", "f") == "a"
        assert sys.modules["tables_like"] is installed
        write(tmp_path / "b", mine="import tables_like\ndef f(): return tables_like\n")
        assert call(tmp_path / "b", "f") is installed
    finally:
        sys.path.remove(str(tmp_path / "site"))
        del sys.modules["tables_like"]


def test_a_neighbour_named_as_a_module_of_python_does_not_stay(tmp_path: Path) -> None:
    sys.modules.pop("this", None)
    write(tmp_path / "a", this="NAME = 'a'\n", mine="import this\ndef f(): return this.NAME\n")
    write(tmp_path / "b", this="NAME = 'b'\n", mine="import this\ndef f(): return this.NAME\n")
    assert [call(tmp_path / name, "f") for name in "aba"] == ["a", "b", "a"]
    assert "this" not in sys.modules


def test_where_the_code_tells_python_to_look_it_looks_later_too_and_others_do_not(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name / "lib", tools=f"NAME = '{name}'\n", late=f"NAME = '{name}'\n")
        write(
            tmp_path / name / "src",
            mine="import sys\nfrom pathlib import Path\nsys.path.append(str(Path(__file__).parents[1] / 'lib'))\n"
            "import tools\ndef f(): return tools.NAME\n"
            "def g():\n    def inside():\n        import late, tools\n        return late.NAME + tools.NAME\n"
            "    return inside\n",
        )
    late: list[Callable[[], str]] = []
    for name in "ab":
        assert call(tmp_path / name / "src", "f") == name
        late.append(call(tmp_path / name / "src", "g"))  # type: ignore[arg-type]  # it returns a function
    assert [each() for each in (*late, *late)] == ["aa", "bb", "aa", "bb"]


def test_code_that_calls_another_folders_code_which_calls_back_keeps_its_own_view(tmp_path: Path) -> None:
    write(tmp_path / "a" / "lib", late="NAME = 'a'\n", later="NAME = 'a'\n", last="NAME = 'a'\n")
    write(
        tmp_path / "a",
        mine="import sys\nfrom pathlib import Path\nsys.path.append(str(Path(__file__).parent / 'lib'))\n"
        "def inside():\n    import late\n    return late.NAME\n"
        "def f(other):\n    found = other(inside)\n    import later\n    return found + later.NAME, afterwards\n"
        "def afterwards():\n    import last\n    return last.NAME\n",
    )
    write(tmp_path / "b", mine="def g(back): return back()\n")

    def other(back: object) -> object:
        return call_factory(f"{tmp_path}/b/mine.py:g", {"back": back}, option="data")

    found = call_factory(f"{tmp_path}/a/mine.py:f", {"other": other}, option="model")
    assert isinstance(found, tuple) and found[0] == "aa" and found[1]() == "a"


def test_a_file_that_has_changed_is_run_anew_with_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, utils="NAME = 1\n", mine="import utils\ndef f(): return utils.NAME\n")
    assert call(tmp_path, "f") == 1
    write(tmp_path, utils="NAME = 'twenty'\n")
    assert call(tmp_path, "f") == "twenty"
    write(tmp_path, mine="import utils\ndef f(): return utils.NAME * 2\n")
    assert call(tmp_path, "f") == "twentytwenty"


def test_nothing_is_written_into_the_folder(folders: Folders) -> None:
    for folder in folders:
        call(folder, "now")
        call(folder, "during")
    assert not [path for folder in folders for path in folder.rglob("*") if path.suffix == ".pyc" or (not path.suffix
                and path.name == "__pycache__")]  # fmt: skip


def test_two_files_of_one_name_are_two_modules_that_can_be_looked_up(tmp_path: Path) -> None:
    code = "from dataclasses import dataclass\n@dataclass\nclass Net:\n    width: 'int' = 3\ndef f(): return Net\n"
    for name in "ab":
        write(tmp_path / name, net=code)
    first, second = (call(tmp_path / name, "f", "net") for name in "ab")
    assert first is not second
    for kind in (first, second):
        assert getattr(sys.modules[kind.__module__], "Net") is kind  # noqa: B009


def test_a_file_that_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("def f(:\n")
    with seen_from(tmp_path) as folder, pytest.raises(SyntaxError, match="invalid syntax"):
        run_file(tmp_path / "x.py", folder)
    assert not [name for name in sys.modules if name.endswith("user_x")]
