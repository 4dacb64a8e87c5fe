"""Standard output that is left to JSON: whoever prints, and however."""

import json
import subprocess
import sys

import pytest

from causal_prune.command_line.standard_output import left_to_json
from causal_prune.errors import InputError

CODE = """
import json, logging, os, subprocess, sys
from causal_prune.command_line.standard_output import left_to_json

with left_to_json(WANTED):
    print("a print")
    sys.stdout.write("a write\\n")
    logging.basicConfig(stream=sys.stdout)
    os.write(1, b"from below\\n")
    os.system("echo a shell")
    subprocess.run([sys.executable, "-c", "print('a program')"])
print(json.dumps({"a": 1}))
logging.warning("afterwards")
"""
SAID = ("a print", "a write", "from below", "a shell", "a program")


@pytest.mark.parametrize("wanted", [True, False])
def test_what_is_printed_in_whatever_way_goes_to_stderr(wanted: bool) -> None:
    code = CODE.replace("WANTED", str(wanted))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    other = done.stderr if wanted else done.stdout
    assert all(text in other for text in SAID)
    if wanted:
        assert json.loads(done.stdout) == {"a": 1}
        assert "afterwards" in done.stderr, "what was made inside keeps to stderr"


def test_a_stdout_that_is_no_file_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    try:
        with left_to_json(True):
            sys.stdout.write("inside")
            raise InputError("x")
    except InputError:
        assert sys.stdout is before
    sys.stdout.write("outside")
    assert capsys.readouterr() == ("outside", "inside")
