"""What may be said about the network and its images."""

import re
from pathlib import Path
from typing import Any

import pytest

from causal_prune.errors import InputError
from causal_prune.options import Flag, flag_of
from causal_prune.sources.options import Source


def test_nothing_said_means_the_digits_and_a_network_of_ones_own() -> None:
    assert Source().model_dump() == {
        "from_bundle": None, "model": None, "model_arg": {}, "weights": None, "data": "digits", "mean": None,
        "std": None, "input_shape": None, "calibration_images": 2048,
    }  # fmt: skip
    assert Source().model_arg is not Source().model_arg


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"mean": "0.485, 0.456,0.406"}, (0.485, 0.456, 0.406)),
        ({"mean": [0]}, (0.0,)),
        ({"std": "0.5"}, (0.5,)),
        ({"input_shape": "3,224,224"}, (3, 224, 224)),
        ({"input_shape": [1, 8, 8]}, (1, 8, 8)),
        ({"model_arg": ["num_classes=10", "name=a=b"]}, {"num_classes": 10, "name": "a=b"}),
        ({"model_arg": {"num_classes": 10, "bias": False}}, {"num_classes": 10, "bias": False}),
        ({"weights": "~/w.pt"}, Path("~/w.pt")),
        ({"calibration_images": 1}, 1),
    ],
)
def test_values_are_taken_from_flags_and_from_a_file(given: dict[str, Any], value: object) -> None:
    (name,) = given
    found = Source(**given)
    assert getattr(found, name) == value
    assert Source.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"model": ""}, "model: an empty text is not the name of a model, such as torchvision:resnet18"),
        ({"data": 3}, "data: 3 is not the name of data, such as imagefolder:DIR"),
        ({"model_arg": ["width"]}, "model_arg: width is not of the form k=v, such as num_classes=10"),
        ({"model_arg": "a=1"}, "model_arg: a=1 is not of the form k=v, such as num_classes=10"),
        ({"weights": 3}, "weights: 3 is not the path of a file"),
        ({"mean": "a,b"}, "mean: a,b is not one number per channel, such as 0.485,0.456,0.406"),
        ({"mean": []}, "mean: an empty list is not one number per channel, such as 0.485,0.456,0.406"),
        ({"mean": "nan"}, "mean: nan is not one number per channel, such as 0.485,0.456,0.406"),
        ({"std": "0.2,0"}, "std: 0.2,0 is not one number above 0 per channel, such as 0.229,0.224,0.225"),
        (
            {"input_shape": "3,8"},
            "input_shape: 3,8 is not channels,height,width of at least 1, such as 3,224,224",
        ),
        (
            {"input_shape": (3, 0, 8)},
            "input_shape: 3,0,8 is not channels,height,width of at least 1, such as 3,224,224",
        ),
        ({"calibration_images": 0}, "calibration_images: 0 is not a whole number of at least 1"),
        ({"calibration_images": True}, "calibration_images: True is not a whole number of at least 1"),
        ({"calibration_image": 3}, "unknown option 'calibration_image'; did you mean 'calibration_images'?"),
    ],
)
def test_other_values_are_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        Source(**given)


def test_options_say_how_they_are_written_and_what_they_are() -> None:
    assert flag_of(Source, "model_arg") == Flag(name="model_arg", repeated=True)
    assert flag_of(Source, "model").default == "a small residual CNN, trained on the spot"
    assert all(field.description for field in Source.model_fields.values())
