"""Classification: labels that are classes, logits that are answers, cross entropy and its teacher's distance."""

import math

import numpy as np
import pytest
import torch

from causal_prune.data.classification import CLASSIFICATION, check_labels, label, labels_of, logits_of
from causal_prune.errors import InputError

LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])


@pytest.mark.parametrize(
    "value",
    [
        3,
        np.int64(3),
        np.uint8(3),
        torch.tensor(3),
        torch.tensor(3, dtype=torch.uint8),
        torch.tensor([3]),
        [3],
        torch.eye(5)[3],
        np.eye(4, dtype=np.int64)[3],
        [0, 0, 0, 1],
        (0.0, 0.0, 0.0, 1.0),
        torch.eye(4).bool()[3],
    ],
)
def test_a_class_is_a_whole_number_of_any_kind_or_one_hot(value: object) -> None:
    assert label(value) == 3


@pytest.mark.parametrize(
    "value",
    [
        3.0,
        "3",
        None,
        torch.tensor(3.0),
        np.float32(3),
        [0.5, 0.5],
        [1, 1, 0],
        [0, 0],
        torch.tensor([0.9, 0.1]),
        torch.eye(3),
        [],
        ["a", "b"],
        [3.0],
    ],
)
def test_other_labels_name_no_class(value: object) -> None:
    assert label(value) is None


def test_labels_come_as_int64_on_the_cpu() -> None:
    given = torch.tensor([2, 0], dtype=torch.uint8)
    for batch in ((LOGITS, given), [LOGITS, [2, 0]], (LOGITS, np.array([2, 0]), "and more")):
        found = labels_of(batch, "batch 1")
        assert found.dtype == torch.int64 and found.tolist() == [2, 0]


@pytest.mark.parametrize("batch", [LOGITS, (LOGITS,)])
def test_a_batch_without_labels_is_refused(batch: object) -> None:
    with pytest.raises(InputError, match=r"^batch 4 of the loader has no labels: give \(inputs, labels\)$"):
        labels_of(batch, "batch 4")


@pytest.mark.parametrize("key", ["label", "labels", "target", "y"])
def test_labels_of_a_mapping_are_known_by_their_name(key: str) -> None:
    assert labels_of({"image": LOGITS, key: torch.tensor([2, 0])}, "batch 1").tolist() == [2, 0]


@pytest.mark.parametrize("batch", [{"images": LOGITS}, {"image": LOGITS, "label": [1, 2], "target": [2, 1]}])
def test_a_mapping_in_which_labels_cannot_be_told_is_refused(batch: dict[str, object]) -> None:
    text = rf"^batch 4 of the loader has no labels: it has {', '.join(batch)}; name one of them 'label', or give "
    with pytest.raises(InputError, match=text):
        labels_of(batch, "batch 4")


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([[0, 0, 1], [1, 0, 0]]), torch.tensor([[0.0, 0, 1], [1, 0, 0]]), torch.tensor([[2], [0]]),
        np.array([[0, 0, 1], [1, 0, 0]]), torch.tensor([[0, 0, 1], [1, 0, 0]]).bool(), [[0, 0, 1], [1, 0, 0]],
        [torch.tensor([0, 1]), torch.tensor([0, 0]), torch.tensor([1, 0])],  # rows of lists, as torch collates them
    ],
)  # fmt: skip
def test_columns_and_one_hot_rows_are_labels_too(labels: object) -> None:
    found = labels_of((LOGITS, labels), "batch 1")
    assert found.dtype == torch.int64 and found.tolist() == [2, 0]


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(2), torch.tensor([True, False]), torch.zeros(2, 1), torch.zeros(2, 3), torch.ones(2, 3),
        torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.zeros(2, 2, 2), torch.tensor([[2, 0], [0, 2]]),
    ],
)  # fmt: skip
def test_labels_of_other_shapes_and_types_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(
        InputError, match=r"^labels of batch 1 have shape \(2.*\) and type .*: give one integer"
    ):
        labels_of((LOGITS, labels), "batch 1")


