"""Where the time of a run went."""

from causal_prune.progress import duration
from causal_prune.report.report import Report


def time_told(report: Report) -> str:
    """Say how long the result took, how long what says what it is worth, and what took the most of it.

    Args:
        report: The report.

    Returns:
        One sentence; empty where no step was timed.
    """
    total = sum(each.seconds for each in report.steps)
    if not total:
        return ""
    result = [each for each in report.steps if each.part == "result"]
    spent = sum(each.seconds for each in result)
    most = sorted(report.steps, key=lambda each: -each.seconds)[:3]
    shares = ", ".join(f"{each.name} {each.seconds / total:.0%}" for each in most)
    text = f"Time: {duration(total)}"
    if len(result) < len(report.steps):
        text += (
            f", of which {duration(spent)} for the result and {duration(total - spent)} for what it is worth"
        )
    return f"{text}; most of it {shares}."
