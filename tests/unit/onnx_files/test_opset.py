"""Opsets and format versions, seen by ONNX's checker and by ONNX Runtime."""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.onnx_files.export import export_onnx
from causal_prune.onnx_files.opset import OLDEST, at_opset, check_opset, newest_opset, opset_of
from tests.unit.drawn_weights import drawn


def graph_of(
    nodes: Sequence[onnx.NodeProto], shape: Sequence[int], constants: dict[str, list[int]] | None = None
) -> onnx.ModelProto:
    """From `x` to `y`, at opset 18 and the newest format."""
    value = helper.make_tensor_value_info
    tensors = [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in (constants or {}).items()]
    graph = helper.make_graph(
        list(nodes), "g", [value("x", TensorProto.FLOAT, [2, 4, 6])], [value("y", TensorProto.FLOAT, shape)], tensors
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def computed(proto: onnx.ModelProto) -> np.ndarray:
    x = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(np.float32)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x})[0]


def test_the_newest_opset_is_one_that_runs_and_the_next_does_not_or_is_unknown() -> None:
    assert OLDEST < newest_opset() <= onnx.defs.onnx_opset_version()
    check_opset(newest_opset())
    check_opset(OLDEST)
    check_opset(None)


@pytest.mark.parametrize("opset", [OLDEST - 1, 0, -3, 1000, True, 18.0, "18"])
def test_other_opsets_are_refused_with_the_range(opset: object) -> None:
    text = f"opset: .* is not a whole number from {OLDEST} to {newest_opset()}"
    with pytest.raises(InputError, match=text):
        check_opset(opset)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Mean", "Max", "L2", "LogSumExp", "SumSquare"])
@pytest.mark.parametrize("constant", ["initializer", "node"])
def test_axes_of_reductions_become_attributes_again(name: str, constant: str) -> None:
    reduce = helper.make_node(f"Reduce{name}", ["x", "axes"], ["y"], keepdims=0, noop_with_empty_axes=0)
    axes = helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([0, 2])))
    inside = constant == "node"
    proto = graph_of([axes, reduce] if inside else [reduce], [4], None if inside else {"axes": [0, 2]})
    old = at_opset(copy.deepcopy(proto), 17)
    np.testing.assert_array_equal(computed(old), computed(proto))
    assert opset_of(old) == 17 and old.ir_version == 8
    onnx.checker.check_model(old, full_check=True)


def test_equal_parts_and_lengths_of_a_split_stay() -> None:
    add = helper.make_node("Sub", ["a", "b"], ["y"])
    equal = graph_of([helper.make_node("Split", ["x"], ["a", "b"], axis=2, num_outputs=2), add], [2, 4, 3])
    lengths = graph_of(
        [helper.make_node("Split", ["x", "n"], ["a", "rest", "b"], axis=2), add], [2, 4, 2], {"n": [2, 2, 2]}
    )
    for proto in (equal, lengths):
        np.testing.assert_array_equal(computed(at_opset(copy.deepcopy(proto), 17)), computed(proto))


def test_what_an_older_opset_cannot_say_is_refused_and_the_next_named() -> None:
    for node in (
        helper.make_node("Mish", ["x"], ["y"]),
        helper.make_node("ReduceMean", ["x"], ["y"], noop_with_empty_axes=1),
    ):
        with pytest.raises(
            InputError, match=r"opset: the network needs what opset 17 does not have .*at least 18"
        ):
            at_opset(graph_of([node], [2, 4, 6]), 17)


@pytest.mark.parametrize(("opset", "ir"), [(17, 8), (18, 8), (19, 9), (20, 9), (21, 10)])
def test_the_format_is_the_oldest_that_the_opset_allows(opset: int, ir: int) -> None:
    proto = graph_of([helper.make_node("Relu", ["x"], ["y"])], [2, 4, 6])
    proto.opset_import[0].version = max(opset, 18)
    assert at_opset(proto, opset).ir_version == ir


class Wide(nn.Module):
    """Means, norms, splits, padding and resizing, all of which opset 18 changed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect"), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        a, b = y.chunk(2, 1)
        c, d, e = y.split([1, 2, 3], 1)
        grown = F.interpolate(a * b, scale_factor=2, mode="bilinear").mean((2, 3))
        near = F.interpolate(d, scale_factor=2).amax(1, keepdim=True).mean((2, 3))
        return self.norm(torch.cat([grown, near, F.pad(e + c, (1, 0)).amax((2, 3))[:, :2]], 1))


@pytest.mark.parametrize("opset", [17, 18, 19, 20, 21, None])
def test_files_of_every_opset_compute_what_the_network_computes(opset: int | None, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    parity = export_onnx(drawn(Wide()), path, torch.rand(2, 3, 8, 8), opset=opset)
    proto = onnx.load(path)
    assert parity.passed and opset_of(proto) == (20 if opset is None else opset)
    assert proto.ir_version == helper.find_min_ir_version_for(list(proto.opset_import))


def test_an_opset_out_of_range_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="opset: 16 is not"):
        export_onnx(nn.Linear(3, 2), tmp_path / "net.onnx", torch.rand(1, 3), opset=16)
    assert not [*tmp_path.iterdir()]
