"""Where the time of a run went."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from causal_prune.progress import duration
from causal_prune.report.strict import Strict


class StepTaken(Strict):
    """A step of the run, whether it made the result or says what that is worth, and the seconds that it took."""

    name: str
    part: Literal["result", "evidence"]
    seconds: Annotated[float, Field(ge=0)]


def time_told(steps: Sequence[StepTaken]) -> str:
    """Say how long the result took, how long what says what it is worth, and what took the most of it.

    Args:
        steps: That ran.

    Returns:
        One sentence; empty where no step was timed.
    """
    total = sum(each.seconds for each in steps)
    if not total:
        return ""
    result = [each for each in steps if each.part == "result"]
    spent = sum(each.seconds for each in result)
    most = sorted(steps, key=lambda each: -each.seconds)[:3]
    shares = ", ".join(f"{each.name} {each.seconds / total:.0%}" for each in most)
    text = f"Time: {duration(total)}"
    if len(result) < len(steps):
        text += (
            f", of which {duration(spent)} for the result and {duration(total - spent)} for what it is worth"
        )
    return f"{text}; most of it {shares}."
