"""Opsets of ONNX files: which can be written, and how a file becomes one of an older opset."""

from collections.abc import Mapping
from functools import cache

import onnx
import onnxruntime as ort  # type: ignore[import-untyped,unused-ignore]

from causal_prune.errors import InputError, first_line

OLDEST = 17
"""Files of older opsets lack operators that networks of today are made of, such as LayerNormalization."""
EXPORTED = 18
"""The oldest opset that torch's exporter writes; an older one is made of it."""
ONNX = ("", "ai.onnx")
"""Names of the domain of ONNX's own operators."""
REDUCTIONS = frozenset(
    f"Reduce{name}" for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
)
"""Operators whose axes became an input with opset 18."""
ADDED: Mapping[str, Mapping[str, object]] = {
    **{name: {"noop_with_empty_axes": 0} for name in REDUCTIONS},
    "Split": {
        "num_outputs": None
    },  # without lengths the parts are equal; the checker and parity see to the rest
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
}
"""Attributes that came with opset 18, and the value that means the same as before; None for any."""


@cache
def newest_opset() -> int:
    """The newest opset that the installed ONNX describes and the installed ONNX Runtime runs.

    Returns:
        The opset of ONNX's own operators.
    """
    described = int(onnx.defs.onnx_opset_version())
    return next((opset for opset in range(described, OLDEST, -1) if _runs(opset)), OLDEST)


def check_opset(opset: int | None) -> None:
    """Refuse an opset that cannot be written.

    Args:
        opset: Asked for; None for the exporter's own choice.

    Raises:
        InputError: If it is no opset from `OLDEST` to `newest_opset`.
    """
    if opset is None:
        return
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST <= opset <= newest_opset():
        raise InputError(f"opset: {opset!r} is not a whole number from {OLDEST} to {newest_opset()}")


def at_opset(proto: onnx.ModelProto, opset: int | None) -> onnx.ModelProto:
    """A file at an opset, of the oldest format version that this opset allows.

    Runtimes refuse files of a format (IR) version that they do not know, whatever is in it.

    Args:
        proto: What torch's exporter wrote.
        opset: Asked for; None for the one that it is of.

    Returns:
        The file; the argument itself where only its format version changes.

    Raises:
        InputError: If the network has an operator that the opset cannot express.
    """
    if opset is not None and opset_of(proto) == EXPORTED > opset:
        _as_before(proto.graph)
        for each in proto.opset_import:
            each.version = opset if each.domain in ONNX else each.version
        try:
            onnx.checker.check_model(proto)
        except Exception as error:  # the checker's errors have no common base
            raise InputError(
                f"opset: the network needs what opset {opset} does not have ({first_line(error)}); "
                f"give at least {EXPORTED}"
            ) from error
    proto.ir_version = onnx.helper.find_min_ir_version_for(list(proto.opset_import), ignore_unknown=True)
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """The opset of a file.

    Args:
        proto: The file.

    Returns:
        That of ONNX's own operators; 0 if it imports none.
    """
    return max((each.version for each in proto.opset_import if each.domain in ONNX), default=0)


def _as_before(graph: onnx.GraphProto) -> None:
    """Write the operators that opset 18 changed as opset 17 had them, where they say no more than those could.

    ONNX's own converter has no way back for some of them, and leaves attributes behind at others.
    """
    constants = {each.name: each for each in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    for node in graph.node:
        _drop_defaults(node)
        if node.op_type in REDUCTIONS and len(node.input) == 2 and node.input[1] in constants:
            axes = onnx.numpy_helper.to_array(constants[node.input.pop()]).tolist()
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _as_before(inner)
    read = {name for node in graph.node for name in node.input}
    for each in [each for each in graph.initializer if each.name not in read]:
        graph.initializer.remove(each)


def _drop_defaults(node: onnx.NodeProto) -> None:
    """Leave out attributes that opset 18 added, where they say what opset 17 does anyway."""
    for name, plain in ADDED.get(node.op_type, {}).items():
        for attribute in [each for each in node.attribute if each.name == name]:
            if plain is None or onnx.helper.get_attribute_value(attribute) == plain:
                node.attribute.remove(attribute)


def _runs(opset: int) -> bool:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "probe",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    imports = [onnx.helper.make_opsetid("", opset)]
    try:
        ir = onnx.helper.find_min_ir_version_for(imports)
        proto = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - ONNX Runtime has one exception class per status and no common base
        return False
    return True
