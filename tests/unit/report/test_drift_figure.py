"""The figure of drift holds every number that the report has, and no other."""

from collections.abc import Callable

import pytest

from causal_prune.report.drift_figure import MEASURES, drift_by_network
from causal_prune.report.report import Report
from tests.unit.report import made_reasons

Fake = Callable[..., Report]


def test_every_network_is_a_mark_in_every_panel(fake: Fake) -> None:
    report = fake(drifts=[made_reasons.drift(), made_reasons.drift("saliency")])
    figure, caption = drift_by_network(report)
    assert figure is not None and len(figure.axes) == 6
    for axes, (measure, _) in zip(figure.axes[:3], MEASURES, strict=True):
        drawn = [tuple(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "None"]
        drift = report.drifts[0]
        assert drawn == [
            (getattr(drift.repeated, measure),),
            (getattr(drift.networks[0], measure),),
            tuple(getattr(each, measure) for each in drift.networks[1:]),
            (getattr(drift.unlearned, measure),),
        ]
        low, high = axes.get_xlim()
        assert all(low < value < high for row in drawn for value in row)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["dense again", "causal", "random", "unlearned"]
    assert "128 test images" in caption
    figure.canvas.draw()


@pytest.mark.parametrize("value", [None, -1.0])
def test_what_is_missing_or_reversed_is_drawn_too(fake: Fake, value: float | None) -> None:
    lone = made_reasons.drift(networks=[made_reasons.network("causal", value)])
    figure, _ = drift_by_network(fake(drifts=[lone]))
    assert figure is not None
    axes = figure.axes[0]
    marks = [x for line in axes.lines if line.get_linestyle() == "None" for x in line.get_xdata()]
    assert len(marks) == (2 if value is None else 3) and min(axes.get_xlim()) < min(marks)
    assert drift_by_network(fake())[0] is None
