"""PCACE against a literal walk: one filter at a time, scikit-learn's PCA and ACE."""

import numpy as np
import pytest
import torch
from ace.ace import ACESolver
from sklearn.decomposition import PCA
from torch import nn

from causal_prune.errors import InputError
from causal_prune.importance import pcace
from causal_prune.importance.pcace import correlation, principal_components
from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace


def solved(components: list[np.ndarray], logits: np.ndarray) -> ACESolver:
    solver = ACESolver()
    solver.specify_data_set(components, logits)
    solver.solve()
    return solver


@pytest.fixture
def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        net = nn.Sequential(
            nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(4, 3),
        )  # fmt: skip
        images = torch.randn(60, 1, 8, 8) * torch.linspace(0.2, 3, 60).reshape(-1, 1, 1, 1)
    return net.eval(), images, torch.tensor([0, 1, 1] * 20)


def test_scores_are_the_literal_walk_above_chance(trained, capsys: pytest.CaptureFixture[str]) -> None:
    net, images, labels = trained
    with torch.no_grad():
        net[0].weight[3] = net[0].bias[3] = 0
    graph = trace(net, images[:1])
    batches = [(images[:25], labels[:25]), (images[25:], labels[25:])]
    found = score(graph, observe(net, graph, [images]), method="pcace", model=net, labelled=batches)
    assert capsys.readouterr().out == ""
    chosen = images[labels == 1]
    with torch.no_grad():
        first = net[0](chosen)
        maps = {"0": first, "2": net[2](torch.relu(first))}
        logits = net(chosen)[:, 1].double().numpy()
    literal = {}
    for name, output in maps.items():
        values = []
        for filter_ in range(output.shape[1]):
            x = output[:, filter_].flatten(1).double().numpy()
            if np.ptp(x) == 0:
                values.append(0.0)
                continue
            x = (x - x.mean(axis=0)) / x.std(axis=0)
            parts = PCA(3, svd_solver="full").fit_transform(x).T
            parts = [part * np.sign(part[np.abs(part).argmax()]) for part in parts]
            solver = solved(parts, logits)
            values.append(np.corrcoef(np.sum(solver.x_transforms, axis=0), solver.y_transform)[0, 1])
        literal[name] = np.array(values)
    floor = {}
    for name, values in literal.items():
        scores = found.groups[name].numpy()
        floor[name] = float((values - scores)[scores > 0].mean())
    assert floor["0"] == pytest.approx(floor["2"], rel=1e-3) and 0.1 < floor["0"] < 0.95, "one floor for all"
    for name, values in literal.items():
        expected = np.maximum(values - floor["0"], 0)
        np.testing.assert_allclose(found.groups[name], expected, rtol=1e-3, atol=1e-3)
    assert float(found.groups["0"][3]) == 0 and float(found.groups["0"].max()) > 0.05


def test_the_floor_is_what_permuted_logits_give() -> None:
    generator = np.random.default_rng(0)
    parts = [generator.normal(size=300) for _ in range(3)]
    noise = [correlation(parts, generator.permutation(np.linspace(-1, 1, 300))) for _ in range(4)]
    assert 0.3 < np.mean(noise) < 0.5, "of 300 images and 3 components that have nothing to do with the logit"


def test_a_signal_in_the_second_component_counts() -> None:
    generator = np.random.default_rng(1)
    parts = [generator.normal(size=300) for _ in range(3)]
    logits = parts[1] ** 2 + 0.05 * generator.normal(size=300)
    assert correlation(parts, logits) > 0.97
    solver = solved(parts, logits)
    first = abs(np.corrcoef(solver.x_transforms[0], solver.y_transform)[0, 1])
    assert first < 0.4, "the published script would look at this one alone"


def test_what_does_not_vary_has_no_components() -> None:
    assert principal_components(torch.full((20, 9), 0.37)) == []
    assert correlation([], np.arange(20.0)) == 0
    assert correlation([np.arange(20.0)], np.ones(20)) == 0
    line = torch.arange(20.0)[:, None] * torch.tensor([1.0, -2.0, 0.0])
    assert len(principal_components(line)) == 1


def test_maps_come_from_one_pass(trained) -> None:
    net, images, labels = trained
    graph = trace(net, images[:1])
    moments = observe(net, graph, [images])
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    score(graph, moments, method="pcace", model=net, labelled=[(images, labels)])
    assert len(calls) == 1


def test_too_few_images_of_a_class_are_refused(trained) -> None:
    net, images, _ = trained
    graph = trace(net, images[:1])
    moments = observe(net, graph, [images])
    labelled = [(images[:18], torch.arange(18) % 2)]
    with pytest.raises(InputError, match="no class has 10 images, which importance 'pcace' needs; .* has 9"):
        score(graph, moments, method="pcace", model=net, labelled=labelled)
    with pytest.raises(InputError, match="label -1 in batch 1 is below 0"):
        score(graph, moments, method="pcace", model=net, labelled=[(images, torch.full((60,), -1))])
    assert pcace.FEWEST == 10
