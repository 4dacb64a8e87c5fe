"""Where the time of a run went, in words."""

from collections.abc import Callable

from causal_prune.report.report import Report, StepTaken
from causal_prune.report.time_spent import time_told


def with_steps(report: Report, *steps: tuple[str, str, float]) -> Report:
    taken = tuple(StepTaken(name=name, part=part, seconds=seconds) for name, part, seconds in steps)  # type: ignore[arg-type]
    return report.model_copy(update={"steps": taken})


def test_result_and_evidence_are_told_apart(fake: Callable[..., Report]) -> None:
    steps = (("observe", "result", 20.0), ("repair", "result", 60.0), ("arms", "evidence", 70.0))
    report = with_steps(fake(), *steps)
    assert time_told(report) == (
        "Time: 2 min 30 s, of which 1 min 20 s for the result and 1 min 10 s for what it is worth; most of it arms "
        "47%, repair 40%, observe 13%."
    )


def test_a_result_alone_and_a_report_without_times(fake: Callable[..., Report]) -> None:
    assert (
        time_told(with_steps(fake(), ("observe", "result", 4.0))) == "Time: 4.0 s; most of it observe 100%."
    )
    assert time_told(with_steps(fake())) == ""
