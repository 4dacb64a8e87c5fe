"""The documented score against one literal regression per child filter."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causal_prune.errors import InputError
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.filter_graph import FilterGraph
from causal_prune.tracing.network_trace import trace

TRUE_PARENTS = {"stem": [], "a": ["stem"], "b": ["a"], "c": ["b", "stem"], "d": ["c"]}
CHAIN = {"stem": [], "a": ["stem"], "b": ["a"], "c": ["b"], "d": ["c"]}


def norms(net: nn.Module, images: Tensor) -> dict[str, np.ndarray]:
    """Frobenius norm of every filter's raw output, by convolution, from hooks of the test's own."""
    found: dict[str, np.ndarray] = {}
    handles = [
        module.register_forward_hook(
            lambda _, __, out, name=name: found.update(
                {name: out.double().square().sum((2, 3)).sqrt().numpy()}
            )
        )
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    return found


def literal(features: dict[str, np.ndarray], parents: dict[str, list[str]]) -> dict[str, np.ndarray]:
    """One regression with intercept for each filter of each child; minimum norm where it is not determined."""
    totals = {name: np.zeros(values.shape[1]) for name, values in features.items()}
    for child, sources in parents.items():
        if not sources:
            continue
        x = np.concatenate([features[name] for name in sources], axis=1)
        x = x - x.mean(axis=0)  # the same as an intercept that costs no norm
        for filter_ in range(features[child].shape[1]):
            y = features[child][:, filter_]
            coefficients = np.abs(np.linalg.lstsq(x, y - y.mean(), rcond=None)[0])
            start = 0
            for name in sources:
                width = features[name].shape[1]
                totals[name] += coefficients[start : start + width]
                start += width
    return {
        name: total / total.sum() if total.sum() > 0 else np.full_like(total, 1 / len(total))
        for name, total in totals.items()
    }


@pytest.mark.parametrize(("kind", "parents"), [("graph", TRUE_PARENTS), ("chain", CHAIN)])
def test_scores_are_the_literal_regressions(traced, kind: str, parents: dict[str, list[str]]) -> None:
    expected = literal(norms(traced.net, traced.images), parents)
    scores = score(traced.graph, traced.moments, method="documented", parents=kind)
    assert scores.layers.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(scores.layers[name], values, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(scores.layers["d"], 1 / 4, err_msg="no convolution reads d: all alike")
    np.testing.assert_allclose(scores.groups["stem"], expected["stem"] + expected["b"], rtol=1e-6)


def test_the_true_parents_are_the_default_and_differ_from_the_chain(traced) -> None:
    default, graph, chain = (
        score(traced.graph, traced.moments, method="documented", parents=kind).layers["stem"]
        for kind in (None, "graph", "chain")
    )
    assert torch.equal(default, graph)
    assert float((graph - chain).abs().max()) > 1e-3


def test_undetermined_equations_take_the_minimum_norm_solution(traced) -> None:
    net = copy.deepcopy(traced.net)
    with torch.no_grad():  # filter 1 repeats filter 0, filter 2 is dead
        net.stem.weight[1], net.stem.bias[1] = net.stem.weight[0], net.stem.bias[0]
        net.stem.weight[2] = net.stem.bias[2] = 0
    scores = score(traced.graph, observe(net, traced.graph, [traced.images]), method="documented")
    expected = literal(norms(net, traced.images), TRUE_PARENTS)
    for name, values in expected.items():
        np.testing.assert_allclose(scores.layers[name], values, rtol=1e-5, atol=1e-9)
    assert float(scores.layers["stem"][2]) < 1e-12
    np.testing.assert_allclose(scores.layers["stem"][0], scores.layers["stem"][1], rtol=1e-6)


def test_fewer_images_than_parents_are_a_warning_with_both_numbers(traced) -> None:
    images = traced.images[:6]
    moments = observe(traced.net, traced.graph, [images])
    with pytest.warns(
        UserWarning, match="6 images cannot determine the equations of .*, which has"
    ) as caught:
        scores = score(traced.graph, moments, method="documented")
    texts = [str(warning.message) for warning in caught]
    assert any("of a, which has 6 parents" in text for text in texts)
    assert any("of c, which has 12 parents" in text for text in texts)
    assert not any("of b," in text for text in texts), "6 images determine 5 parents"
    assert all(warning.filename == __file__ for warning in caught)
    expected = literal(norms(traced.net, images), TRUE_PARENTS)
    for name, values in expected.items():
        np.testing.assert_allclose(scores.layers[name], values, rtol=1e-5, atol=1e-9)


def test_one_image_is_refused(traced) -> None:
    moments = observe(traced.net, traced.graph, [traced.images[:1]])
    with pytest.raises(InputError, match="one image determines no equation"):
        score(traced.graph, moments, method="documented")


def plain(graph_of: nn.Module, images: Tensor) -> tuple[FilterGraph, Tensor]:
    graph = trace(graph_of, images[:1])
    scores = score(graph, observe(graph_of, graph, [images]), method="documented")
    return graph, scores.layers["0"]


def test_the_score_is_bound_to_scale_as_its_docstring_says() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1))
        images = torch.randn(40, 1, 7, 7)
    scaled = copy.deepcopy(net)
    with torch.no_grad():
        scaled[0].weight[1] *= 8
        scaled[0].bias[1] *= 8
        scaled[2].weight[:, 1] /= 8
        assert torch.equal(net(images), scaled(images)), "the function is the same"
    before, after = plain(net, images)[1], plain(scaled, images)[1]
    ratio = (after[1] / after[0]) / (before[1] / before[0])
    assert float(ratio) == pytest.approx(1 / 8, rel=1e-6)
