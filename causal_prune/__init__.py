"""Makes a trained convolutional network physically smaller and proves what that cost."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from causal_prune.compensation import compensate
    from causal_prune.data.data import Data
    from causal_prune.errors import (
        CausalPruneError,
        CausalPruneWarning,
        InputError,
        ParityError,
        TargetError,
    )
    from causal_prune.explainer import CausalCNNExplainer
    from causal_prune.filter_graph import FilterGraph, trace
    from causal_prune.filter_moments import FilterMoments, observe
    from causal_prune.fine_tuning import fine_tune
    from causal_prune.importance import FilterScores, score
    from causal_prune.onnx_files.export import export_onnx
    from causal_prune.pipeline import Compressed, compress
    from causal_prune.pruning_plan import plan
    from causal_prune.surgery.pruning_plan import PruningPlan
    from causal_prune.surgery.rebuilding import load
    from causal_prune.surgery.removal import remove
    from causal_prune.surgery.silencing import zero

__all__ = [
    "CausalCNNExplainer",
    "CausalPruneError",
    "CausalPruneWarning",
    "Compressed",
    "Data",
    "FilterGraph",
    "FilterMoments",
    "FilterScores",
    "InputError",
    "ParityError",
    "PruningPlan",
    "TargetError",
    "compensate",
    "compress",
    "export_onnx",
    "fine_tune",
    "load",
    "observe",
    "plan",
    "remove",
    "score",
    "trace",
    "zero",
]

_HOMES = {
    "channel_removal": ("load", "remove", "zero"),
    "compensation": ("compensate",),
    "errors": ("CausalPruneError", "CausalPruneWarning", "InputError", "ParityError", "TargetError"),
    "explainer": ("CausalCNNExplainer",),
    "filter_graph": ("FilterGraph", "trace"),
    "filter_moments": ("FilterMoments", "observe"),
    "fine_tuning": ("fine_tune",),
    "importance": ("FilterScores", "score"),
    "onnx_export": ("export_onnx",),
    "pipeline": ("Compressed", "Data", "compress"),
    "pruning_plan": ("PruningPlan", "plan"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # torch is imported only when a verb is used: `causal-prune --help` must not wait for it
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
