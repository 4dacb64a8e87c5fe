"""The contract that every entry of METHODS keeps."""

import copy
import re

import pytest
import torch
import typer.main
from torch import Tensor, nn

from causal_prune.command_line.commands import app_for
from causal_prune.errors import InputError
from causal_prune.importance.methods import METHODS, WITH_LABELS
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace

every_method = pytest.mark.parametrize("method", METHODS)
TOLD_APART = dict.fromkeys(METHODS, ("stem", "a", "c")) | {
    "pcace": (),  # an untrained network's maps hardly follow its logits: most do not exceed chance
    "batchnorm_scale": (),  # fresh scales are all 1
    "ablation": (),  # an untrained network is better off without half of them: they score 0
}
NEEDS_IMAGES = sorted(WITH_LABELS)
NEEDS_NETWORK = (*NEEDS_IMAGES, "batchnorm_scale")


@every_method
def test_scores_have_one_finite_number_per_unit(traced, method: str) -> None:
    scores = score(traced.graph, traced.moments, method=method, model=traced.net, labelled=traced.labelled)
    assert scores.method == method and scores.unit
    assert {name: len(values) for name, values in scores.groups.items()} == {
        group.name: group.size for group in traced.graph.prunable
    }
    assert {group.name for group in traced.graph.prunable} == {"stem", "a", "c", "d", "hidden"}
    for values in scores.groups.values():
        assert values.dtype == torch.float64 and values.dim() == 1
        assert bool(values.isfinite().all()) and bool((values >= 0).all())
    assert all(len(scores.groups[name].unique()) > 3 for name in TOLD_APART[method])
    for name, values in scores.layers.items():
        assert values.dtype == torch.float64 and values.shape == (traced.graph.layers[name].filters,)
    assert {"stem", "a", "b", "c", "d"} <= scores.layers.keys()


@every_method
def test_the_same_seed_gives_the_same_scores_and_nothing_else_changes(traced, method: str) -> None:
    state, random_state = copy.deepcopy(traced.net.state_dict()), torch.get_rng_state()
    given = {"model": traced.net, "labelled": traced.labelled}
    once, again = (score(traced.graph, traced.moments, method=method, seed=5, **given) for _ in range(2))
    fresh = observe(traced.net, traced.graph, traced.images.split(25))
    third = score(traced.graph, fresh, method=method, seed=5, **given)
    for name, values in once.groups.items():
        assert torch.equal(values, again.groups[name]) and torch.equal(values, third.groups[name])
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(torch.equal(value, state[key]) for key, value in traced.net.state_dict().items())
    assert not traced.net.training
    assert all(parameter.grad is None for parameter in traced.net.parameters())


@pytest.mark.parametrize("method", NEEDS_IMAGES)
def test_images_that_are_none_and_batches_without_labels_are_named(traced, method: str) -> None:
    with pytest.raises(InputError, match="there are no images"):
        score(traced.graph, traced.moments, method=method, model=traced.net, labelled=[])
    unlabelled = [traced.images]
    with pytest.raises(InputError, match="batch 1 of the loader has no labels"):
        score(traced.graph, traced.moments, method=method, model=traced.net, labelled=unlabelled)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in NEEDS_NETWORK])
def test_the_others_need_neither(traced, method: str) -> None:
    assert score(traced.graph, traced.moments, method=method).method == method


def permuted(net: nn.Module, layer: str, readers: dict[str, Tensor], order: Tensor) -> nn.Module:
    """The same function with a layer's filters in another order; `readers` says where each reads them."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for label, parameter in other.get_submodule(layer).named_parameters():
            parameter.copy_(net.get_submodule(layer).get_parameter(label)[order])
        for name, columns in readers.items():
            weight = other.get_submodule(name).weight
            weight.copy_(net.get_submodule(name).weight[:, columns])
    return other


PERMUTABLE = [(name, "graph") for name in METHODS if name not in ("random", "iba", "pcace")] + [
    ("documented", "chain")
]
# the noise of iba is drawn channel by channel: see test_iba; that of pcace for filters spread over the ranks, where
# rounding may swap two of like rank: see test_pcace


@pytest.mark.parametrize(("method", "parents"), PERMUTABLE)
@pytest.mark.parametrize("layer", ["a", "d", "hidden"])
def test_scores_follow_a_permutation_of_filters(traced, layer: str, parents: str, method: str) -> None:
    orders = {
        "a": torch.tensor([3, 0, 4, 1, 2]),
        "d": torch.tensor([2, 3, 1, 0]),
        "hidden": torch.tensor([4, 6, 1, 0, 5, 2, 3]),
    }
    order = orders[layer]
    reader = {"a": "b", "d": "hidden", "hidden": "head"}[layer]
    columns = (order[:, None] * 4 + torch.arange(4)).flatten() if layer == "d" else order
    net = traced.net
    if layer == "d":  # filters may only change places within a block: make it a dense layer first
        net = copy.deepcopy(net)
        net.d = nn.Conv2d(8, 4, 2)
        nn.init.normal_(net.d.weight, generator=torch.Generator().manual_seed(1))
    other = permuted(net, layer, {reader: columns}, order)
    with torch.no_grad():
        torch.testing.assert_close(other(traced.images), net(traced.images), rtol=1e-5, atol=1e-5)
    found = []
    for each in (net, other):
        graph = trace(each, traced.images[:1])
        moments = observe(each, graph, [traced.images])
        given = {"model": each, "labelled": traced.labelled}
        found.append(score(graph, moments, method=method, parents=parents, **given).groups)
    for name, values in found[0].items():
        expected = values[order] if name == layer else values
        torch.testing.assert_close(found[1][name], expected, rtol=1e-4, atol=1e-9)


def test_the_command_line_names_every_method_and_no_other() -> None:
    run = typer.main.get_command(app_for(["run"])).commands["run"]
    text = next(option.help for option in run.params if option.name == "importance")
    named = re.findall(r"\w+", text.partition(".")[0])
    assert {word for word in named if word != "or"} == set(METHODS)
