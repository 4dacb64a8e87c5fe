"""ONNX files that are known to compute what the network computes: export, parity, comparison of two files."""

import io
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from causal_prune.errors import CausalPruneError, InputError, ParityError, first_line
from causal_prune.machine import whole_file
from causal_prune.network.running import Inputs, call, device_of, modes_kept, seeded, tensors_in
from causal_prune.onnx_files.parity import Parity, check_tolerance, largest_error, parity_of
from causal_prune.onnx_files.session import open_session, signature

_ONE_SIZE = "; dynamic_batch=False exports it for the example's batch size alone"


def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_input: Inputs,
    *,
    tolerance: float = 1e-4,
    metadata: Mapping[str, str] | None = None,
    dynamic_batch: bool = True,
) -> Parity:
    """Write a network, in eval mode, as one ONNX file that ONNX Runtime is seen to compute alike.

    Inputs are named "input" (a tensor), "input_0", "input_1" ... (a tuple) or by their keys (a mapping). Outputs
    are named "output" (a tensor), or by their place: keys and positions joined by "_", as in "output_1", "logits",
    "features_0". What is no tensor (None, numbers, strings) is left out and keeps its position.

    The file is compared with torch on the example and on a second batch of another size, whose values are drawn
    from the example's own. It is written beside `path` and moved into place only if both agree.

    Args:
        model: The network; not changed.
        path: The file to write; its folder must exist. A file that is there stays as it is until the new one has
            passed.
        example_input: A tensor, a tuple of positional or a mapping of keyword tensors, each (batch, ...). A batch
            of one image is doubled for the export, as some networks need it to keep the batch dynamic.
        tolerance: The largest error allowed, as defined at `Parity`; greater than 0.
        metadata: Written into the file's metadata, next to the weights: what made it, from what.
        dynamic_batch: Whether the file takes batches of any size, or only that of the example.

    Returns:
        The parity of the two batches together.

    Raises:
        InputError: If an argument cannot be used, or the network cannot be exported.
        ParityError: If ONNX Runtime cannot run the file, or computes something else; names output and number.

    Cost:
        Two to ten seconds for the export, and three forward passes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_onnx(nn.Linear(3, 2), Path(folder) / "net.onnx", torch.rand(1, 3)).passed
        True
    """
    path = Path(path)
    _check_arguments(path, tolerance)
    device = device_of(model)
    named = _named_inputs(example_input, dynamic_batch)
    example = {name: tensor.detach().to(device) for name, tensor in named.items()}
    flat = _Flat(model, tuple(example), isinstance(example_input, Mapping))
    with (
        modes_kept(model),
        seeded(0, device),
        torch.no_grad(),
        whole_file(path) as file,
    ):
        flat.eval()
        try:
            reference = flat.named_outputs(example)
        except Exception as error:
            raise InputError(f"the model cannot run example_input: {first_line(error)}") from error
        _write(_converted(flat, example, list(reference), dynamic_batch), file, metadata or {})
        parities = [
            _parity_with_torch(flat, file, batch, tolerance) for batch in _batches(example, dynamic_batch)
        ]
    outputs = {name: max(parity.outputs[name] for parity in parities) for name in reference}
    return parity_of(outputs, tolerance)


class _Flat(nn.Module):
    """A network as the exporter wants it: a tuple of tensors in, a tuple of tensors out."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], keywords: bool) -> None:
        super().__init__()
        self.model = model
        self.names = names
        self.keywords = keywords

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensors_in(self._nested(inputs)))

    def _nested(self, inputs: tuple[Tensor, ...]) -> Any:
        return call(self.model, dict(zip(self.names, inputs, strict=True)) if self.keywords else inputs)

    def named_outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's output tensors under the names that they get in the file."""
        nested = self._nested(tuple(inputs.values()))
        found = _named_outputs(nested, "")
        if not found:
            raise InputError(
                f"the model returned {type(nested).__name__} without a tensor: nothing to export"
            )
        outputs: dict[str, Tensor] = {}
        for name, tensor in found:
            while name in outputs or name in inputs:
                name += "_out"
            outputs[name] = tensor
        return outputs


