"""Parity: how far two ONNX files differ, and what cannot be compared."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from causal_prune.errors import InputError, ParityError
from causal_prune.onnx_files.parity import Parity, check_tolerance, compare_onnx, largest_error, parity_of

Writer = Callable[..., Path]


@pytest.fixture
def scaled(write_onnx: Writer) -> Writer:
    """Writes y = x * scale for any number of rows of three."""

    def write(name: str, scale: float, **options: Any) -> Path:
        ends = {"shape": ("batch", 3), "input_name": "x", "output_name": "y"}
        return write_onnx(name, scale=scale, **{**ends, **options})

    return write


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([0.5, -0.25], [0.5, -0.25], 0.0),
        ([0.5, -0.25], [0.4, 0.25], 0.5),  # within [-1, 1] the difference itself
        ([1.0, 0.0], [1.0, 0.125], 0.125),
        ([4.0, -8.0], [3.0, -8.0], 0.125),  # beyond, as a share of the largest reference value
        ([0.0], [16.0], 16.0),  # how large the other values are does not count
        ([-2.0, 0.0], [0.0, 0.0], 1.0),
        ([1.0, math.nan], [1.0, math.nan], math.inf),
        ([math.inf], [math.inf], math.inf),
        ([1.0], [math.inf], math.inf),
        ([1.0], [[1.0]], math.inf),
        ([1.0, 2.0], [1.0], math.inf),
        ([[1.0], [2.0]], [[1.0, 2.0]], math.inf),
    ],
)
def test_an_error_is_absolute_within_one_and_relative_beyond(
    reference: list[Any], other: list[Any], expected: float
) -> None:
    assert largest_error(np.array(reference, np.float32), np.array(other, np.float32)) == expected


def test_integers_and_truth_values_are_subtracted_as_numbers() -> None:
    assert largest_error(np.array([0, 200], np.uint8), np.array([1, 200], np.uint8)) == 1 / 200
    assert largest_error(np.array([True, False]), np.array([False, False])) == 1.0
    assert largest_error(np.array([2**62]), np.array([-(2**62)])) == 2.0


def test_small_differences_of_large_values_are_not_lost_to_rounding() -> None:
    assert largest_error(np.array([1e4], np.float16), np.array([1e4 - 8], np.float16)) == 8 / 1e4


def test_the_worst_output_decides_and_the_tolerance_itself_passes() -> None:
    outputs = {"a": 0.25, "b": 0.5}
    assert parity_of(outputs, 0.5) == Parity(0.5, 0.5, True, outputs)
    assert parity_of(outputs, 0.49) == Parity(0.5, 0.49, False, outputs)
    assert not parity_of({"a": math.inf}, 1e9).passed


@pytest.mark.parametrize("tolerance", [0.0, -1e-4, math.nan, math.inf])
def test_a_tolerance_that_nothing_or_everything_meets_is_refused(tolerance: float, scaled: Writer) -> None:
    with pytest.raises(InputError, match=f"^tolerance={tolerance} must be a number greater than 0$"):
        check_tolerance(tolerance)
    file = scaled("a.onnx", 2.0)
    with pytest.raises(InputError, match=f"^tolerance={tolerance} must be"):
        compare_onnx(file, file, tolerance=tolerance)


def test_compare_measures_the_error_and_raises_nothing(scaled: Writer) -> None:
    a, b = scaled("a.onnx", 2.0), scaled("b.onnx", 2.002)
    same, other = compare_onnx(a, a), compare_onnx(a, b, batch=64)
    assert same.passed and same.outputs == {"y": 0.0}
    assert not other.passed and other.max_abs == other.outputs["y"] == pytest.approx(0.001, rel=1e-3)
    assert compare_onnx(str(a), str(b), tolerance=0.002).passed


def test_the_seed_draws_the_inputs(scaled: Writer) -> None:
    a, b = scaled("a.onnx", 0.5), scaled("b.onnx", 0.75)
    errors = [compare_onnx(a, b, seed=seed).max_abs for seed in (1, 1, 2)]
    assert errors[0] == errors[1] != errors[2]


def test_compare_takes_the_batch_of_a_file_that_fixes_it(scaled: Writer) -> None:
    assert compare_onnx(scaled("a.onnx", 2.0), scaled("b.onnx", 2.0, shape=(2, 3)), batch=7).passed


def test_compare_of_values_that_are_not_finite_fails(scaled: Writer) -> None:
    parity = compare_onnx(scaled("a.onnx", math.nan), scaled("b.onnx", math.nan))
    assert not parity.passed and parity.max_abs == math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_name": "z"}, "the files have different inputs: a has x; b has z"),
        ({"output_name": "z"}, "the files have different outputs: a has y; b has z"),
        ({"shape": ("batch", 4)}, r"input 'x' is tensor\(float\) \(None, 3\) in a, but .* \(None, 4\) in b"),
        ({"shape": ("batch", 3, 1)}, r"input 'x' is .* in a, but .* in b"),
        ({"kind": TensorProto.DOUBLE}, r"input 'x' is tensor\(float\) .* in a, but tensor\(double\) .* in b"),
    ],
)
def test_compare_refuses_files_that_do_not_correspond(
    options: dict[str, Any], message: str, scaled: Writer
) -> None:
    a, b = scaled("a.onnx", 2.0), scaled("b.onnx", 2.0, **options)
    with pytest.raises(InputError, match=f"^{message}"):
        compare_onnx(a, b)


def test_compare_names_files_that_cannot_be_opened(scaled: Writer, tmp_path: Path) -> None:
    a = scaled("a.onnx", 2.0)
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(InputError, match=r"absent\.onnx does not exist"):
        compare_onnx(a, tmp_path / "absent.onnx")
    with pytest.raises(InputError, match=r"text\.onnx is no ONNX file"):
        compare_onnx(a, tmp_path / "text.onnx")
    with pytest.raises(InputError, match="^batch=0 must be at least 1$"):
        compare_onnx(a, a, batch=0)


def test_a_file_that_cannot_run_the_batch_is_named_in_one_line(scaled: Writer, tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ("batch", 3)) for name in ("x", "y")]
    nodes = [
        helper.make_node("Constant", [], ["two"], value_ints=[2, 3]),
        helper.make_node("Reshape", ["x", "two"], ["y"]),  # right for two rows alone
    ]
    graph = helper.make_graph(nodes, "reshaped", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, tmp_path / "two.onnx")
    with pytest.raises(InputError, match=r"^\S*two\.onnx cannot run a batch of 3: [^\n]+$"):
        compare_onnx(scaled("a.onnx", 1.0), tmp_path / "two.onnx", batch=3)
    assert compare_onnx(scaled("a.onnx", 1.0), tmp_path / "two.onnx", batch=2).max_abs == 0


def test_nothing_passes_that_compared_nothing() -> None:
    assert math.isnan(largest_error(np.zeros((0, 4)), np.zeros((0, 4))))
    assert parity_of({"boxes": math.nan, "scores": 0.5}, 1.0).outputs == {"scores": 0.5}
    for empty in ({}, {"boxes": math.nan}):
        with pytest.raises(ParityError, match="^there is no number to compare"):
            parity_of(empty, 1.0)
