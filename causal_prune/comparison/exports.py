"""Arms as ONNX files, compared with torch and timed side by side."""

from dataclasses import replace
from pathlib import Path

from causal_prune.comparison.arms import Recipe
from causal_prune.comparison.outcome import ArmResult, Exported, Outcome
from causal_prune.measure import measure_latency
from causal_prune.onnx_files import export_onnx
from causal_prune.progress import status


def export_arms(outcome: Outcome, recipe: Recipe, folder: Path, threads: int, *, command: str) -> Outcome:
    """Export and time the first arm of every name; `model.onnx` is the causal one.

    Args:
        outcome: The arms.
        recipe: What all arms share.
        folder: The bundle; files of other arms are written to it and removed again.
        threads: Of ONNX Runtime.
        command: How the run was started; written into the files.

    Returns:
        The arms, with what was exported.

    Raises:
        ParityError: If an export computes something else than its network.
    """
    first: dict[str, ArmResult] = {}
    for arm in outcome:
        first.setdefault(arm.name, arm)
    files = {name: folder / ("model.onnx" if name == "causal" else f".{name}.onnx") for name in first}
    parities = {}
    for name, arm in first.items():
        with status(f"{name}: export ONNX and compare with torch"):
            described = {"causal_prune.command": command, "causal_prune.arm": name}
            parities[name] = export_onnx(
                arm.model,
                files[name],
                recipe.example,
                metadata=described,
                dynamic_size=recipe.form.dynamic_size,
                opset=recipe.form.opset,
            )
    latencies = measure_latency(
        files, threads=threads, seed=recipe.seed, label="latency, all arms interleaved"
    )
    sizes = {name: path.stat().st_size for name, path in files.items()}
    for name, path in files.items():
        if name != "causal":
            path.unlink()

    def with_file(arm: ArmResult) -> ArmResult:
        if first[arm.name] is not arm:
            return arm
        return replace(arm, exported=Exported(parities[arm.name], sizes[arm.name], latencies[arm.name]))

    return outcome.each(with_file)
