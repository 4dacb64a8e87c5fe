from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from causal_prune.comparison.arms import Recipe, cut, dense_arm, run_arm
from causal_prune.comparison.share_curve import CURVE_IMAGES, curve
from causal_prune.compensation.compensation import compensate
from causal_prune.data.data import loader
from causal_prune.importance.scores import FilterScores
from causal_prune.measure.accuracy import evaluate
from causal_prune.measure.cost import count_cost
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.pruning_plan import PruningPlan
from causal_prune.surgery.rebuilding import bundle_weights
from causal_prune.surgery.removal import remove
from causal_prune.surgery.silencing import zero, zero_masks
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace


class Counted(Dataset[tuple[Tensor, int]]):
    """Random images with labels that can be learned; counts how often each is fetched."""

    def __init__(self, size: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.images = torch.randn(size, 2, 6, 6, generator=draw)
        self.labels = (self.images.mean((2, 3))[:, 0] > 0).long() + (
            self.images.mean((2, 3))[:, 1] > 0
        ).long()
        self.fetched: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        self.fetched[index] += 1
        return self.images[index], int(self.labels[index])


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 10, 3), nn.BatchNorm2d(10), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3),
        ).eval()  # fmt: skip


@pytest.fixture
def recipe() -> Recipe:
    train = Counted(60, 1)
    example = torch.zeros(2, 2, 6, 6)
    return Recipe(
        network(), train, Counted(30, 2), Counted(40, 3), example, "least_squares", 1, 0.05, True, 7, "cpu"
    )


def scored(net: nn.Module, seed: int = 0) -> tuple[FilterGraph, FilterScores]:
    graph = trace(net, torch.zeros(1, 2, 6, 6))
    draw = torch.Generator().manual_seed(seed)
    groups = {g.name: torch.rand(g.size, generator=draw, dtype=torch.float64) for g in graph.prunable}
    return graph, FilterScores("test", "", groups, {})


def planned(net: nn.Module, share: float = 0.5) -> PruningPlan:
    return plan(*scored(net), remove_filters=share)


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_an_arm_reads_each_test_image_once_for_all_its_stages(recipe: Recipe, mode: str) -> None:
    arm = run_arm(recipe, planned(recipe.dense), name="causal", importance="test", seed=None, mode=mode)
    assert recipe.test.fetched == Counter(range(40))
    assert recipe.train.fetched == Counter(range(60)), "one epoch"
    assert arm.stages.keys() == {"cut", "batchnorm", "compensation", "end"}
    assert all(stage.total == 40 for stage in arm.stages.values())


@pytest.mark.parametrize("mode", ["remove", "zero"])
def test_the_stages_are_those_of_the_networks_on_the_way(recipe: Recipe, mode: str) -> None:
    chosen = planned(recipe.dense)
    before = {key: value.clone() for key, value in recipe.dense.state_dict().items()}
    arm = run_arm(recipe, chosen, name="random", importance="random", seed=4, mode=mode)
    after_cut = remove(recipe.dense, chosen) if mode == "remove" else zero(recipe.dense, chosen)
    repaired = compensate(after_cut, recipe.dense, loader(recipe.calibration), seed=recipe.seed)
    cheap = compensate(after_cut, recipe.dense, loader(recipe.calibration), method="batchnorm")
    stations = {"cut": after_cut, "batchnorm": cheap, "compensation": repaired, "end": arm.model}
    expected = evaluate(stations, loader(recipe.test))
    for stage, accuracy in expected.items():
        assert accuracy.predictions.tolist() == arm.stages[stage].predictions.tolist()
    pixels = torch.stack([recipe.test[index][0] for index in range(4)])
    with torch.no_grad():
        answers = {tuple(model.eval()(pixels).flatten().tolist()) for model in stations.values()}
    assert len(answers) == 4, "every step does something"
    assert (arm.name, arm.importance, arm.seed) == ("random", "random", 4)
    assert arm.cost == count_cost(arm.model, recipe.example)
    assert arm.cost.macs < count_cost(recipe.dense, recipe.example).macs or mode == "zero"
    assert not arm.model.training
    assert all(torch.equal(value, before[key]) for key, value in recipe.dense.state_dict().items())


def test_masks_hold_while_a_zeroed_network_is_tuned(recipe: Recipe) -> None:
    chosen = planned(recipe.dense)
    arm = run_arm(recipe, chosen, name="causal", importance="test", seed=None, mode="zero")
    masks, parameters = zero_masks(recipe.dense, chosen), dict(arm.model.named_parameters())
    assert masks.keys() == {"0.weight", "0.bias", "3.weight", "3.bias"}
    for name, mask in masks.items():
        assert mask.min() == 0 and not parameters[name][mask == 0].any()
        tuned = parameters[name][mask == 1] != recipe.dense.get_parameter(name)[mask == 1]
        assert name.endswith("bias") or bool(tuned.all()), "what was not silenced is trained"


