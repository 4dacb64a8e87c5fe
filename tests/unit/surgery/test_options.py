"""The sources of dependencies, and that naming them needs no torch."""

import subprocess
import sys
from typing import get_args

from causal_prune.surgery.options import Dependencies


def test_there_are_two_and_our_own_comes_first() -> None:
    assert get_args(Dependencies) == ("labels", "torch-pruning")


def test_naming_them_needs_no_torch() -> None:
    code = "import sys, causal_prune.surgery.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
