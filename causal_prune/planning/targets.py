"""Targets: what a caller may ask for, checked."""

from collections.abc import Mapping

from causal_prune.errors import InputError, TargetError
from causal_prune.surgery import TargetKind
from causal_prune.tracing import FilterGraph


def checked_target(shares: Mapping[TargetKind, float | None]) -> tuple[TargetKind, float]:
    """The one target among those that a caller may give.

    Args:
        shares: The share asked for by kind; None where it is not asked for.

    Returns:
        Kind and share; "keep_macs" and 0.5 where nothing is asked for.

    Raises:
        InputError: If two targets are given, or one is outside (0, 1).
    """
    given = [(kind, value) for kind, value in shares.items() if value is not None]
    if len(given) > 1:
        raise InputError(f"give one target, not {' and '.join(kind for kind, _ in given)}")
    kind, value = given[0] if given else ("keep_macs", 0.5)
    if not 0 < value < 1:
        raise InputError(f"{kind}: {value} is not between 0 and 1")
    return kind, value


def check_prunable(graph: FilterGraph) -> None:
    """Refuse a network of which nothing can be cut.

    Args:
        graph: From `trace`.

    Raises:
        TargetError: If every layer is frozen; reasons are named.
    """
    if not graph.prunable:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(graph.frozen.items())[:3])
        raise TargetError(f"nothing can be pruned: every layer is frozen ({reasons})")
