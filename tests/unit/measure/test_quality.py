"""Accuracy, intervals and tests, against their formulas written out."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.measure.quality import evaluate
from causal_prune.measure.statistics import mcnemar_exact, paired_difference, wilson_interval


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

    with pytest.raises(RuntimeError, match="broken on purpose"):
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
        ((IMAGES, torch.eye(5, dtype=torch.int64)), r"labels of batch 1 have shape \(5, 5\)"),
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


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (7, 7), (1, 3), (917, 1000), (9339, 10000)])
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959963984540054), (0.9, 1.6448536269514722)])
def test_wilson_by_formula(correct, total, confidence, z):
    p, n = correct / total, total
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))

    low, high = wilson_interval(correct, total, confidence)

    assert low == pytest.approx(centre - half, abs=1e-12)
    assert high == pytest.approx(centre + half, abs=1e-12)
    assert 0 <= low <= p <= high <= 1


@pytest.mark.parametrize(
    ("correct", "total", "confidence", "message"),
    [
        (3, 0, 0.95, "total=0"),
        (4, 3, 0.95, "correct=4 of total=3"),
        (-1, 3, 0.95, "correct=-1"),
        (1, 3, 1.0, "confidence=1.0"),
    ],
)
def test_wilson_refuses_impossible_counts(correct, total, confidence, message):
    with pytest.raises(InputError, match=message):
        wilson_interval(correct, total, confidence)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 3), (3, 0), (2, 2), (1, 6), (5, 4), (9, 1)])
def test_mcnemar_by_enumerating_every_split(only_a, only_b):
    discordant = only_a + only_b
    splits = [sum(sides) for sides in itertools.product((0, 1), repeat=discordant)]
    uneven = abs(only_a - only_b)
    enumerated = sum(abs(2 * split - discordant) >= uneven for split in splits) / len(splits)
    a = np.array([True] * only_a + [False] * only_b + [True, True, False])
    b = np.array([False] * only_a + [True] * only_b + [True, True, False])

    assert mcnemar_exact(a, b) == pytest.approx(enumerated, abs=1e-12)
    assert mcnemar_exact(b, a) == pytest.approx(enumerated, abs=1e-12)


def test_mcnemar_without_a_difference_is_one():
    assert mcnemar_exact([True, False, True], [True, False, True]) == 1.0


@pytest.mark.parametrize("other", [[True], [1, 0, 1], [[True, False, True]]])
def test_mcnemar_refuses_what_is_no_pair(other):
    with pytest.raises(InputError, match="must be truth values of the same images"):
        mcnemar_exact([True, False, True], other)


def test_paired_difference_by_formula():
    values = [0.02, -0.01, 0.05, 0.0, 0.03]
    mean = sum(values) / 5
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / 4)
    t = 2.7764451051977987  # 97.5 % quantile of Student's t with 4 degrees of freedom, from a table

    found = paired_difference(values)

    assert found.mean == pytest.approx(mean)
    assert found.sd == pytest.approx(sd)
    assert found.ci95 == pytest.approx((mean - t * sd / math.sqrt(5), mean + t * sd / math.sqrt(5)))
    assert (found.wins, found.of) == (3, 5)


def test_paired_difference_of_one_and_of_equals():
    one = paired_difference([0.25])
    equal = paired_difference([-0.5, -0.5])

    assert (one.mean, one.sd, one.ci95, one.wins, one.of) == (0.25, None, None, 1, 1)
    assert (equal.sd, equal.ci95, equal.wins) == (0.0, (-0.5, -0.5), 0)


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf]])
def test_paired_difference_refuses_nothing_and_nan(values):
    with pytest.raises(InputError, match="one or more finite numbers"):
        paired_difference(values)
