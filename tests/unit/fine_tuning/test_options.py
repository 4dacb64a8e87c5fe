"""What may be said about fine-tuning."""

import inspect
import math
import re
from typing import Any

import pytest

from causal_prune.errors import InputError
from causal_prune.fine_tuning.options import Tuning
from causal_prune.fine_tuning.training import fine_tune


def test_nothing_is_trained_unless_it_is_asked_for() -> None:
    assert Tuning() == Tuning(epochs=0, lr=0.01, distill=True)


def test_the_rate_is_that_of_fine_tune_where_none_is_given() -> None:
    assert inspect.signature(fine_tune).parameters["lr"].default == Tuning().lr


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epochs": "3", "lr": "0.5", "distill": "false"}, Tuning(epochs=3, lr=0.5, distill=False)),
        ({"lr": 1}, Tuning(lr=1.0)),
        ({"lr": 1e-9}, Tuning(lr=1e-9)),
    ],
)
def test_values_are_parsed(given: dict[str, Any], expected: Tuning) -> None:
    assert Tuning.model_validate(given) == expected


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"epochs": -1}, "epochs: -1 is not a whole number of at least 0"),
        ({"epochs": 0.5}, "epochs: 0.5 is not a whole number of at least 0"),
        ({"epochs": True}, "epochs: True is not a whole number of at least 0"),
        ({"lr": 0}, "lr: 0 is not a number above 0"),
        ({"lr": -0.1}, "lr: -0.1 is not a number above 0"),
        ({"lr": math.nan}, "lr: nan is not a number above 0"),
        ({"lr": math.inf}, "lr: inf is not a number above 0"),
        ({"lr": True}, "lr: True is not a number above 0"),
        ({"distill": "perhaps"}, "distill: perhaps is not true or false"),
        ({"momentum": 0.9}, "unknown option 'momentum'"),
        ({"epoch": 3}, "unknown option 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        Tuning.model_validate(given)
