"""Every pattern is cut correctly or left alone, and what must be prunable is."""

from functools import cache

import pytest
import torch

from causal_prune.network.running import call
from tests.zoo.check import Outcome, check_network
from tests.zoo.patterns import PATTERNS, Pattern

BY_NAME = {pattern.name: pattern for pattern in PATTERNS}

UNTRAINABLE = ("out_argument", "in_place_chain", "outputs in integers", "outputs in places")
"""The dense network cannot be trained either: autograd refuses what two of them write into, two return integers."""

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch: padding="same", old norms, nested tensors ...


@cache
def outcome_of(name: str) -> Outcome:
    pattern = BY_NAME[name]
    return check_network(pattern.make, pattern.example, any_batch=pattern.any_batch)


def test_there_are_enough_patterns_with_names_of_their_own() -> None:
    assert len(BY_NAME) == len(PATTERNS) >= 80


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_right_or_frozen(pattern: Pattern) -> None:
    outcome = outcome_of(pattern.name)
    assert outcome.kind in ("right", "frozen"), outcome.detail
    assert outcome.kind == "frozen" or outcome.trained == (pattern.name not in UNTRAINABLE)


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.must], ids=lambda pattern: pattern.name)
def test_prunes_what_it_must(pattern: Pattern) -> None:
    outcome = outcome_of(pattern.name)
    assert not set(pattern.must) - outcome.cuttable, outcome.detail


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.name)
def test_pattern_runs_and_depends_on_its_input(pattern: Pattern) -> None:
    torch.manual_seed(0)
    model = pattern.make().eval()
    with torch.no_grad():
        once, again = (call(model, pattern.example) for _ in range(2))
    assert str(once) == str(again)
    names = dict(model.named_modules())
    assert set(pattern.must) <= set(names)
