"""Tiny ONNX files, made without the exporter."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Writer = Callable[..., Path]


@pytest.fixture
def write_onnx(tmp_path: Path) -> Writer:
    """Writes y = x * scale as an ONNX file with the given input."""

    def write(
        name: str = "net.onnx",
        shape: tuple[int | str, ...] = ("batch", 3, 4),
        *,
        scale: float = 2.0,
        kind: int = TensorProto.FLOAT,
        input_name: str = "input",
        output_name: str = "output",
    ) -> Path:
        factor = np.asarray(scale, helper.tensor_dtype_to_np_dtype(kind))
        graph = helper.make_graph(
            [helper.make_node("Mul", [input_name, "scale"], [output_name])],
            "scaled",
            [helper.make_tensor_value_info(input_name, kind, shape)],
            [helper.make_tensor_value_info(output_name, kind, shape)],
            [numpy_helper.from_array(factor, "scale")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save_model(model, tmp_path / name)
        return tmp_path / name

    return write
