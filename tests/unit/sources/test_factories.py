"""Functions of the user's own: files and modules are found, called once, and leave nothing behind."""

import re
import sys
from pathlib import Path

import pytest
from torch import nn

from causal_prune.errors import InputError
from causal_prune.sources.factories import call_factory, nearest

MODULE = """
from dataclasses import dataclass
from torch import nn

@dataclass
class Options:
    width: "int" = 3

def given(*, width=3, **others):
    return Options(width), others

def broken():
    raise ValueError("no such\\nwidth")

def silent():
    raise KeyError

def talkative():
    raise RuntimeError("x" * 1000)

ready = nn.Linear(2, 2)
number = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine_for_factories.py"
    path.write_text(MODULE)
    return path


def test_a_function_of_a_file_gets_its_arguments(file: Path) -> None:
    options, others = call_factory(f"{file}:given", {"width": 5, "name": "x"}, option="model")  # type: ignore[misc]
    assert options.width == 5 and others == {"name": "x"}
    assert type(options).__module__ == "causal_prune_user_mine_for_factories"


def test_home_may_be_written_as_a_tilde(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(file.parent))
    assert call_factory(f"~/{file.name}:given", {}, option="model")


def test_a_class_makes_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text("from torch import nn\nclass Net(nn.Module):\n    pass\n")
    assert isinstance(call_factory(f"{tmp_path}/user.py:Net", {}, option="model"), nn.Module)


def test_a_module_of_the_working_folder_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    before = list(sys.path)
    assert call_factory("mine_for_factories:given", {}, option="model")
    assert sys.path == before


def test_a_file_may_import_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "neighbour_for_factories.py").write_text("from torch import nn\nnet = nn.ReLU\n")
    (tmp_path / "user.py").write_text("from neighbour_for_factories import net\n")
    before = list(sys.path)
    assert isinstance(call_factory(f"{tmp_path}/user.py:net", {}, option="model"), nn.ReLU)
    assert sys.path == before
    del sys.modules["neighbour_for_factories"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("givn", r"{file} has no 'givn'; did you mean 'given'\?"),
        ("zzz", "{file} has no 'zzz'"),
        ("numbr", "{file} has no 'numbr'"),  # what cannot be called is not suggested
        ("number", "{file}:number is a int, not a function; name a function that returns it"),
        ("ready", "{file}:ready is a Linear, not a function; name a function that returns it"),
        ("broken", "{file}:broken raised ValueError: no such"),
        ("silent", "{file}:silent raised KeyError"),
        ("talkative", r"{file}:talkative raised RuntimeError: x{{240}}\.\.\."),
    ],
)
def test_what_is_wrong_with_a_function_is_told_in_one_line(file: Path, name: str, text: str) -> None:
    with pytest.raises(InputError, match=f"^data: {text.format(file=re.escape(str(file)))}$"):
        call_factory(f"{file}:{name}", {}, option="data")


def test_arguments_that_the_function_does_not_take_are_told(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text("def net(): pass\n")
    with pytest.raises(
        InputError, match=r"user\.py:net raised TypeError: net\(\) got an unexpected keyword argument"
    ):
        call_factory(f"{tmp_path}/user.py:net", {"width": 2}, option="model")


@pytest.mark.parametrize("spec", ["mine:", ":net", "x:some.py", "net", "path/file.py"])
def test_a_name_without_a_function_is_refused(spec: str) -> None:
    text = f"model: '{spec}' names no function; write path/file.py:factory or package.module:factory"
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        call_factory(spec, {}, option="model")


def test_a_file_or_module_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model: there is no file .*absent\.py$"):
        call_factory(f"{tmp_path}/absent.py:net", {}, option="model")
    with pytest.raises(
        InputError, match="^data: absent_package.net cannot be imported: ModuleNotFoundError: No module named"
    ):
        call_factory("absent_package.net:net", {}, option="data")


@pytest.mark.parametrize(
    ("code", "text"),
    [("def net(:\n", "SyntaxError: invalid syntax"), ("1 / 0\n", "ZeroDivisionError: division by zero")],
)
def test_a_file_that_does_not_run_leaves_no_module(tmp_path: Path, code: str, text: str) -> None:
    path = tmp_path / "half.py"
    path.write_text(code)
    before = list(sys.path)
    with pytest.raises(InputError, match=rf"^model: .*half\.py cannot be imported: {text}"):
        call_factory(f"{path}:net", {}, option="model")
    assert "causal_prune_user_half" not in sys.modules and sys.path == before


def test_the_nearest_name_is_suggested_or_none() -> None:
    assert nearest("resnet19", ["vgg11", "resnet18"]) == "; did you mean 'resnet18'?"
    assert nearest("resnet19", {"resnet18": 1}) == "; did you mean 'resnet18'?"
    assert nearest("resnet19", ["vgg11"]) == nearest("x", []) == ""
