"""Words and rows for the search for the smallest network."""

from causal_prune.report.size_search import SizeSearch
from causal_prune.report.wording import percent, plural
from causal_prune.report.yardstick import Yardstick

HEADS = ("MACs kept", "validation quality", "lost", "lost at most", "within")


def search_told(search: SizeSearch, yardstick: Yardstick) -> str:
    """Say how the size was found.

    Args:
        search: What was tried.
        yardstick: Of the report.

    Returns:
        Two or three sentences.
    """
    bound = yardstick.change(search.max_drop).lstrip("+")
    text = (
        f"{plural(len(search.tried), 'size')} {'was' if len(search.tried) == 1 else 'were'} cut, repaired and judged "
        f"on {plural(search.images, f'validation {yardstick.item}')}: a size is taken if it loses at most {bound} of "
        f"{yardstick.name} with {percent(search.confidence, 0)} confidence, paired on the same {yardstick.item}s."
    )
    if search.keep_latency is None:
        return text
    if search.bound_by == "keep_latency":
        return f"{text} The latency that was asked for was reached first; a smaller network might still be within it."
    left = "" if search.latency_kept is None else f": {percent(search.latency_kept, 1)} of it is left"
    return (
        f"{text} The loss ended the search before {percent(search.keep_latency, 1)} of the median latency was "
        f"reached{left}."
    )


def search_rows(search: SizeSearch, yardstick: Yardstick) -> list[tuple[str, str, str, str, str]]:
    """Write the sizes as a table.

    Args:
        search: What was tried.
        yardstick: Of the report.

    Returns:
        Largest network first, a cell for each of `HEADS`.
    """
    written = yardstick.in_columns
    return [
        (
            percent(each.macs_kept, 1),
            written.text(each.quality),
            written.change(each.drop),
            written.change(each.at_most),
            "yes" if each.within else "no",
        )
        for each in sorted(search.tried, key=lambda each: -each.macs_kept)
    ]
