"""Parity: how far the outputs of two ONNX files, or of a file and its network, lie apart."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from causal_prune.errors import InputError, ParityError, first_line
from causal_prune.onnx_files.session import common, open_session, random_feed, signature


@dataclass(frozen=True)
class Parity:
    """How far two forms of a network differ on the same inputs.

    The error of an output with reference values a and other values b is max|a - b| / max(1, max|a|): an absolute
    difference where the reference stays within [-1, 1], and relative to its largest value beyond.

    Attributes:
        max_abs: The largest error of any output; infinite where an output is not finite or shapes differ.
        tolerance: The largest error allowed.
        passed: Whether `max_abs` is within `tolerance`.
        outputs: The error of each output, by name.
    """

    max_abs: float
    tolerance: float
    passed: bool
    outputs: dict[str, float]


def compare_onnx(
    a: str | Path, b: str | Path, *, batch: int = 4, seed: int = 0, tolerance: float = 1e-4
) -> Parity:
    """Compare what two ONNX files compute from the same random inputs.

    Args:
        a: The reference.
        b: The other file; it must have inputs and outputs of the same names, types and shapes.
        batch: Number of images, at least 1; a file with a fixed batch gets that one.
        seed: Seed of the inputs: standard normal, or 0 and 1 for integers.
        tolerance: The largest error allowed, as defined at `Parity`; greater than 0.

    Returns:
        The parity; `passed` is False where the files differ. Nothing is raised for a difference of values.

    Raises:
        InputError: If a file is missing or cannot be run, or inputs or outputs do not correspond.
    """
    check_tolerance(tolerance)
    if batch < 1:
        raise InputError(f"batch={batch} must be at least 1")
    sessions = [open_session(Path(file)) for file in (a, b)]
    (inputs_a, outputs_a), (inputs_b, outputs_b) = (signature(session) for session in sessions)
    inputs = common("input", inputs_a, inputs_b)
    names = [info.name for info in common("output", outputs_a, outputs_b)]
    fixed = next((info.shape[0] for info in inputs if info.shape and info.shape[0] is not None), batch)
    feed = random_feed(inputs, batch=fixed, seed=seed)
    results = []
    for file, session in zip((a, b), sessions, strict=True):
        try:
            results.append(session.run(names, feed))
        except Exception as error:  # ONNX Runtime has one exception class per status and no common base
            raise InputError(f"{file} cannot run a batch of {fixed}: {first_line(error)}") from error
    return parity_of(
        {name: largest_error(x, y) for name, x, y in zip(names, *results, strict=True)}, tolerance
    )


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that nothing, or everything, would meet.

    Args:
        tolerance: The largest error allowed.

    Raises:
        InputError: If it is not a finite number above 0.
    """
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise InputError(f"tolerance={tolerance} must be a number greater than 0")


def parity_of(outputs: dict[str, float], tolerance: float) -> Parity:
    """The parity of outputs whose errors are known.

    Args:
        outputs: Error by output; NaN where it holds no number to compare.
        tolerance: The largest error allowed.

    Returns:
        The parity.

    Raises:
        ParityError: If nothing was compared.
    """
    outputs = {name: error for name, error in outputs.items() if error == error}
    if not outputs:
        raise ParityError("there is no number to compare in what the networks return: nothing was proved")
    largest = max(outputs.values())
    return Parity(largest, tolerance, largest <= tolerance, outputs)


def largest_error(reference: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """The error of one output, as defined at `Parity`.

    Args:
        reference: What it should be.
        other: What it is.

    Returns:
        0 or more; infinite where shapes differ or a value is not finite; NaN where both are empty.
    """
    if reference.shape != other.shape:
        return math.inf
    a, b = reference.astype(np.float64), other.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    if not a.size:
        return math.nan
    return float(np.abs(a - b).max() / max(1.0, np.abs(a).max()))
