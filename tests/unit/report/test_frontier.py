"""Sizes side by side as data: JSON and back, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from causal_prune.errors import InputError
from causal_prune.report.frontier import Frontier, FrontierArm, FrontierSize


def arm(name: str, quality: float, seed: int | None = None) -> FrontierArm:
    return FrontierArm(name=name, seed=seed, quality=quality, ci95=(quality - 0.02, quality + 0.02))


def size(keep: float, quality: float, **changes: Any) -> FrontierSize:
    arms = (
        arm("causal", quality), arm("random", quality - 0.02, 0), arm("random", quality - 0.03, 1),
        arm("magnitude", quality),
    )  # fmt: skip
    given: dict[str, Any] = {
        "keep": keep, "macs": int(1e6 * keep), "params": int(2e5 * keep), "onnx_bytes": int(8e5 * keep),
        "median_ms": 0.1 * keep, "speedup": 1 / keep, "arms": arms, "drop": 0.93 - quality, "at_most": 0.935 - quality,
        "within": quality > 0.925, "plan": f"plans/keep-{keep:g}.json",
    }  # fmt: skip
    return FrontierSize(**(given | changes))


def made(**changes: Any) -> Frontier:
    dense = size(1.0, 0.93, arms=(arm("causal", 0.93),), drop=None, at_most=None, within=False, plan=None)
    given: dict[str, Any] = {
        "schema_version": 1, "created": "2026-11-27T12:00:00+00:00", "title": "net", "command": "causal-prune frontier",
        "data": "noise", "images": 500, "calibration": 100, "compensation": "least squares", "importance": "structural",
        "max_drop": 0.01, "confidence": 0.95, "threads": 1, "dense": dense,
        "sizes": (size(0.7, 0.928), size(0.5, 0.91), FrontierSize(keep=0.001, unreached="out of reach")),
        "taken": 0, "makes": "causal-prune run --config a --plan b",
    }  # fmt: skip
    return Frontier(**(given | changes))


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    made().save(tmp_path / "frontier.json")
    assert Frontier.load(tmp_path / "frontier.json") == made()
    (tmp_path / "frontier.json").write_text('{"schema_version": 2}')
    with pytest.raises(InputError, match="schema_version is 2"):
        Frontier.load(tmp_path / "frontier.json")


def test_qualities_are_found_by_arm() -> None:
    half = made().sizes[1]
    assert half.quality_of("random") == pytest.approx((0.89, 0.88)) and half.quality_of("none") == ()
    assert half.causal is not None and half.causal.quality == 0.91
    assert made().sizes[2].causal is None


@pytest.mark.parametrize("changes", [{"arms": ()}, {"unreached": "why"}])
def test_a_size_is_reached_or_has_a_reason(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="a size has arms, or a reason why it cannot be reached"):
        size(0.5, 0.9, **changes)
