import torch
from torch import nn

from causal_prune.importance.scoring import score
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace


def test_seeds_differ_and_the_global_generator_plays_no_part(traced) -> None:
    state = torch.get_rng_state()
    one, two = (score(traced.graph, traced.moments, method="random", seed=seed).groups for seed in (1, 2))
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        again = score(traced.graph, traced.moments, method="random", seed=1).groups
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not any(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(torch.get_rng_state(), state)


def test_coupled_filters_share_their_number_and_groups_are_independent(traced) -> None:
    scores = score(traced.graph, traced.moments, method="random", seed=3)
    assert torch.equal(scores.layers["stem"], scores.layers["b"])
    assert not torch.equal(scores.groups["stem"][:5], scores.groups["a"])


def test_numbers_are_uniform() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4000, 1), nn.Conv2d(4000, 1, 1))
    graph = trace(net, torch.zeros(1, 1, 1, 1))
    values = score(graph, observe(net, graph, [torch.ones(1, 1, 1, 1)]), method="random").groups["0"]
    assert 0 <= float(values.min()) < 0.01 and 0.99 < float(values.max()) < 1
    assert abs(float(values.mean()) - 0.5) < 0.02 and abs(float(values.var()) - 1 / 12) < 0.005
