"""Accuracy with its interval, image by image, for several networks in one pass."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.measure.quality import evaluate
from causal_prune.measure.statistics import wilson_interval


class Counted:
    """A loader that counts how often it is iterated."""

    def __init__(self, batches: list) -> None:
        self.batches, self.passes = batches, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.batches)


def linear(weight: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    layer.weight.data = torch.tensor(weight)
    return layer


IMAGES = torch.tensor([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.2, 0.6, 0.7], [0.5, 0.4, 0.1], [0.1, 0.2, 0.6]])
LABELS = torch.tensor([0, 1, 1, 2, 2])
IDENTITY = [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]]
SWAPPED = [[0, 1.0, 0], [1.0, 0, 0], [0, 0, 1.0]]


def test_evaluate_counts_every_image_of_every_model_in_one_pass():
    loader = Counted([(IMAGES[:2], LABELS[:2]), [IMAGES[2:], LABELS[2:]]])

    found = evaluate({"identity": linear(IDENTITY), "swapped": linear(SWAPPED)}, loader)

    assert loader.passes == 1
    assert found["identity"].predictions.tolist() == [0, 1, 2, 0, 2]
    assert found["identity"].merits.tolist() == [True, True, False, False, True]
    assert (found["identity"].correct, found["identity"].total, found["identity"].value) == (3, 5, 0.6)
    assert found["swapped"].predictions.tolist() == [1, 0, 2, 1, 2]
    assert found["swapped"].correct == 1
    assert found["identity"].predictions.dtype == np.int64
    assert found["identity"].ci95 == wilson_interval(3, 5)


def test_predictions_digest_is_a_fixed_value_and_differs_with_the_predictions():
    found = evaluate({"a": linear(IDENTITY), "b": linear(SWAPPED)}, [(IMAGES, LABELS)])

    import hashlib
    import struct

    assert found["a"].predictions_sha256 == hashlib.sha256(struct.pack("<5q", 0, 1, 2, 0, 2)).hexdigest()
    assert found["a"].predictions_sha256 != found["b"].predictions_sha256


def test_evaluate_leaves_modes_buffers_gradients_and_random_state_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    dataset = torch.utils.data.TensorDataset(IMAGES, LABELS)
    state = torch.get_rng_state()

    evaluate({"net": model}, torch.utils.data.DataLoader(dataset, batch_size=2, shuffle=True))

    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()


def test_modes_return_after_an_error():
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("broken on purpose")

    model = Failing().train()

    with pytest.raises(InputError, match="model .net. does not accept batch 1, .*: broken on purpose$"):
        evaluate({"net": model}, [(IMAGES, LABELS)])

    assert model.training


def test_evaluate_takes_tuple_and_mapping_inputs_and_nested_outputs():
    class Pair(nn.Module):
        def forward(self, left: Tensor, right: Tensor) -> dict:
            return {"logits": left + right, "loss": None}

    pairs = evaluate({"net": Pair()}, [((IMAGES, IMAGES * 0), LABELS)])
    named = evaluate({"net": Pair()}, [({"left": IMAGES, "right": IMAGES * 0}, LABELS)])

    assert pairs["net"].correct == named["net"].correct == 3


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((IMAGES, torch.tensor([0, 1, 3, 2, 2])), r"label 3 in batch 1 is outside 0 to 2, the 3 classes"),
        ((IMAGES, torch.tensor([0, 1, -1, 2, 2])), r"label -1 in batch 1 is outside 0 to 2"),
        ((IMAGES, LABELS[:4]), r"batch 1 has 4 labels, but model 'net' returned 5 rows"),
        ((IMAGES, LABELS.float()), r"labels of batch 1 .*float32.* one integer class per image"),
        ((IMAGES, torch.full((5, 5), 0.2)), r"labels of batch 1 have shape \(5, 5\)"),
        ((IMAGES, LABELS > 0), r"labels of batch 1 .*torch.bool"),
        (IMAGES, r"batch 1 of the loader has no labels: give \(inputs, labels\)"),
    ],
)
def test_bad_labels_are_named(batch, message):
    with pytest.raises(InputError, match=message):
        evaluate({"net": linear(IDENTITY)}, [batch])


def test_nan_logits_name_model_and_batch():
    bad = IMAGES.clone()
    bad[1, 1] = math.nan

    with pytest.raises(InputError, match=r"model 'net' returned NaN for batch 2"):
        evaluate({"net": linear(IDENTITY)}, [(IMAGES, LABELS), (bad, LABELS)])


def test_output_that_is_no_table_of_logits_is_refused():
    with pytest.raises(InputError, match=r"model 'net' returned \(5, 1\) for batch 1"):
        evaluate({"net": linear([[1.0, 2.0, 3.0]])}, [(IMAGES, LABELS)])


def test_empty_loader_and_no_models_are_refused():
    with pytest.raises(InputError, match="loader is empty"):
        evaluate({"net": linear(IDENTITY)}, [])
    with pytest.raises(InputError, match="models is empty"):
        evaluate({}, [(IMAGES, LABELS)])
