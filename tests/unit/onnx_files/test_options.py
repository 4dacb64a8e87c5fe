"""What may be said about ONNX files."""

import re
from typing import Any

import pytest

from causal_prune.errors import InputError
from causal_prune.onnx_files.opset import OLDEST
from causal_prune.onnx_files.options import OnnxForm


def test_files_are_for_one_size_and_of_the_exporters_opset_unless_something_is_said() -> None:
    assert OnnxForm() == OnnxForm(opset=None, dynamic_size=False)
    assert OnnxForm.model_validate({"opset": "18", "dynamic_size": "true"}) == OnnxForm(
        opset=18, dynamic_size=True
    )


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"opset": 16}, f"opset: 16 is not a whole number of at least {OLDEST}"),
        ({"opset": True}, f"opset: True is not a whole number of at least {OLDEST}"),
        ({"opset": 17.5}, f"opset: 17.5 is not a whole number of at least {OLDEST}"),
        ({"dynamic_size": "both"}, "dynamic_size: both is not true or false"),
        ({"dynamic_sizes": True}, "unknown option 'dynamic_sizes'; did you mean 'dynamic_size'?"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        OnnxForm.model_validate(given)
