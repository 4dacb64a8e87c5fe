"""The whole flow: a trained network and its data in, a smaller network and its report out."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from causal_prune.comparison import (
    Judged,
    Rivals,
    check_explained,
    curve_by_share,
    drifts_of,
    export_arms,
    harm_of,
    judge,
    ladder_of,
    rivals_of,
    run_arms,
    sheets_of,
)
from causal_prune.data import Data
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.pipeline.findings import assemble, write_bundle
from causal_prune.pipeline.keywords import keywords_of
from causal_prune.pipeline.options import Options
from causal_prune.pipeline.steps import choose, prove, recipe_of, workplace
from causal_prune.report import Report
from causal_prune.surgery import PruningPlan


@dataclass(frozen=True)
class Compressed:
    """The result of `compress`.

    Attributes:
        model: The smaller network (with mode "zero": the zeroed one), in eval mode on the CPU.
        plan: The units that stayed.
        report: What was asked, achieved and measured; `report.json` is this.
        bundle: The folder that was written, or None.
    """

    model: nn.Module
    plan: PruningPlan
    report: Report
    bundle: Path | None


@undisturbed
@keywords_of(Options)
def compress(model: nn.Module, data: Data, options: Options) -> Compressed:
    """Make a trained network smaller, and compare it with the same network pruned at random.

    Args:
        model: The trained network; it is not changed.
        data: Its images.
        options: One value of `Options`, or its fields as keywords.

    Returns:
        The network, its plan and its report.

    Raises:
        InputError: If an option, the model or the data cannot be used.
        TargetError: If the target is out of reach, or nothing can be pruned.
        ParityError: If the exported network computes something else.

    Example:
        ``result = cp.compress(model, data, keep_macs=0.5)``
    """
    recipe = recipe_of(model, data, options)
    check_explained(recipe, options.explain)
    with workplace(options) as folder:
        chosen = choose(recipe, options)  # trace, observe, score, plan
        rivals = rivals_of(chosen.graph, chosen.moments, options.part(Rivals), options.seed)
        prove(recipe, chosen)
        outcome = run_arms(recipe, chosen.graph, chosen.plan, options.importance, rivals)
        outcome = export_arms(outcome, recipe, folder, options.threads, command=options.command)
        harm = harm_of(outcome, data.classes)
        judged = Judged(
            curve_by_share(recipe, chosen.graph, chosen.scores, rivals),
            judge(recipe, chosen.graph, chosen.scores, chosen.rescore),
            harm,
            drifts_of(recipe, outcome, options.explain),
            sheets_of(recipe, outcome, harm),
            ladder_of(recipe, chosen.graph, chosen.moments, chosen.scores, chosen.plan, outcome, rivals),
        )
        report = assemble(recipe, options, chosen, outcome, judged)
        write_bundle(folder, outcome, chosen.plan, report, judged, options.in_force)
    return Compressed(outcome.causal.model, chosen.plan, report, options.out)
