"""The ladder: what it reads, what it takes from the arms, and every kind of run that may ask for one."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from causal_prune.comparison import ladder
from causal_prune.comparison.arms import Recipe, run_arm, run_arms
from causal_prune.comparison.ladder import ladder_of
from causal_prune.comparison.options import Rivals
from causal_prune.comparison.outcome import ArmResult, Outcome
from causal_prune.comparison.rivals import Rival, rivals_of
from causal_prune.compensation.options import Repair
from causal_prune.data.data import held_out, loader
from causal_prune.data.regression import regression_task
from causal_prune.errors import TargetError
from causal_prune.fine_tuning.options import Tuning
from causal_prune.importance.methods import METHODS
from causal_prune.importance.scores import FilterScores
from causal_prune.importance.scoring import score
from causal_prune.measure.cost import count_cost
from causal_prune.observation.filter_moments import FilterMoments, observe
from causal_prune.planning.network_cost import macs_kept
from causal_prune.planning.unit_choice import plan
from causal_prune.report.ladder import Ladder
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.removal import remove
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace
from tests.unit.counted_images import Counted

# a few dozen calibration images are quick, and fewer than the weights that they refit
pytestmark = pytest.mark.filterwarnings("ignore::causal_prune.errors.CausalPruneWarning")


@pytest.fixture
def recipe(recipe: Recipe) -> Recipe:
    """Four groups; the units of the last cost little, hence any target can be met closely."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        dense = nn.Sequential(
            nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 48, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 3),
        ).eval()  # fmt: skip
    return replace(recipe, dense=dense)


