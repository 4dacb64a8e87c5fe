"""Numbers carry units and directions."""

from collections.abc import Callable

import pytest

from causal_prune.report import wording
from causal_prune.report.report import Report

Fake = Callable[..., Report]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.percent(0.97223), "97.22 %"),
        (wording.percent(0.498, 1), "49.8 %"),
        (wording.percent(None), "–"),
        (wording.quantity(812), "812"),
        (wording.quantity(3_421_184), "3.42 M"),
        (wording.quantity(78_042), "78.0 k"),
        (wording.quantity(999_700), "1.00 M"),
        (wording.quantity(330_115), "330 k"),
        (wording.quantity(4.1e9), "4.10 G"),
        (wording.quantity(0), "0"),
        (wording.quantity(None), "–"),
        (wording.milliseconds(0.3421), "0.342"),
        (wording.milliseconds(12.34), "12.3"),
        (wording.milliseconds(1250.4), "1250"),
        (wording.milliseconds(5.0), "5.00"),
        (wording.milliseconds(None), "–"),
        (wording.probability(0.0312), "0.031"),
        (wording.probability(0.00312), "0.0031"),
        (wording.probability(1e-7), "< 0.0001"),
        (wording.probability(None), "–"),
        (wording.p_told(0.0312), "p = 0.031"),
        (wording.p_told(1e-7), "p < 0.0001"),
        (wording.pace(1.7099), "1.71x faster"),
        (wording.pace(0.893), "1.12x slower"),
        (wording.pace(1.001), "as fast (1.00x)"),
        (wording.pace(None), "speed not measured"),
        (wording.plural(1, "seed"), "1 seed"),
        (wording.plural(1024, "image"), "1,024 images"),
        (wording.kept(498, 1000), "49.8 %"),
        (wording.kept(None, 10), "–"),
        (wording.kept(1, 0), "–"),
    ],
)
def test_numbers_are_written_with_unit_and_direction(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize(
    ("kind", "mode", "asked", "achieved"),
    [
        ("keep_macs", "remove", "keep 50.0 % of the MACs", "MACs kept 49.8 %"),
        (
            "keep_macs",
            "zero",
            "keep 50.0 % of the MACs",
            "MACs kept 49.8 % once the zeroed filters are removed",
        ),
        ("keep_params", "remove", "keep 50.0 % of the parameters", "parameters kept 49.8 %"),
        ("keep_latency", "remove", "keep 50.0 % of the median latency", "median latency kept 49.8 %"),
        (
            "remove_filters",
            "zero",
            "remove 50.0 % of the filters that can be cut",
            "filters zeroed 49.8 %",
        ),
    ],
)
def test_the_target_is_said_in_words(fake: Fake, kind: str, mode: str, asked: str, achieved: str) -> None:
    report = fake(mode=mode, target={"kind": kind, "requested": 0.5, "achieved": 0.498})
    assert (wording.asked(report), wording.achieved(report)) == (asked, achieved)
