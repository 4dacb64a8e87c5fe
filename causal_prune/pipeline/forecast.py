"""What a run will do, and about how long each step takes: from one timed pass."""

from time import perf_counter

import torch

from causal_prune.comparison import AGREEMENT, ARMS, CURVE, FIRST, FURTHER, LADDER, Recipe
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.running import copied
from causal_prune.pipeline.options import Options
from causal_prune.progress import Step

TRACE, OBSERVE, SCORE, PLAN, PROVE = "trace", "observe", "score", "plan", "prove the cut"
MAKE, EXPORT, WRITE = "repair and test", "export and time", "write the bundle"
SIZES = "cut and repair all sizes"
EXPORT_ALL, MAPS, FIGURES = "export and time all arms", "maps", "report"
TIMED_IMAGES = 16
PASSES = {OBSERVE: 4.0, SCORE: 3.0, MAKE: 18.0}
"""Forward passes over the calibration images that a step costs about (ResNet-56 and ResNet-34, measured)."""
TRAINING = 3.5
"""Forward passes that a step of training costs about, with a teacher."""
NETWORKS = 6
"""Networks that the search for the smallest one makes about."""
ONNX_SECONDS = 8.0


@undisturbed
def seconds_per_image(recipe: Recipe) -> float:
    """Time one image, forward.

    Args:
        recipe: The network, and calibration images.

    Returns:
        Seconds for one image of a batch, the better of two passes; 0 where the network does not take them: what is
        wrong is told by the step that needs it.
    """
    try:
        return _timed(recipe)
    except Exception:  # noqa: BLE001 - whatever the user's network raises
        return 0.0


def _timed(recipe: Recipe) -> float:
    network, calibration = copied(recipe.dense).eval(), recipe.data.calibration
    count = min(TIMED_IMAGES, recipe.data.split["calibration"])
    images = torch.stack([calibration[k][0] for k in range(count)]).to(recipe.device)
    taken = []
    with torch.no_grad():
        for _ in range(2):
            start = perf_counter()
            network(images)
            if images.is_cuda:
                torch.cuda.synchronize(images.device)
            taken.append(perf_counter() - start)
    return min(taken) / len(images)


def forecast(recipe: Recipe, options: Options, image: float) -> list[Step]:
    """The steps of a run.

    Args:
        recipe: What all arms share.
        options: Of the run.
        image: Seconds for one image, forward.

    Returns:
        The steps in their order, with the seconds that each will about take; of the evidence only the most that it may.
    """
    split = recipe.data.split
    seen = split["calibration"]
    judged = 3.0 * split["test"]
    arm = image * (PASSES[MAKE] * seen * recipe.views + judged + TRAINING * options.epochs * split["train"])
    search = 0.0
    if options.max_drop is not None and options.plan is None:
        search = NETWORKS * (arm + image * split["validation"])
    steps = [
        Step(TRACE, expected=1.0 + 30 * image),
        Step(OBSERVE, expected=image * PASSES[OBSERVE] * seen),
        Step(SCORE, expected=image * PASSES[SCORE] * seen),
        Step(PLAN, expected=(search or 0.2) + (60.0 if options.keep_latency is not None else 0.0)),
        Step(PROVE, expected=0.2 + 10 * image),
        Step(MAKE, expected=arm + image * split["test"] if not search else image * judged),
        Step(EXPORT, expected=ONNX_SECONDS),
        Step(WRITE, expected=2.0),
    ]
    return steps + _evidence(options, arm, sum(each.expected or 0.0 for each in steps))


def sizes_forecast(recipe: Recipe, image: float, networks: int) -> list[Step]:
    """The steps of a frontier.

    Args:
        recipe: What all arms share.
        image: Seconds for one image, forward.
        networks: Arms of all sizes.

    Returns:
        The steps in their order, with the seconds that each will about take.
    """
    split = recipe.data.split
    seen = split["calibration"]
    arm = image * (PASSES[MAKE] * seen * recipe.views + split["validation"])
    return [
        Step(TRACE, expected=1.0 + 30 * image),
        Step(OBSERVE, expected=image * PASSES[OBSERVE] * seen),
        Step(SCORE, expected=image * PASSES[SCORE] * seen),
        Step(SIZES, expected=arm * networks),
        Step(EXPORT, expected=2 * ONNX_SECONDS),
        Step(WRITE, expected=1.0),
    ]


def steps_of(options: Options) -> list[str]:
    """The steps of a run by name, before anything is known of the network.

    Args:
        options: Of the run.

    Returns:
        Names in their order.
    """
    result = [TRACE, OBSERVE, SCORE, PLAN, PROVE, MAKE, EXPORT, WRITE]
    return result + [each.name for each in _evidence(options, 0.0, 0.0)]


def _evidence(options: Options, arm: float, result: float) -> list[Step]:
    if options.evidence == "none":
        return []
    arms = ("random" in options.arms) * options.seeds + ("magnitude" in options.arms)
    first = min(arms, FIRST) if options.in_two else arms
    left = result
    found = []
    works = {ARMS: first * arm, LADDER: min(arms, 2) * arm, FURTHER: (arms - first) * arm}
    for name, wanted in ((LADDER, arms > 0), (FURTHER, options.in_two)):
        if not wanted:
            del works[name]
    for name, most in (works | {AGREEMENT: 0.3 * result, CURVE: 0.3 * result}).items():
        expected = most if options.evidence == "full" else min(most, left)
        left -= expected
        found.append(Step(name, "evidence", expected=expected))
    if options.evidence == "full":
        found.append(Step(EXPORT_ALL, "evidence", expected=2 * ONNX_SECONDS))
    if options.explain:
        found.append(Step(MAPS, "evidence", expected=arm))
    return [*found, Step(FIGURES, "evidence", expected=2.0)]
