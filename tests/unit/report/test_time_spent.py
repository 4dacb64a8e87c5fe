"""Where the time of a run went, in words."""

from causal_prune.report.time_spent import StepTaken, time_told


def taken(*steps: tuple[str, str, float]) -> list[StepTaken]:
    return [StepTaken(name=name, part=part, seconds=seconds) for name, part, seconds in steps]  # type: ignore[arg-type]


def test_result_and_evidence_are_told_apart() -> None:
    steps = taken(("observe", "result", 20.0), ("repair", "result", 60.0), ("arms", "evidence", 70.0))
    assert time_told(steps) == (
        "Time: 2 min 30 s, of which 1 min 20 s for the result and 1 min 10 s for what it is worth; most of it arms "
        "47%, repair 40%, observe 13%."
    )


def test_a_result_alone_and_no_times() -> None:
    assert time_told(taken(("observe", "result", 4.0))) == "Time: 4.0 s; most of it observe 100%."
    assert time_told(()) == ""
