"""What a choice of units rests on, handed from the planning to the arms and to all that judges it."""

from collections.abc import Callable
from dataclasses import dataclass

from causal_prune.comparison.arms import Made
from causal_prune.importance import FilterScores
from causal_prune.observation import FilterMoments
from causal_prune.report import SizeSearch
from causal_prune.surgery import PruningPlan
from causal_prune.tracing import FilterGraph


@dataclass(frozen=True)
class Chosen:
    """What is known of a network, and the units that go.

    Attributes:
        graph: What can be cut together.
        moments: Statistics of the activity.
        scores: How much every unit matters.
        plan: The units that stay, and the cuts that follow.
        rescore: The same scores from other moments.
        doubts: What was warned of the network before all that.
        made: The network of the plan, where a search for the plan has made it already.
        search: What that search tried.
    """

    graph: FilterGraph
    moments: FilterMoments
    scores: FilterScores
    plan: PruningPlan
    rescore: Callable[[FilterMoments], FilterScores]
    doubts: tuple[str, ...] = ()
    made: Made | None = None
    search: SizeSearch | None = None
