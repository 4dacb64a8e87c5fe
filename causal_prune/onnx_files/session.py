"""ONNX files under ONNX Runtime on the CPU: open one quietly, read its signature, make inputs for it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]

from causal_prune.errors import InputError, first_line

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}
EXAMPLE_SHAPES = "causal_prune.example_shapes"
"""Key of a file's metadata: the shapes of the inputs that it was exported with, where sizes are open."""
_QUIET = 4  # fatal messages only; errors come as exceptions


@dataclass(frozen=True)
class TensorInfo:
    """One input or output of an ONNX file.

    Attributes:
        name: Its name in the file.
        type: ONNX Runtime's name of its element type, such as "tensor(float)".
        shape: Its dimensions; None where a dimension is dynamic.
        example: Those that it was exported with, where the file says so; else empty.
    """

    name: str
    type: str
    shape: tuple[int | None, ...]
    example: tuple[int, ...] = ()


def open_session(path: Path, *, threads: int = 1) -> Any:
    """Open an ONNX file with ONNX Runtime on the CPU, with its full graph optimisation.

    Args:
        path: The file.
        threads: Threads inside an operator, at least 1; operators run one after the other.

    Returns:
        An `onnxruntime.InferenceSession`; it holds the network in memory and no longer needs the file.

    Raises:
        InputError: If the file is missing, or is no network that ONNX Runtime can run.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} does not exist: give the path of an ONNX file")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _QUIET
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime has one exception class per status and no common base
        raise InputError(f"{path} is no ONNX file that ONNX Runtime can run: {first_line(error)}") from error


def signature(session: Any) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """The inputs and the outputs of a session, in the file's order.

    Args:
        session: What `open_session` returned.

    Returns:
        Inputs, outputs.
    """
    noted = session.get_modelmeta().custom_metadata_map.get(EXAMPLE_SHAPES, "{}")
    examples = {name: tuple(shape) for name, shape in json.loads(noted).items()}
    inputs, outputs = (
        tuple(
            TensorInfo(
                node.name,
                node.type,
                tuple(d if isinstance(d, int) else None for d in node.shape or ()),
                examples.get(node.name, ()),
            )
            for node in nodes
        )
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def random_feed(inputs: Sequence[TensorInfo], *, batch: int, seed: int) -> dict[str, npt.NDArray[Any]]:
    """Random inputs that fit a signature.

    Args:
        inputs: The signature's inputs.
        batch: Number of images, where the first dimension is dynamic.
        seed: Seed of the values.

    Returns:
        One array per input name: standard normal for floating-point types; 0 or 1 for integers, which are valid
        indices of any table, and for truth values. Dimensions other than the first that are dynamic are as they were
        when the file was exported.

    Raises:
        InputError: If such a dimension is dynamic and the file does not say so, or a type has no random values.
    """
    generator = np.random.default_rng(seed)
    return {info.name: _random_array(info, batch, generator) for info in inputs}


def _random_array(info: TensorInfo, batch: int, generator: np.random.Generator) -> npt.NDArray[Any]:
    if info.type not in _DTYPES:
        raise InputError(f"input '{info.name}' has type {info.type}, for which no random values can be made")
    if None in info.shape[1:] and len(info.example) != len(info.shape):
        raise InputError(
            f"input '{info.name}' has shape {info.shape}, and the file does not say which sizes it was made for: "
            "only the first dimension may be dynamic; export with fixed image sizes"
        )
    shape = [size or (info.example[k] if k else batch) for k, size in enumerate(info.shape)]
    dtype = np.dtype(_DTYPES[info.type])
    if dtype.kind == "f":
        return generator.standard_normal(shape).astype(dtype)
    return generator.integers(0, 2, shape).astype(dtype)


def common(kind: str, a: Sequence[TensorInfo], b: Sequence[TensorInfo]) -> tuple[TensorInfo, ...]:
    """The inputs, or the outputs, that two files have in common: all of them, or an error.

    Args:
        kind: "input" or "output", for the error's text.
        a: Those of the first file.
        b: Those of the second file, in any order.

    Returns:
        One per name, in the order of `a`; a dimension is dynamic only where both files leave it so.

    Raises:
        InputError: If names, types or fixed dimensions differ.
    """
    others = {info.name: info for info in b}
    if {info.name for info in a} != others.keys():
        names_a, names_b = (", ".join(info.name for info in side) for side in (a, b))
        raise InputError(f"the files have different {kind}s: a has {names_a}; b has {names_b}")
    return tuple(_merged(kind, info, others[info.name]) for info in a)


def _merged(kind: str, a: TensorInfo, b: TensorInfo) -> TensorInfo:
    pairs = tuple(zip(a.shape, b.shape, strict=False))
    clash = any(x is not None and y is not None and x != y for x, y in pairs)
    if a.type != b.type or len(a.shape) != len(b.shape) or clash:
        raise InputError(f"{kind} '{a.name}' is {a.type} {a.shape} in a, but {b.type} {b.shape} in b")
    shape = tuple(y if x is None else x for x, y in pairs)
    return TensorInfo(a.name, a.type, shape, a.example or b.example)