def test_without_repair_and_tuning_the_stages_are_equal(recipe: Recipe) -> None:
    bare = replace(recipe, compensation="none", epochs=0)
    arm = run_arm(bare, planned(recipe.dense), name="causal", importance="test", seed=None, mode="remove")
    assert len({stage.predictions_sha256 for stage in arm.stages.values()}) == 1
    assert not recipe.train.fetched


def test_batch_norm_is_estimated_once_where_that_is_the_repair(recipe: Recipe) -> None:
    cheap = replace(recipe, compensation="batchnorm", epochs=0)
    arm = run_arm(cheap, planned(recipe.dense), name="causal", importance="test", seed=None, mode="remove")
    assert recipe.calibration.fetched == Counter(range(30))
    assert arm.stages.keys() == {"cut", "batchnorm", "compensation", "end"}
    assert arm.stages["batchnorm"].predictions_sha256 == arm.stages["compensation"].predictions_sha256


def test_the_teacher_makes_a_difference(recipe: Recipe) -> None:
    chosen = planned(recipe.dense)
    tuned = [
        run_arm(
            replace(recipe, distill=distill),
            chosen,
            name="causal",
            importance="test",
            seed=None,
            mode="remove",
        )
        for distill in (True, False, True)
    ]
    states = [arm.model[0].weight for arm in tuned]
    assert torch.equal(states[0], states[2]) and not torch.equal(states[0], states[1])


def test_the_dense_arm_is_the_network_itself(recipe: Recipe) -> None:
    arm = dense_arm(recipe)
    assert arm.model is recipe.dense and arm.name == "dense" and arm.importance is None
    assert arm.stages.keys() == {"end"}
    assert recipe.test.fetched == Counter(range(40))
    with torch.no_grad():
        expected = recipe.dense(recipe.test.images).argmax(1)
    assert arm.stages["end"].correct == int((expected == recipe.test.labels).sum())


def test_the_curve_is_measured_on_the_first_validation_images(recipe: Recipe) -> None:
    validation = Counted(CURVE_IMAGES + 20, 9)
    graph, scores = scored(recipe.dense)
    keys = [(0.3, "causal", 0), (0.6, "random", 2)]
    plans = {key: (lambda share=key[0]: plan(graph, scores, remove_filters=share)) for key in keys}
    found = curve(recipe, validation, plans, "remove")
    assert list(found) == keys
    assert validation.fetched == Counter(dict.fromkeys(range(CURVE_IMAGES), 2))
    assert not recipe.test.fetched and not recipe.train.fetched
    for key, make in plans.items():
        small = compensate(
            remove(recipe.dense, make()), recipe.dense, loader(recipe.calibration), method="batchnorm"
        )
        with torch.no_grad():
            hits = small(validation.images[:CURVE_IMAGES]).argmax(1) == validation.labels[:CURVE_IMAGES]
        assert found[key] == pytest.approx(float(hits.double().mean()))


def test_modes_cut_differently(recipe: Recipe) -> None:
    chosen = planned(recipe.dense)
    assert cut(recipe.dense, chosen, "remove")[0].out_channels == 4
    assert cut(recipe.dense, chosen, "zero")[0].out_channels == 8


def test_a_loader_keeps_the_order_unless_it_shuffles_by_its_seed() -> None:
    images = Counted(10, 1)
    batches = [labels.tolist() for _, labels in loader(images, batch=4)]
    assert list(map(len, batches)) == [4, 4, 2]
    assert [label for batch in batches for label in batch] == images.labels.tolist()
    state = torch.get_rng_state()
    shuffled = [loader(images, shuffle=True, seed=seed, batch=4) for seed in (1, 1, 2)]
    orders = [torch.cat([x[:, 0, 0, 0] for x, _ in batches]) for batches in shuffled]
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert torch.equal(orders[0].sort().values, images.images[:, 0, 0, 0].sort().values)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_last_batch_of_one_image_is_dropped_in_training_only() -> None:
    nine = Counted(9, 1)
    assert [len(x) for x, _ in loader(nine, shuffle=True, batch=4)] == [4, 4]
    assert [len(x) for x, _ in loader(nine, batch=4)] == [4, 4, 1]
    assert [len(x) for x, _ in loader(Counted(1, 1), shuffle=True, batch=4)] == [1]
    assert [len(x) for x, _ in loader(Counted(10, 1), shuffle=True, batch=4)] == [4, 4, 2]


def test_weights_are_written_whole(tmp_path: Path) -> None:
    net = network()
    net.add_module("again", net[0])
    bundle_weights(net, tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert state.keys() == net.state_dict().keys() and "again.weight" in state
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in state.items())
