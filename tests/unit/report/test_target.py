"""A target as one value, in Python and in JSON."""

import json
import math
from dataclasses import FrozenInstanceError, asdict
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from causal_prune.report.target import Target, TargetKind

JSON = TypeAdapter(Target)
WRITTEN = {"kind": "keep_macs", "requested": 0.5, "achieved": 0.498}


@pytest.mark.parametrize("kind", get_args(TargetKind))
def test_json_has_three_keys_and_gives_the_same_target(kind: TargetKind) -> None:
    target = Target(kind, 0.3, 0.25)
    text = JSON.dump_json(target)
    assert json.loads(text) == {"kind": kind, "requested": 0.3, "achieved": 0.25} == asdict(target)
    assert JSON.validate_json(text) == target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "keep_size"},
            "kind\n  Input should be 'keep_macs', 'keep_params', 'keep_latency', 'remove_filters', 'remove_silent' or",
        ),
        ({"requested": "half"}, "requested\n  Input should be a valid number"),
        ({"achieved": None}, "achieved\n  Input should be a valid number"),
        ({"achieved": math.nan}, "achieved\n  Input should be a finite number"),
        ({"requested": math.inf}, "requested\n  Input should be a finite number"),
        ({"unit": "%"}, "unit\n  Unexpected keyword argument"),
    ],
)
def test_what_is_no_target_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JSON.validate_python(WRITTEN | changes)


@pytest.mark.parametrize("missing", WRITTEN)
def test_nothing_may_be_missing(missing: str) -> None:
    with pytest.raises(ValidationError, match=f"{missing}\n  Field required"):
        JSON.validate_python({key: value for key, value in WRITTEN.items() if key != missing})


def test_targets_are_equal_by_value_and_frozen() -> None:
    target = JSON.validate_python(WRITTEN)
    assert target == Target("keep_macs", 0.5, 0.498) and hash(target) == hash(Target("keep_macs", 0.5, 0.498))
    with pytest.raises(FrozenInstanceError, match="requested"):
        target.requested = 0.6  # type: ignore[misc]  # that it cannot be set is the point
