"""Arms as ONNX files, compared with torch and timed side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from causal_prune.comparison.arms import ArmResult, Recipe
from causal_prune.measure import Latency, measure_latency
from causal_prune.onnx_files import Parity, export_onnx
from causal_prune.progress import status


@dataclass(frozen=True)
class Exported:
    """An arm as an ONNX file.

    Attributes:
        parity: With the network that it came from.
        size: In bytes.
        latency: Samples.
    """

    parity: Parity
    size: int
    latency: Latency


def export_arms(
    results: Sequence[ArmResult], recipe: Recipe, folder: Path, *, threads: int, metadata: Mapping[str, str]
) -> dict[int, Exported]:
    """Export and time the first arm of every name; `model.onnx` is the causal one.

    Args:
        results: The arms.
        recipe: What all arms share.
        folder: The bundle; files of other arms are written to it and removed again.
        threads: Of ONNX Runtime.
        metadata: Written into the files.

    Returns:
        By position in `results` what was exported.

    Raises:
        ParityError: If an export computes something else than its network.
    """
    first: dict[str, int] = {}
    for position, result in enumerate(results):
        first.setdefault(result.name, position)
    files = {name: folder / ("model.onnx" if name == "causal" else f".{name}.onnx") for name in first}
    parities = {}
    for name, position in first.items():
        with status(f"{name}: export ONNX and compare with torch"):
            parities[name] = export_onnx(
                results[position].model,
                files[name],
                recipe.example,
                metadata={**metadata, "causal_prune.arm": name},
            )
    latencies = measure_latency(
        files, threads=threads, seed=recipe.seed, label="latency, all arms interleaved"
    )
    sizes = {name: path.stat().st_size for name, path in files.items()}
    for name, path in files.items():
        if name != "causal":
            path.unlink()
    return {
        position: Exported(parities[name], sizes[name], latencies[name]) for name, position in first.items()
    }
