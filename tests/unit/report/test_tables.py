"""The rows of the tables, against arithmetic done by hand in the test."""

from collections.abc import Callable
from statistics import mean, stdev

import numpy as np
import pytest

from causal_prune.report import tables
from causal_prune.report.report import Report, text_to_hits
from causal_prune.report.yardstick import ACCURACY

Fake = Callable[..., Report]


def test_dense_comes_first_and_every_seed_is_listed(fake: Fake) -> None:
    rows = tables.arm_rows(fake())
    assert [row.label for row in rows] == [
        "dense",
        "causal",
        "random",
        "seed 0",
        "seed 1",
        "seed 2",
        "seed 3",
        "seed 4",
        "magnitude",
    ]
    assert [row.kind for row in rows[:4]] == ["dense", "causal", "summary", "member"]


def test_the_random_arms_are_summed_up_by_mean_sd_and_range(fake: Fake) -> None:
    report = fake()
    summary = next(row for row in tables.arm_rows(report) if row.kind == "summary")
    accuracies = [100 * correct / 360 for correct in (339, 344, 336, 341, 343)]
    assert summary.quality == f"{mean(accuracies):.2f} ± {stdev(accuracies):.2f} %"
    assert summary.interval == "range 93.3 to 95.6 %"
    assert summary.counted == "5 seeds"
    assert summary.change == "−3.44 pp"  # 94.611 - 98.056
    assert summary.latency == "0.214 ms"  # mean of 0.2125 + 0.001 * (0..4) = 0.2145, printed half to even


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.5], "50.00 %"),
        ([0.4, 0.6], "50.00 ± 14.14 %"),
        ([0.4, None], "–"),
        ([], "–"),
    ],
)
def test_spread(shares: list[float | None], expected: str) -> None:
    assert tables.spread_of(shares, ACCURACY) == expected


def test_the_causal_row_states_what_is_kept(fake: Fake) -> None:
    row = tables.arm_rows(fake())[1]
    assert (row.quality, row.counted, row.change) == ("97.22 %", "350 of 360", "−0.83 pp")
    assert (row.macs, row.macs_kept) == ("1.70 M", "49.8 %")
    assert (row.onnx_bytes, row.bytes_kept, row.onnx_size) == ("180,969", "54.8 %", "181 kB")
    assert (row.latency, row.spread, row.speedup) == ("0.212 ms", "IQR 0.015 ms", "1.71x faster")


def test_zeroed_and_removed_answer_the_same_questions(fake: Fake) -> None:
    report = fake(mode="zero")
    sides = {row.question: (row.zeroed, row.removed) for row in tables.side_rows(report)}
    assert sides["MACs (kept)"] == ("3.42 M (100.0 %)", "1.70 M (49.8 %)")
    assert sides["speed against dense"] == ("as fast (1.00x)", "1.71x faster")
    assert sides["test accuracy"] == ("97.22 % (350 of 360)", "96.94 % (349 of 360)")


def test_disagreements_are_counted_image_by_image(fake: Fake) -> None:
    report = fake(mode="zero")
    removed = report.removed
    assert removed is not None and report.causal.merits is not None and removed.merits is not None
    first, second = text_to_hits(report.causal.merits, 360), text_to_hits(removed.merits, 360)
    differ = sum(bool(a) is not bool(b) for a, b in zip(first, second, strict=True))
    assert f"the other wrong on {differ} of 360 images" in tables.disagreements(report)
    assert "Removed minus zeroed: −0.28 pp" in tables.disagreements(report)
    assert tables.disagreements(fake()) == "" and tables.side_rows(fake()) == []


def test_frozen_layers_are_grouped_by_reason(fake: Fake) -> None:
    rows = tables.frozen_rows(fake(60))
    assert [len(row.layers) for row in rows] == [1, 29]
    assert rows[0].layers == ("conv1",) and rows[1].layers[0] == "layer1.0.conv2"


def test_the_curve_is_written_with_mean_and_range(fake: Fake) -> None:
    report = fake()
    row = tables.curve_rows(report)[5]
    assert report.curve is not None
    seeds = 100 * np.array(report.curve.random[5])
    assert (row.share, row.causal) == ("50.0 %", "84.44 %")
    assert row.random == f"{seeds.mean():.2f} ± {seeds.std(ddof=1):.2f} %"
    assert row.random_range == f"{seeds.min():.1f} to {seeds.max():.1f} %"
    assert tables.curve_rows(fake(curve=None)) == []


def test_options_are_written_as_a_configuration_names_them(fake: Fake) -> None:
    options = {
        "model": None, "freeze": [], "model_arg": {"width": 3, "deep": [1, None], "on": True}, "force": False,
        "mean": [0.5, 0.25], "keep_macs": 0.5,
    }  # fmt: skip
    report = fake(mode="remove").model_copy(update={"options": options})
    assert tables.option_rows(report) == [
        ("model_arg", "width=3, deep=1,null, on=true"),
        ("force", "false"),
        ("mean", "0.5,0.25"),
        ("keep_macs", "0.5"),
    ]
    assert tables.option_rows(fake(mode="remove")) == []


def test_classes_are_numbered_where_their_names_are_no_numbers(fake: Fake) -> None:
    report = fake(mode="remove")
    assert tables.class_rows(report) == []
    assert tables.class_rows(report.model_copy(update={"class_names": ("0", "1")})) == []
    named = report.model_copy(update={"class_names": ("cat", "dog")})
    assert tables.class_rows(named) == [(0, "cat"), (1, "dog")]
