"""Opening ONNX files and making inputs for them."""

import numpy as np
import pytest
from onnx import TensorProto

from causal_prune.errors import InputError
from causal_prune.onnx_files.session import TensorInfo, open_session, random_feed, signature


def test_a_session_has_the_threads_asked_for_and_runs_on_the_cpu(write_onnx):
    session = open_session(write_onnx(), threads=2)

    assert session.get_session_options().intra_op_num_threads == 2
    assert session.get_session_options().inter_op_num_threads == 1
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_signature_marks_dynamic_dimensions(write_onnx):
    inputs, outputs = signature(open_session(write_onnx()))

    assert inputs == (TensorInfo("input", "tensor(float)", (None, 3, 4)),)
    assert outputs == (TensorInfo("output", "tensor(float)", (None, 3, 4)),)


def test_random_feed_follows_types_and_seed():
    infos = (
        TensorInfo("image", "tensor(float)", (None, 3, 50)),
        TensorInfo("half", "tensor(float16)", (2, 5)),
        TensorInfo("index", "tensor(int64)", (None, 400)),
        TensorInfo("mask", "tensor(bool)", (None, 400)),
        TensorInfo("scalar", "tensor(double)", ()),
    )

    feed = random_feed(infos, batch=4, seed=3)

    assert {name: (array.shape, str(array.dtype)) for name, array in feed.items()} == {
        "image": ((4, 3, 50), "float32"),
        "half": ((2, 5), "float16"),
        "index": ((4, 400), "int64"),
        "mask": ((4, 400), "bool"),
        "scalar": ((), "float64"),
    }
    assert abs(feed["image"].mean()) < 0.15 and abs(feed["image"].std() - 1) < 0.15
    assert set(np.unique(feed["index"])) == {0, 1} and set(np.unique(feed["mask"])) == {False, True}
    again, other = (random_feed(infos, batch=4, seed=seed) for seed in (3, 4))
    assert all(np.array_equal(feed[name], again[name]) for name in feed)
    assert not np.array_equal(feed["image"], other["image"])


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (
            TensorInfo("x", "tensor(float)", (None, 3, None)),
            "input 'x' .* only the first dimension may be dynamic",
        ),
        (TensorInfo("x", "tensor(string)", (1,)), r"input 'x' has type tensor\(string\)"),
    ],
)
def test_inputs_that_cannot_be_made_up_are_refused(info, message):
    with pytest.raises(InputError, match=message):
        random_feed((info,), batch=1, seed=0)


def test_missing_and_foreign_files_are_named(tmp_path, capfd):
    (tmp_path / "text.onnx").write_text("this is no network")

    with pytest.raises(InputError, match=r"absent\.onnx does not exist: give the path of an ONNX file"):
        open_session(tmp_path / "absent.onnx")
    with pytest.raises(
        InputError, match=r"^[^\n]*text\.onnx is no ONNX file that ONNX Runtime can run: [^\n]+$"
    ):
        open_session(tmp_path / "text.onnx")
    assert capfd.readouterr() == ("", "")


def test_types_of_files_reach_the_feed(write_onnx):
    session = open_session(write_onnx(kind=TensorProto.INT64, shape=(2, 3)))
    inputs, _ = signature(session)

    (result,) = session.run(None, random_feed(inputs, batch=7, seed=0))

    assert result.shape == (2, 3) and result.dtype == np.int64