class Made:
    """A comparison that has run, and its ladder."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        importance: str = "structural",
        asked: Rivals | None = None,
        align: int = 1,
        **target: float,
    ) -> None:
        self.recipe = recipe
        dense = recipe.dense
        self.graph: FilterGraph = trace(dense, recipe.example)
        self.moments: FilterMoments = observe(dense, self.graph, loader(recipe.data.calibration))
        self.scores: FilterScores = score(
            self.graph,
            self.moments,
            method=importance,
            model=dense,
            labelled=held_out(recipe.data.validation),
            task=recipe.data.task,
            seed=recipe.seed,
        )
        goal = target or {"keep_macs": 0.5}
        self.plan: PruningPlan = plan(self.graph, self.scores, align=align, **goal)
        rivals = Rivals(random_seeds=2) if asked is None else asked
        self.rivals: list[Rival] = rivals_of(self.graph, self.moments, rivals, recipe.seed)
        self.outcome: Outcome = run_arms(recipe, self.graph, self.plan, importance, self.rivals)

    def ladder(self, **options: object) -> Ladder | None:
        return ladder_of(
            self.recipe,
            self.graph,
            self.moments,
            self.scores,
            self.plan,
            self.outcome,
            self.rivals,
            **options,
        )  # type: ignore[arg-type]

    def known(self, **options: object) -> Ladder:
        found = self.ladder(**options)
        assert found is not None
        return found


def keys(found: Ladder) -> list[tuple[str, str]]:
    return [(rung.units, rung.widths) for rung in found.rungs]


ALL = [
    ("magnitude", "equal"),
    ("random", "equal"),
    ("magnitude", "curves"),
    ("random", "curves"),
    ("causal", "curves"),
]


def values(arm: ArmResult) -> list[float | None]:
    stages = (arm.stages.cut, arm.stages.batchnorm, arm.stages.compensation, arm.stages.end)
    return [None if stage is None else stage.value for stage in stages]


def stations(found: Ladder, units: str, widths: str) -> list[float | None]:
    rung = found.rung(units, widths)  # type: ignore[arg-type]
    assert rung is not None
    return [rung.cut, rung.batchnorm, rung.least_squares, rung.fine_tuned]


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_rungs_that_were_arms_are_those_arms_and_the_others_have_their_macs(
    recipe: Recipe, mode: str
) -> None:
    made = Made(replace(recipe, mode=mode))  # type: ignore[arg-type]
    found = made.known()
    assert keys(found) == ALL and found.left_out == ()
    outcome = made.outcome
    assert stations(found, "causal", "curves") == values(outcome.causal)
    magnitude = next(arm for arm in outcome.others if arm.name == "magnitude")
    assert stations(found, "magnitude", "curves") == values(magnitude)
    random = [values(arm) for arm in outcome.others if arm.name == "random"]
    means = [sum(pair) / 2 for pair in zip(*random, strict=True)]  # type: ignore[type-var]
    assert stations(found, "random", "curves") == pytest.approx(means)
    assert [rung.seeds for rung in found.rungs] == [(), (7,), (), (7, 8), ()]
    assert found.causal.importance == "structural"
    small = count_cost(remove(recipe.dense, made.plan), recipe.example).macs
    assert found.causal.macs == small < outcome.dense.cost.macs
    for rung in found.rungs:
        assert 0.99 * small <= rung.macs <= small
        assert None not in stations(found, rung.units, rung.widths)


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_equal_shares_are_cut_repaired_and_tuned_as_the_arms_are(recipe: Recipe, mode: str) -> None:
    made = Made(replace(recipe, mode=mode))  # type: ignore[arg-type]
    found = made.known()
    small = count_cost(remove(recipe.dense, made.plan), recipe.example).macs
    share = small / made.outcome.dense.cost.macs
    for name, seed in (("magnitude", None), ("random", 7)):
        theirs = score(made.graph, made.moments, method=name, seed=seed or 0)
        literal = run_arm(
            made.recipe,
            plan(made.graph, theirs, keep_macs=share + 1e-9),
            name=name,
            importance=name,
            seed=seed,
            mode=mode,  # type: ignore[arg-type]
        )
        assert stations(found, name, "equal") == values(literal)
        removed = remove(recipe.dense, plan(made.graph, theirs, keep_macs=share + 1e-9))
        rung = found.rung(name, "equal")
        assert rung is not None and rung.macs == count_cost(removed, recipe.example).macs


def test_only_new_networks_are_run_and_each_reads_a_test_image_once(recipe: Recipe) -> None:
    made = Made(recipe)
    state = {key: value.clone() for key, value in recipe.dense.state_dict().items()}
    kept, random_state = dict(made.plan.kept_units), torch.get_rng_state()
    for counted in (recipe.data.test, recipe.data.train, recipe.data.validation):
        counted.fetched.clear()
    made.known()
    assert recipe.data.test.fetched == Counter(dict.fromkeys(range(40), 2))
    assert recipe.data.train.fetched == Counter(dict.fromkeys(range(60), 2)), "one epoch each"
    assert not recipe.data.validation.fetched
    assert all(torch.equal(value, state[key]) for key, value in recipe.dense.state_dict().items())
    assert made.plan.kept_units == kept and torch.equal(torch.get_rng_state(), random_state)
    assert made.scores.curves, "those of the caller stay"


def test_what_is_cut_here_may_go_untuned(recipe: Recipe) -> None:
    made = Made(recipe)
    recipe.data.train.fetched.clear()
    found = made.known(tuned=False)
    assert not recipe.data.train.fetched
    tuned = {key: stations(found, *key)[-1] is not None for key in keys(found)}
    assert tuned == {key: key[1] == "curves" for key in ALL}
    assert stations(found, "magnitude", "equal")[:3] == stations(made.known(), "magnitude", "equal")[:3]


def test_more_random_networks_make_a_mean(recipe: Recipe) -> None:
    bare = replace(recipe, tuning=Tuning(epochs=0))
    made = Made(bare, asked=Rivals(random_seeds=3))
    found = made.known(seeds=2).rung("random", "equal")
    assert found is not None and found.seeds == (7, 8) and found.fine_tuned is None
    first, second = (
        run_arm(
            bare,
            plan(made.graph, rival.scores, keep_macs=macs_kept(made.graph, made.plan)),
            name="random",
            importance="random",
            seed=rival.seed,
            mode="remove",
        )
        for rival in made.rivals[:2]
    )
    assert [rival.seed for rival in made.rivals[:2]] == [7, 8]
    assert found.cut == pytest.approx((first.stages.cut.value + second.stages.cut.value) / 2)


@pytest.mark.parametrize("arms", [("causal",), ("causal", "random"), ("causal", "magnitude")])
def test_arms_that_were_not_asked_for_are_made(recipe: Recipe, arms: tuple[str, ...]) -> None:
    made = Made(replace(recipe, tuning=Tuning(epochs=0)), asked=Rivals(arms=arms, random_seeds=2))  # type: ignore[arg-type]
    recipe.data.test.fetched.clear()
    found = made.known()
    assert keys(found) == ALL
    new = 2 + (3 - len(arms))
    assert recipe.data.test.fetched == Counter(dict.fromkeys(range(40), new))
    rung = found.rung("random", "curves")
    assert rung is not None and rung.seeds == ((7, 8) if "random" in arms else (7,))
    assert {rung.macs for rung in found.rungs[2:]} == {found.causal.macs}


@pytest.mark.parametrize(
    ("compensation", "missing"),
    [("least_squares", ()), ("batchnorm", ("least_squares",)), ("none", ("batchnorm", "least_squares"))],
)
@pytest.mark.parametrize("epochs", [0, 1])
def test_stations_are_those_of_the_repair(
    recipe: Recipe, compensation: str, missing: tuple[str, ...], epochs: int
) -> None:
    made = Made(
        replace(recipe, repair=Repair(compensation=compensation), tuning=Tuning(epochs=epochs, lr=0.05))  # type: ignore[arg-type]
    )
    gone = (*missing, *(() if epochs else ("fine_tuned",)))
    for rung in made.known().rungs:
        for name in ("cut", "batchnorm", "least_squares", "fine_tuned"):
            assert (rung.at(name) is None) is (name in gone)  # type: ignore[arg-type]


@pytest.mark.parametrize("importance", list(METHODS))
@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_every_importance_has_a_ladder(recipe: Recipe, importance: str, mode: str) -> None:
    quick = replace(recipe, tuning=Tuning(epochs=0), repair=Repair(compensation="batchnorm"), mode=mode)  # type: ignore[arg-type]
    made = Made(quick, importance=importance)
    found = made.known()
    if made.scores.curves:
        assert keys(found) == ALL
    elif importance == "magnitude":
        assert keys(found) == [("random", "equal"), ("causal", "equal")]
        same = "an equal share from every group"
        assert found.left_out == (f"magnitude with {same}: the same units as causal with {same}",)
    else:
        assert keys(found) == [("magnitude", "equal"), ("random", "equal"), ("causal", "equal")]
    assert found.causal.importance == importance
    assert {rung.macs for rung in found.rungs if rung.widths == found.causal.widths} == {found.causal.macs}


@pytest.mark.parametrize(
    "target", [{"keep_macs": 0.3}, {"keep_params": 0.4}, {"remove_filters": 0.4}, {"keep_macs": 0.97}]
)
@pytest.mark.parametrize("align", [1, 4])
def test_macs_are_equal_whatever_the_target_was(recipe: Recipe, target: dict[str, float], align: int) -> None:
    made = Made(
        replace(recipe, tuning=Tuning(epochs=0), repair=Repair(compensation="none")), align=align, **target
    )
    found = made.known()
    small = made.outcome.causal.cost.macs
    assert all(0.99 * small <= rung.macs <= small for rung in found.rungs)


def test_where_silent_filters_went_or_none_there_is_no_ladder(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(replace(recipe, tuning=Tuning(epochs=0), repair=Repair(compensation="none")))
    silent = replace(made.plan, target=replace(made.plan.target, kind="remove_silent"))
    made.plan = silent
    assert made.ladder() is None
    everything = {group.name: tuple(range(group.size)) for group in made.graph.prunable}
    made.plan = replace(
        made.plan, target=replace(silent.target, kind="remove_filters"), kept_units=everything
    )
    assert made.ladder() is None


def test_a_target_that_equal_shares_cannot_meet_is_told(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Made(replace(recipe, tuning=Tuning(epochs=0), repair=Repair(compensation="none")))

    def refused(*given: object, **options: object) -> PruningPlan:
        raise TargetError("keep_macs=0.1 is out of reach: between 0.2 and 1 can be kept here")

    monkeypatch.setattr(ladder, "plan", refused)
    found = made.known()
    assert keys(found) == ALL[2:]
    why = "with an equal share from every group: keep_macs=0.1 is out of reach: between 0.2 and 1 can be kept here"
    assert found.left_out == (f"magnitude {why}", f"random {why}")


def test_a_network_of_one_group_has_nothing_to_spread(recipe: Recipe) -> None:
    made = Made(replace(recipe, tuning=Tuning(epochs=0), repair=Repair(compensation="none")))
    frozen = trace(recipe.dense, recipe.example, freeze=["0", "3", "8"])
    made.graph, made.moments = frozen, observe(recipe.dense, frozen, loader(recipe.data.calibration))
    made.scores = score(frozen, made.moments)
    made.plan = plan(frozen, made.scores, keep_macs=0.6)
    made.rivals = rivals_of(frozen, made.moments, Rivals(random_seeds=2), 7)
    made.outcome = run_arms(made.recipe, frozen, made.plan, "structural", made.rivals)
    recipe.data.test.fetched.clear()
    found = made.known()
    assert keys(found) == ALL[2:] and not recipe.data.test.fetched
    assert found.left_out == tuple(
        f"{name} with an equal share from every group: the same units as {name} with widths from the curves"
        for name in ("magnitude", "random")
    )


def test_an_error_has_a_ladder_as_well(recipe: Recipe) -> None:
    def numbered(images: Counted) -> TensorDataset:
        return TensorDataset(images.images, images.images.mean((1, 2, 3)))

    data = recipe.data
    splits = {name: numbered(getattr(data, name)) for name in ("train", "validation", "calibration", "test")}
    numbers = replace(data, **splits, classes=(), task=regression_task())
    with torch.random.fork_rng():
        torch.manual_seed(5)
        dense = nn.Sequential(*recipe.dense, nn.Linear(3, 1)).eval()
    made = Made(replace(recipe, data=numbers, dense=dense))
    found = made.known()
    assert keys(found) == ALL
    assert stations(found, "causal", "curves") == values(made.outcome.causal)
    assert all(rung.cut > 0 for rung in found.rungs)
