"""Which arms are exported, and what stays on disk."""

from pathlib import Path

import pytest
from torch import Tensor, nn

from causal_prune.comparison.arms import Recipe
from causal_prune.comparison.exports import export_arms
from causal_prune.comparison.outcome import ArmResult, Outcome, Stages
from causal_prune.measure.cost import Cost
from causal_prune.measure.latency import Latency
from causal_prune.onnx_files.parity import Parity


def test_the_first_arm_of_each_name_is_exported_and_only_the_causal_file_stays(
    plain: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("dense", "causal", "random", "random", "magnitude")
    arms = [ArmResult(name, None, None, nn.Identity(), Stages(None), Cost(1, 1, {})) for name in names]
    outcome = Outcome(arms[0], arms[1], tuple(arms[2:]))
    written, timed = {}, {}

    def export(
        model: nn.Module,
        path: Path,
        example: Tensor,
        *,
        metadata: dict[str, str],
        dynamic_size: bool,
        opset: int | None,
    ) -> Parity:
        assert (dynamic_size, opset) == (plain.form.dynamic_size, plain.form.opset)
        path.write_bytes(b"x" * (10 + len(written)))
        written[path.name] = (model, metadata)
        return Parity(0.1 * len(written), 1, True, {})

    def measure(files: dict[str, Path], *, threads: int, seed: int, label: str) -> dict[str, Latency]:
        timed.update(files)
        assert threads == 2 and all(path.is_file() for path in files.values())
        return {name: Latency((1.0 + k,), threads, 1) for k, name in enumerate(files)}

    monkeypatch.setattr("causal_prune.comparison.exports.export_onnx", export)
    monkeypatch.setattr("causal_prune.comparison.exports.measure_latency", measure)
    found = [arm.exported for arm in export_arms(outcome, plain, tmp_path, 2, command="made here")]
    assert found[3] is None, "the second of the random arms"
    assert list(timed) == ["dense", "causal", "random", "magnitude"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert written["model.onnx"] == (
        arms[1].model,
        {"causal_prune.command": "made here", "causal_prune.arm": "causal"},
    )
    assert [each.size for each in found if each] == [10, 11, 12, 13]
    assert [each.latency.median for each in found if each] == [1, 2, 3, 4]
