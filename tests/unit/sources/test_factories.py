"""Functions of the user's own: files and modules are found, called once, and leave nothing behind."""

import argparse
import re
import sys
from pathlib import Path

import pytest
from torch import nn

from causal_prune.errors import InputError
from causal_prune.sources.factories import anchored, call_factory

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


# --- code that does something else than to define functions ---

BEHIND = "put it behind `if __name__ == '__main__'`"
AT_ONCE = {
    "import sys\nsys.exit(0)\n": "ended the program (sys.exit(0))",
    "import sys\nsys.exit()\n": "ended the program (sys.exit())",
    "import sys\nsys.exit('no GPU\\nhere')\n": "ended the program (sys.exit('no GPU\\nhere'))",
    "quit()\n": "ended the program (sys.exit())",
    "raise SystemExit(3)\n": "ended the program (sys.exit(3))",
    "import argparse\nargparse.ArgumentParser().parse_args()\n": "read the command line (parse_args)",
    "import argparse, sys\nargparse.ArgumentParser().parse_args(sys.argv[1:])\n": "read the command line (parse_args)",
    "import argparse\nargparse.ArgumentParser().parse_known_args()\n": "read the command line (parse_args)",
    "import argparse as a\nclass Q(a.ArgumentParser): pass\nQ().parse_intermixed_args()\n": "read the command line",
    "import neighbour_that_exits\n": "ended the program (sys.exit(7))",
}


@pytest.mark.parametrize("code", AT_ONCE)
def test_a_file_that_does_something_when_it_is_imported_is_told_what(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "neighbour_that_exits.py").write_text("raise SystemExit(7)\n")
    path = tmp_path / "busy.py"
    path.write_text(f"{code}\ndef net(): return 1\n")
    monkeypatch.setattr(sys, "argv", ["causal-prune", "run", "--model", "busy.py:net"])
    before = sys.argv, argparse.ArgumentParser.parse_known_args
    with pytest.raises(InputError, match="^model: ") as caught:
        call_factory(f"{path}:net", {}, option="model")
    text = str(caught.value)
    assert text.startswith(f"model: {path} {AT_ONCE[code]}") and text.endswith(
        f" while it was imported; {BEHIND}"
    )
    assert "\n" not in text and capsys.readouterr() == ("", "")
    assert (sys.argv, argparse.ArgumentParser.parse_known_args) == before


@pytest.mark.parametrize(
    ("option", "body", "text"),
    [
        ("model", "sys.exit(0)",
         "ended the program (sys.exit(0)); a factory returns what it made, and give it arguments with `model_arg`"),
        ("data", "argparse.ArgumentParser().parse_args()",
         "read the command line (parse_args); a factory returns what it made, and it is called without arguments"),
        ("data", "raise Odd('x')", "raised Odd: x"),
    ],
)  # fmt: skip
def test_a_factory_that_does_something_else_than_return_is_told_what(
    tmp_path: Path, option: str, body: str, text: str
) -> None:
    (tmp_path / "busy.py").write_text(
        f"import argparse, sys\nclass Odd(BaseException): pass\ndef make():\n    {body}\n"
    )
    with pytest.raises(InputError, match=f"^{option}: .*busy.py:make {re.escape(text)}$"):
        call_factory(f"{tmp_path}/busy.py:make", {}, option=option)


def test_ctrl_c_in_a_file_is_no_mistake_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt, match="^$"):
        call_factory(f"{tmp_path}/busy.py:make", {}, option="model")


def test_what_stands_behind_main_and_parsers_of_texts_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_text(
        "import argparse, sys\nparser = argparse.ArgumentParser()\nparser.add_argument('--width', type=int)\n"
        "def net(): return parser.parse_args(['--width', '3']).width, len(sys.argv)\n"
        "if __name__ == '__main__':\n    sys.exit(parser.parse_args())\n"
    )
    assert call_factory(f"{tmp_path}/good.py:net", {}, option="model") == (3, 1)


def test_relative_paths_count_from_where_they_are_told_to(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "net.py").write_text("def net(): return 5\n")
    assert call_factory("in/net.py:net", {}, option="model", within=tmp_path) == 5
    assert anchored("~/x", tmp_path) == Path.home() / "x"
    assert anchored(tmp_path / "x", Path("/elsewhere")) == tmp_path / "x"
    assert anchored("x", None) == Path("x")
