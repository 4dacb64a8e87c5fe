"""ONNX files that are known to compute what the network computes: export, parity, comparison of two files."""

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from causal_prune.errors import CausalPruneError, InputError, ParityError, first_line
from causal_prune.machine import whole_file
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import Inputs, as_taken, call_on, copied, device_of, seeded
from causal_prune.network.tensor_trees import ImageList, named_tensors, outputs_in, own, tensors_in
from causal_prune.onnx_files.dynamic_axes import open_axes, other_batch, other_sizes
from causal_prune.onnx_files.opset import EXPORTED, at_opset, check_opset
from causal_prune.onnx_files.parity import Parity, check_tolerance, largest_error, parity_of
from causal_prune.onnx_files.session import EXAMPLE_SHAPES, open_session, signature

_ONE_SIZE = "; dynamic_batch=False exports it for the example's batch size alone"
_ONE_SHAPE = "; dynamic_size=False exports it for the example's height and width alone"


@undisturbed
def export_onnx(
    model: nn.Module,
    path: str | Path,
    example_input: Inputs,
    *,
    tolerance: float | None = None,
    metadata: Mapping[str, str] | None = None,
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    opset: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
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
        tolerance: The largest error allowed, as defined at `Parity`; greater than 0. None for 1e-4, and for 1e-2 where
            the network computes in float16.
        metadata: Written into the file's metadata, next to the weights: what made it, from what.
        dynamic_batch: Whether the file takes batches of any size, or only that of the example.
        dynamic_size: Whether it takes images of any height and width (signals of any length, volumes of any size)
            that the network takes, or only those of the example.
        opset: Version of ONNX's operators, from 17 to the newest that ONNX Runtime runs; the exporter's own choice if
            None. Older runtimes want older ones.
        input_names: Of the inputs, in their order, instead of the names above.
        output_names: Of the outputs, in their order.

    Returns:
        The parity of all batches together.

    Raises:
        InputError: If an argument cannot be used, or the network cannot be exported.
        ParityError: If ONNX Runtime cannot run the file, or computes something else; names output and number.

    Cost:
        Two to ten seconds for the export, and three forward passes; two or a few more with `dynamic_size`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_onnx(nn.Linear(3, 2), Path(folder) / "net.onnx", torch.rand(1, 3)).passed
        True
    """
    path = Path(path)
    if tolerance is None:
        tolerance = TOLERANCES.get(_precision(model, example_input), 1e-4)
    _check_arguments(path, tolerance, opset)
    device = device_of(model)
    named = _renamed("input", input_names, _named_inputs(as_taken(model, example_input), dynamic_batch))
    example = {name: tensor.detach().to(device) for name, tensor in named.items()}
    flat = _Flat(copied(model), _keywords(example_input), output_names)
    form = _Form(dynamic_batch, dynamic_size, opset)
    with (
        seeded(0, device),
        torch.no_grad(),
        whole_file(path) as file,
    ):
        flat.eval()
        try:
            reference = flat.named_outputs(example)
        except CausalPruneError:
            raise
        except Exception as error:
            raise InputError(f"the model cannot run example_input: {first_line(error)}") from error
        batches = [example, other_batch(example, dynamic=dynamic_batch)]
        batches += other_sizes(example, flat.named_outputs) if dynamic_size else []
        proto = _converted(flat, example, list(reference), form)
        _write(proto, file, _described(metadata, example, form))
        parities = [
            _parity_with_torch(flat, file, batch, tolerance, form.hint if number > 1 else "")
            for number, batch in enumerate(batches)
        ]
    errors = {name: [p.outputs[name] for p in parities if name in p.outputs] for name in reference}
    return parity_of({name: max(found) for name, found in errors.items() if found}, tolerance)


TOLERANCES = {torch.float16: 1e-2}
"""Where another largest error than 1e-4 is allowed."""


def _precision(model: nn.Module, example_input: Inputs) -> torch.dtype:
    """What most of a network computes in."""
    found = [t.dtype for t in (*model.parameters(), *tensors_in(example_input)) if t.is_floating_point()]
    return max(found, key=found.count, default=torch.float32)


@undisturbed
def check_form(model: nn.Module, example_input: Inputs, *, dynamic_size: bool, opset: int | None) -> None:
    """Refuse, before long work, what `export_onnx` would refuse after it.

    Args:
        model: The network.
        example_input: As `export_onnx` takes it.
        dynamic_size: As there.
        opset: As there.

    Raises:
        InputError: If the opset cannot be written, or the network takes no other size.

    Cost: a few forward passes with `dynamic_size`, else nothing.
    """
    check_opset(opset)
    if not dynamic_size:
        return
    device = device_of(model)
    example = {name: each.detach().to(device) for name, each in _named_inputs(example_input, False).items()}
    open_axes(example, batch=False, size=True)
    flat = _Flat(copied(model), _keywords(example_input), None)
    with seeded(0, device), torch.no_grad():
        other_sizes(example, flat.eval().named_outputs)


@dataclass(frozen=True)
class _Form:
    """What of a file is left open, and the version of its operators."""

    dynamic_batch: bool
    dynamic_size: bool
    opset: int | None

    @property
    def hint(self) -> str:
        """The way out where the network computes with a size."""
        return _ONE_SHAPE if self.dynamic_size else _ONE_SIZE if self.dynamic_batch else ""


class _Flat(nn.Module):
    """A network as the exporter wants it: a tuple of tensors in, a tuple of tensors out."""

    def __init__(
        self, model: nn.Module, keywords: tuple[str, ...] | None, output_names: Sequence[str] | None
    ) -> None:
        super().__init__()
        self.model = model
        self.keywords = keywords
        self.output_names = output_names

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensors_in(self._nested(inputs)))

    def _nested(self, inputs: tuple[Tensor, ...]) -> Any:
        return call_on(self.model, dict(zip(self.keywords, inputs, strict=True)) if self.keywords else inputs)

    def named_outputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The network's output tensors under the names that they get in the file."""
        nested = self._nested(tuple(own(each) for each in inputs.values()))
        outputs_in(nested)
        found = named_tensors(nested, first="output")
        outputs: dict[str, Tensor] = {}
        for name, tensor in found:
            while name in outputs or name in inputs:
                name += "_out"
            outputs[name] = tensor
        return _renamed("output", self.output_names, outputs)


def _keywords(example: Inputs) -> tuple[str, ...] | None:
    return tuple(example) if isinstance(example, Mapping) else None


def _renamed(kind: str, names: Sequence[str] | None, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    if names is None:
        return tensors
    given = [names] if isinstance(names, str) else list(names)
    if len(given) != len(tensors) or len({*given}) != len(given) or not all(given):
        raise InputError(
            f"{kind}_names: {', '.join(map(repr, given)) or 'none'} given; "
            f"give {len(tensors)} different, one for each of {', '.join(tensors)}"
        )
    return dict(zip(given, tensors.values(), strict=True))


def _described(
    metadata: Mapping[str, str] | None, example: Mapping[str, Tensor], form: _Form
) -> dict[str, str]:
    """Where sizes are open, what the file was made with: latency is measured at that size."""
    found = dict(metadata or {})
    if form.dynamic_size:
        found[EXAMPLE_SHAPES] = json.dumps({name: list(tensor.shape) for name, tensor in example.items()})
    return found


def _check_arguments(path: Path, tolerance: float, opset: int | None) -> None:
    check_tolerance(tolerance)
    check_opset(opset)
    if path.is_dir():
        raise InputError(f"path {path} is a folder: name the ONNX file to write")
    if not path.parent.is_dir():
        raise InputError(f"path {path}: folder {path.parent} does not exist, make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"path {path}: folder {path.parent} cannot be written")


def _named_inputs(example: Inputs, dynamic_batch: bool) -> dict[str, Tensor]:
    if isinstance(example, ImageList):
        raise InputError(
            "example_input is a list of images, which no ONNX file can take: export the part behind it"
        )
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
    firsts = {shape[:1] for shape in sizes.values() if shape}
    if dynamic_batch and len(firsts) != 1:
        raise InputError(
            f"inputs of shapes {sizes} have no common batch as first dimension: use dynamic_batch=False"
        )
    return named


def _converted(
    flat: _Flat, example: Mapping[str, Tensor], output_names: list[str], form: _Form
) -> onnx.ModelProto:
    inputs = tuple(example.values())
    axes = open_axes(example, batch=form.dynamic_batch, size=form.dynamic_size)
    try:
        with _quiet():
            if form.dynamic_batch:
                inputs = tuple(
                    torch.cat((tensor, tensor)) if tensor.dim() and len(tensor) == 1 else tensor
                    for tensor in inputs
                )
            program = torch.onnx.export(
                flat,
                (inputs,),
                dynamo=True,
                external_data=False,
                verbose=False,
                input_names=list(example),
                output_names=output_names,
                dynamic_shapes=None if axes is None else (axes,),
                opset_version=None if form.opset is None else max(form.opset, EXPORTED),
            )
            assert program is not None  # the dynamo exporter always returns a program
            proto = program.model_proto
    except Exception as error:
        cause = _root_cause(error)
        hint = form.hint if any(each in cause for each in ("batch", "height", "width", "size")) else ""
        raise InputError(f"the model cannot be exported to ONNX: {cause}{hint}") from error
    _check_open(proto, axes)
    return at_opset(proto, form.opset)


def _check_open(proto: onnx.ModelProto, axes: tuple[dict[int, Any], ...] | None) -> None:
    """Refuse a file that the exporter wrote for one size where more were asked for."""
    for node, wanted in zip(proto.graph.input, axes or (), strict=False):
        for axis in wanted:
            if not node.type.tensor_type.shape.dim[axis].dim_param:
                what = "size of the batch" if axis == 0 else f"size of axis {axis}"
                hint = _ONE_SHAPE if axis else _ONE_SIZE
                raise InputError(f"the model computes with the {what} of '{node.name}' as a constant{hint}")


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


def _parity_with_torch(
    flat: _Flat, file: Path, batch: dict[str, Tensor], tolerance: float, way_out: str
) -> Parity:
    size = tuple(next(iter(batch.values())).shape)
    try:
        outputs = flat.named_outputs(batch)
    except Exception as error:
        raise InputError(
            f"the model cannot run shape {size}: {first_line(error)}{way_out or _ONE_SIZE}"
        ) from error
    expected = {name: tensor.cpu().numpy() for name, tensor in outputs.items()}
    try:
        session = open_session(file)
        feed = {name: tensor.cpu().numpy() for name, tensor in batch.items()}
        known = {info.name for info in signature(session)[0]}
        results = session.run(list(expected), {name: array for name, array in feed.items() if name in known})
    except Exception as error:  # ONNX Runtime has one exception class per status and no common base
        if any(tensor.dtype == torch.float64 for tensor in batch.values()):
            raise InputError(
                "the model computes in float64, for which ONNX Runtime lacks operations: export model.float()"
            ) from error
        reason = error if isinstance(error, CausalPruneError) else first_line(error)
        raise ParityError(
            f"ONNX Runtime cannot run the exported network on shape {size}: {reason}{way_out}"
        ) from error
    actual = dict(zip(expected, results, strict=True))
    for name, array in expected.items():
        if not np.isfinite(array).all() or not np.isfinite(actual[name]).all():
            where = "torch" if not np.isfinite(array).all() else "ONNX Runtime"
            raise ParityError(f"output '{name}' of {where} is not finite on shape {size}: check the weights")
        if array.shape != actual[name].shape:
            raise ParityError(
                f"output '{name}' has shape {array.shape} in torch and {actual[name].shape} in ONNX Runtime "
                f"on input shape {size}{way_out}"
            )
    parity = parity_of(
        {name: largest_error(array, actual[name]) for name, array in expected.items()}, tolerance
    )
    if not parity.passed:
        worst = max(parity.outputs, key=parity.outputs.__getitem__)
        raise ParityError(
            f"output '{worst}' differs by {parity.outputs[worst]:.3g} between torch and ONNX Runtime on shape "
            f"{size}, more than the tolerance of {tolerance:g}{way_out}"
        )
    return parity