def _check_arguments(path: Path, tolerance: float) -> None:
    check_tolerance(tolerance)
    if path.is_dir():
        raise InputError(f"path {path} is a folder: name the ONNX file to write")
    if not path.parent.is_dir():
        raise InputError(f"path {path}: folder {path.parent} does not exist, make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"path {path}: folder {path.parent} cannot be written")


def _named_inputs(example: Inputs, dynamic_batch: bool) -> dict[str, Tensor]:
    if isinstance(example, Tensor):
        named: dict[str, Any] = {"input": example}
    elif isinstance(example, Mapping):
        named = dict(example)
    elif isinstance(example, tuple | list):
        many = len(example) > 1
        named = {f"input_{place}" if many else "input": entry for place, entry in enumerate(example)}
    else:
        named = {}
    if not named or not all(isinstance(entry, Tensor) for entry in named.values()):
        raise InputError("example_input must be a tensor, or a tuple or mapping of tensors")
    sizes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    if any(0 in shape for shape in sizes.values()):
        raise InputError(f"example_input holds no image: shapes are {sizes}")
    if any(tensor.dtype == torch.bfloat16 for tensor in named.values()):
        raise InputError("example_input is bfloat16, which ONNX Runtime does not run on the CPU: use float32")
    firsts = {shape[:1] for shape in sizes.values()}
    if dynamic_batch and (len(firsts) > 1 or () in firsts):
        raise InputError(
            f"inputs of shapes {sizes} have no common batch as first dimension: use dynamic_batch=False"
        )
    return named


def _named_outputs(value: Any, name: str) -> list[tuple[str, Tensor]]:
    """Output tensors in the order of `tensors_in`, each named by its place."""
    if isinstance(value, Tensor):
        return [(name or "output", value)]
    if isinstance(value, Mapping):
        places = [(f"{name}_{key}" if name else str(key), entry) for key, entry in value.items()]
    elif isinstance(value, tuple | list):
        places = [(f"{name or 'output'}_{place}", entry) for place, entry in enumerate(value)]
    else:
        places = []
    return [found for place, entry in places for found in _named_outputs(entry, place)]


def _converted(
    flat: _Flat, example: Mapping[str, Tensor], output_names: list[str], dynamic_batch: bool
) -> onnx.ModelProto:
    inputs, shapes = tuple(example.values()), None
    try:
        with _quiet():
            if dynamic_batch:
                inputs = tuple(
                    torch.cat((tensor, tensor)) if len(tensor) == 1 else tensor for tensor in inputs
                )
                batch = torch.export.Dim("batch")
                shapes = (tuple({0: batch} for _ in inputs),)
            program = torch.onnx.export(
                flat,
                (inputs,),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=list(example),
                output_names=output_names,
                dynamic_shapes=shapes,
            )
            assert program is not None  # the dynamo exporter always returns a program
            proto = program.model_proto
    except Exception as error:
        cause = _root_cause(error)
        hint = _ONE_SIZE if dynamic_batch and "batch" in cause else ""
        raise InputError(f"the model cannot be exported to ONNX: {cause}{hint}") from error
    fixed = [node.name for node in proto.graph.input if not node.type.tensor_type.shape.dim[0].dim_param]
    if dynamic_batch and fixed:
        raise InputError(
            f"the model computes with the size of the batch of '{fixed[0]}' as a constant{_ONE_SIZE}"
        )
    return proto


def _root_cause(error: BaseException) -> str:
    """The innermost message, on one line; the exporter's own is a page of general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m|\s+", " ", f"{type(error).__name__}: {error}").strip()
    return text if len(text) <= 300 else f"{text[:300]}..."


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, log lines or prints inside the block: the exporter reports on its own workings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _write(proto: onnx.ModelProto, file: Path, metadata: Mapping[str, str]) -> None:
    _strip(proto.graph)
    onnx.helper.set_model_props(proto, dict(metadata))
    onnx.save_model(proto, file)
    try:
        onnx.checker.check_model(file, full_check=True)
    except Exception as error:
        raise ParityError(f"the exporter wrote an invalid ONNX file: {first_line(error)}") from error


def _strip(graph: onnx.GraphProto) -> None:
    """Remove the exporter's notes: they hold source lines and paths of this machine, and cost bytes."""
    del graph.metadata_props[:]
    for noted in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                _strip(inner)


def _batches(example: dict[str, Tensor], dynamic_batch: bool) -> list[dict[str, Tensor]]:
    """The example, and a random batch: of another size where the batch is dynamic."""
    size = len(next(iter(example.values()))) if dynamic_batch else None
    other = None if size is None else 3 if size != 3 else 2
    return [example, {name: _resampled(tensor, other) for name, tensor in example.items()}]


def _resampled(tensor: Tensor, batch: int | None) -> Tensor:
    """Values drawn from the tensor's own, so that integers stay valid indices; normal for a constant float."""
    shape = tensor.shape if batch is None else (batch, *tensor.shape[1:])
    if tensor.is_floating_point() and bool((tensor == tensor.flatten()[0]).all()):
        return torch.randn(shape, dtype=tensor.dtype, device=tensor.device)
    values = tensor.flatten()
    return values[torch.randint(len(values), shape).to(values.device)]


def _parity_with_torch(flat: _Flat, file: Path, batch: dict[str, Tensor], tolerance: float) -> Parity:
    size = tuple(next(iter(batch.values())).shape)
    try:
        outputs = flat.named_outputs(batch)
    except Exception as error:
        raise InputError(f"the model cannot run shape {size}: {first_line(error)}{_ONE_SIZE}") from error
    expected = {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
    try:
        session = open_session(file)
        feed = {name: tensor.cpu().numpy() for name, tensor in batch.items()}
        known = {info.name for info in signature(session)[0]}
        results = session.run(list(expected), {name: array for name, array in feed.items() if name in known})
    except Exception as error:  # ONNX Runtime has one exception class per status and no common base
        reason = error if isinstance(error, CausalPruneError) else first_line(error)
        raise ParityError(
            f"ONNX Runtime cannot run the exported network on shape {size}: {reason}"
        ) from error
    actual = dict(zip(expected, results, strict=True))
    for name, array in expected.items():
        if not np.isfinite(array).all() or not np.isfinite(actual[name]).all():
            where = "torch" if not np.isfinite(array).all() else "ONNX Runtime"
            raise ParityError(f"output '{name}' of {where} is not finite on shape {size}: check the weights")
        if array.shape != actual[name].shape:
            raise ParityError(
                f"output '{name}' has shape {array.shape} in torch and {actual[name].shape} in ONNX Runtime "
                f"on input shape {size}"
            )
    parity = parity_of(
        {name: largest_error(array, actual[name]) for name, array in expected.items()}, tolerance
    )
    if not parity.passed:
        worst = max(parity.outputs, key=parity.outputs.__getitem__)
        raise ParityError(
            f"output '{worst}' differs by {parity.outputs[worst]:.3g} between torch and ONNX Runtime on shape "
            f"{size}, more than the tolerance of {tolerance:g}"
        )
    return parity