def test_logits_are_the_first_tensor_of_an_output() -> None:
    more = torch.zeros(2, 7)
    for output in (LOGITS, (LOGITS, more), {"logits": LOGITS, "features": more}):
        assert torch.equal(logits_of(output, "Net", "batch 1"), LOGITS)


@pytest.mark.parametrize(
    ("output", "told"), [(LOGITS[0], r"\(3,\)"), (LOGITS[:, :1], r"\(2, 1\)"), ("text", "str")]
)
def test_other_outputs_are_no_logits(output: object, told: str) -> None:
    expected = (
        rf"^model 'Net' returned {told} for batch 1: a classifier must return logits \(images, at least 2 "
    )
    with pytest.raises(InputError, match=expected):
        logits_of(output, "Net", "batch 1")


def test_labels_must_fit_the_logits() -> None:
    check_labels(torch.tensor([0, 2]), LOGITS, "Net", "batch 1")
    with pytest.raises(InputError, match="^batch 1 has 3 labels, but model 'Net' returned 2 rows$"):
        check_labels(torch.tensor([0, 1, 2]), LOGITS, "Net", "batch 1")
    for outside in (3, -1):
        with pytest.raises(
            InputError, match=f"^label {outside} in batch 1 is outside 0 to 2, the 3 classes of "
        ):
            check_labels(torch.tensor([0, outside]), LOGITS, "Net", "batch 1")


def test_the_loss_is_cross_entropy() -> None:
    expected = [
        math.log(sum(math.exp(value) for value in row)) - row[which]
        for row, which in zip(LOGITS.tolist(), (1, 2), strict=True)
    ]
    losses = CLASSIFICATION.losses(LOGITS, torch.tensor([1, 2]), "none")
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_distance_is_the_divergence_of_softened_answers_times_the_squared_temperature() -> None:
    teacher, temperature = LOGITS.flip(1), 2.5
    expected = 0.0
    for row, other in zip((LOGITS / temperature).tolist(), (teacher / temperature).tolist(), strict=True):
        p, q = ([math.exp(v) / sum(map(math.exp, values)) for v in values] for values in (other, row))
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / len(LOGITS)
    found = CLASSIFICATION.distance(LOGITS, teacher, temperature).item()
    assert found == pytest.approx(temperature**2 * expected, rel=1e-5)


def test_an_image_counts_where_its_largest_logit_is_its_class() -> None:
    predictions = CLASSIFICATION.predictions(LOGITS)
    assert predictions.tolist() == [0, 2]
    assert CLASSIFICATION.merits(predictions, torch.tensor([0, 1])).tolist() == [True, False]


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        (LOGITS, None),
        ([LOGITS], "returned a list for 2 images, not logits of shape (images, classes)"),
        (LOGITS[:1], "returned shape (1, 3) for 2 images, not logits of shape (images, classes)"),
        (
            LOGITS[:, :2],
            "has 2 outputs but the data have 3 classes; for many models `model_arg` num_classes=3 sets ",
        ),
    ],
)
def test_what_is_wrong_with_the_outputs_of_a_network_is_told(outputs: object, told: str | None) -> None:
    found = CLASSIFICATION.misfit(outputs, 2, ("a", "b", "c"))
    assert found is None if told is None else found is not None and found.startswith(told)


def test_every_class_is_a_stratum_and_an_output() -> None:
    assert CLASSIFICATION.strata(np.array([2, 0, 2], dtype=np.uint8)).tolist() == [2, 0, 2]
    assert CLASSIFICATION.width(("a", "b", "c")) == 3


@pytest.mark.parametrize("labels", [["cat", "dog"], [torch.zeros(2), torch.zeros(3)], "ab"])
def test_labels_without_numbers_are_refused(labels: object) -> None:
    with pytest.raises(
        InputError, match=r"^labels of batch 1 are a \w+ without numbers: give one integer class"
    ):
        labels_of((LOGITS, labels), "batch 1")
