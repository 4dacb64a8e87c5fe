"""How qualities are written, and which direction is better."""

import pytest
from pydantic import ValidationError

from causal_prune.report.yardstick import ACCURACY, Yardstick

PLAIN = Yardstick(name="mean absolute error", better="lower", kind="number")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (ACCURACY.text(0.97223), "97.22 %"),
        (ACCURACY.text(0.498, 1), "49.8 %"),
        (ACCURACY.text(None), "–"),
        (ACCURACY.change(-0.00833), "−0.83 pp"),
        (ACCURACY.change(0.0123), "+1.23 pp"),
        (ACCURACY.change(1e-9), "0.00 pp"),
        (ACCURACY.change(-1e-9), "0.00 pp"),
        (ACCURACY.change(None), "–"),
        (ACCURACY.signed(-0.003), "−0.30"),
        (ACCURACY.interval((0.9508, 0.9881)), "95.1 to 98.8 %"),
        (ACCURACY.spread(0.94444, 0.012), "94.44 ± 1.20 %"),
        (PLAIN.text(3.14159), "3.142"),
        (PLAIN.change(-0.25), "−0.250"),
        (PLAIN.interval((1.234, 5.678)), "1.23 to 5.68"),
    ],
)
def test_numbers_are_written_with_their_unit(written: str, expected: str) -> None:
    assert written == expected


def test_a_gain_is_above_zero_where_the_first_is_better() -> None:
    assert ACCURACY.gain(0.2) == 0.2 and PLAIN.gain(0.2) == -0.2


def test_interval_and_test_follow_from_what_an_image_counts() -> None:
    assert (ACCURACY.interval_of, ACCURACY.test) == ("Wilson", "McNemar")
    assert (PLAIN.interval_of, PLAIN.test) == ("Student", "Wilcoxon")


def test_a_yardstick_is_checked_and_frozen() -> None:
    with pytest.raises(ValidationError, match="better"):
        Yardstick(name="error", better="down", kind="number")  # type: ignore[arg-type]  # the point
    with pytest.raises(ValidationError, match="frozen"):
        ACCURACY.name = "luck"  # type: ignore[misc]  # that it cannot be set is the point


def test_numbers_are_held_against_those_of_the_same_name_direction_and_unit_only() -> None:
    assert PLAIN.agrees_with(PLAIN.model_copy(update={"digits": 1}))
    for change in ({"unit": "degrees"}, {"better": "higher"}, {"name": "error"}, {"kind": "share"}):
        assert not PLAIN.agrees_with(PLAIN.model_copy(update=change))
    assert PLAIN.model_copy(update={"unit": "m"}).told == "mean absolute error in m (lower is better)"


def test_a_name_becomes_a_part_of_a_file_name() -> None:
    assert (ACCURACY.slug, PLAIN.slug) == ("accuracy", "mean_absolute_error")
