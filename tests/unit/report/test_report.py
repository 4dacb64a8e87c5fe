"""report.json: what is accepted, what is refused, and that saving and loading changes nothing."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from causal_prune.errors import InputError
from causal_prune.report.report import Report, hits_to_text, text_to_hits

Fake = Callable[..., Report]


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_save_and_load_give_the_same_report_and_the_same_bytes(fake: Fake, tmp_path: Path, mode: str) -> None:
    report = fake(mode=mode)
    report.save(tmp_path / "a.json")
    loaded = Report.load(tmp_path / "a.json")
    loaded.save(tmp_path / "b.json")
    assert loaded == report
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def _spoil(report: Report, place: tuple[str | int, ...], value: object) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(report.model_dump_json())
    part: Any = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return content


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("schema_version",), 2, "schema_version is 2, this version of causal-prune reads 1"),
        (("titel",), "x", "titel: Extra inputs are not permitted"),
        (("arms", 0, "colour"), 1, "arms.0.colour: Extra inputs are not permitted"),
        (("arms", 0, "accuracy"), 0.5, "accuracy 0.5 is not correct / total = 350/360"),
        (("arms", 0, "accuracy"), 1.5, "accuracy 1.5 is not correct / total = 350/360"),
        (("arms", 0, "accuracy"), float("nan"), "arms.0.accuracy: Input should be"),
        (("arms", 0, "ci95"), [0.1, 0.2], r"ci95 \[0.1, 0.2\] does not hold the accuracy"),
        (("arms", 0, "correct"), 400, "correct 400 exceeds total 360"),
        (("arms", 0, "hits"), "AAAA", "3 bytes do not fit 360 images"),
        (("arms", 0, "hits"), hits_to_text([True] * 360), "hits do not count 350 correct images"),
        (("arms", 0, "name"), "other", "arms hold 0 arms named 'causal'"),
        (("target", "kind"), "keep_size", "target.kind: Input should be 'keep_macs'"),
        (("importances", "conv1"), [float("inf")], "importances.conv1.0: Input should be a finite number"),
        (("curve", "shares"), [0.0], "shares, causal and random differ in length"),
        (("curve", "random", 0), [0.5], "a different number of seeds"),
    ],
)
def test_a_report_that_does_not_fit_is_refused_with_the_place(
    fake: Fake, tmp_path: Path, place: tuple[str | int, ...], value: object, message: str
) -> None:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(_spoil(fake(), place, value)))
    with pytest.raises(InputError, match=f"report.json: .*{message}"):
        Report.load(path)


def test_files_that_are_no_report_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing.json: cannot be read .*name an existing JSON file"):
        Report.load(tmp_path / "nothing.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="broken.json: is not JSON"):
        Report.load(tmp_path / "broken.json")
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(InputError, match="schema_version is None"):
        Report.load(tmp_path / "list.json")


def test_no_report_holds_nan(fake: Fake) -> None:
    with pytest.raises(ValidationError, match="finite number"):
        fake(importances={"conv1": [float("nan")]})


def test_a_report_is_frozen(fake: Fake) -> None:
    report = fake()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(report, "title", "other")  # noqa: B010
    assert report.title == "digits_cnn"


@pytest.mark.parametrize("total", [1, 7, 8, 9, 360])
def test_hits_survive_the_text(total: int) -> None:
    hits = np.random.default_rng(total).random(total) < 0.7
    text = hits_to_text(hits)
    assert text_to_hits(text, total).tolist() == hits.tolist()


def test_hits_are_packed_from_the_highest_bit() -> None:
    # literal: 1010 0000 = 0xA0, base64 of that byte is oA==
    assert hits_to_text([True, False, True]) == "oA=="


def test_damaged_hits_are_refused() -> None:
    with pytest.raises(InputError, match="not base64"):
        text_to_hits("?", 3)
    with pytest.raises(InputError, match="1 bytes do not fit 9 images"):
        text_to_hits("oA==", 9)


def test_the_report_package_needs_no_torch() -> None:
    code = (
        "import sys; from causal_prune.report import bundle, gate, render, report, summary; "
        "print([name for name in ('torch', 'torchvision', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
