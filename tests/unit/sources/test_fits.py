"""A network and its data fit, or the message says why not."""

import pytest
import torch
from torch import Tensor, nn

from causal_prune.data.data import Data
from causal_prune.errors import InputError
from causal_prune.sources.data import load_data
from causal_prune.sources.fits import check_fits
from causal_prune.sources.small_cnn import small_resnet


@pytest.fixture(scope="module")
def digits() -> Data:
    return load_data("digits", calibration_images=100)


class Returns(nn.Module):
    """Returns what it was given, for any images."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> object:
        return self.output if self.output != "last is NaN" else self.spoilt(x)

    @staticmethod
    def spoilt(x: Tensor) -> Tensor:
        logits = torch.arange(10.0).repeat(len(x), 1)
        if len(x) < 64:  # the last batch of 100 images
            logits[-1, -1] = torch.nan
        return logits


def test_a_network_that_fits_is_left_as_it_was(digits: Data) -> None:
    model = small_resnet()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    check_fits(model, digits)
    assert model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_wrong_channels_name_the_first_layer(digits: Data) -> None:
    text = (
        r"^model: refuses images of shape \(1, 8, 8\) \(its first layer 'conv1' expects 3 channels\): "
        r"RuntimeError: .*; `input_shape` C,H,W converts images$"
    )
    with pytest.raises(InputError, match=text):
        check_fits(small_resnet(in_channels=3), digits)


def test_wrong_features_name_the_first_layer(digits: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(100, 10))
    with pytest.raises(InputError, match=r"\(1, 8, 8\) \(its first layer '1' expects 100 features\): "):
        check_fits(model, digits)


def test_images_that_are_too_small(digits: Data) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 11), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(
        InputError, match=r"refuses images of shape \(1, 8, 8\): RuntimeError: .*[Kk]ernel size"
    ):
        check_fits(model, digits)


def test_layers_that_are_not_known_are_not_guessed(digits: Data) -> None:
    with pytest.raises(InputError, match=r"refuses images of shape \(1, 8, 8\): RuntimeError: "):
        check_fits(nn.Conv1d(3, 2, 3), digits)


def test_wrong_number_of_outputs(digits: Data) -> None:
    with pytest.raises(
        InputError, match="has 7 outputs but the data have 10 classes; .*num_classes=10 sets them"
    ):
        check_fits(small_resnet(num_classes=7), digits)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({"logits": 1}, "returned a dict for 64 images"),
        (torch.ones(64, 10, 1), r"returned shape \(64, 10, 1\) for 64 images"),
        (torch.ones(3, 10), r"returned shape \(3, 10\) for 64 images"),
    ],
)
def test_outputs_that_are_no_logits(digits: Data, output: object, text: str) -> None:
    with pytest.raises(InputError, match=text + r", not logits of shape \(images, classes\)$"):
        check_fits(Returns(output), digits)


def test_nan_anywhere_in_the_calibration_images(digits: Data) -> None:
    with pytest.raises(InputError, match="^model: returns NaN or infinite values on the calibration images"):
        check_fits(Returns("last is NaN"), digits)


def test_labels_outside_the_classes(digits: Data) -> None:
    few = Data(digits.train, digits.validation, digits.calibration, digits.test, ("0", "1"), "few", "few")
    with pytest.raises(InputError, match=r"^data: label [2-9] is outside 0\.\.1$"):
        check_fits(small_resnet(), few)
