"""What can be cut can also be observed, scored and repaired, whatever the network looks like."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from causal_prune.compensation.compensation import repair
from causal_prune.importance.scoring import score
from causal_prune.network.running import call
from causal_prune.observation.filter_moments import observe
from causal_prune.planning.unit_choice import plan
from causal_prune.surgery.removal import remove
from causal_prune.tracing.network_trace import trace
from tests.zoo.layers import LAYERS
from tests.zoo.nested import finite, resampled
from tests.zoo.patterns import PATTERNS, Pattern

IMAGES, BATCHES = 16, 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers of eight channels are not worth two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, and of too few images


def outputs(model: nn.Module, inputs: object) -> list[Tensor]:
    with torch.no_grad():
        return [each.double() for each in tree_leaves(call(model, inputs)) if isinstance(each, Tensor)]


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(pattern, marks=() if pattern in LAYERS else pytest.mark.slow, id=pattern.name)
        for pattern in PATTERNS
    ],
)
def test_is_nearer_to_the_dense_network_afterwards(pattern: Pattern) -> None:
    torch.manual_seed(0)
    model = pattern.make().eval()
    graph = trace(model, pattern.example)
    if not graph.prunable:
        return
    size = IMAGES if pattern.any_batch else None

    def batch(seed: int) -> object:
        inputs = resampled(pattern.example, size, seed, sign=1.0)
        return (inputs, torch.zeros(IMAGES)) if isinstance(inputs, (tuple, dict)) else inputs

    calibration = [batch(seed) for seed in range(BATCHES)]
    scores = score(graph, observe(model, graph, calibration))
    assert all(bool(values.isfinite().all()) for values in scores.groups.values())
    small = remove(model, plan(graph, scores, remove_filters=0.4))
    found = repair(small, model, calibration)
    repaired = found.model
    assert finite(repaired.state_dict())
    if any("rows of calibration data for" in layer.remark for layer in found.layers):
        return  # too few images for the layer behind a flattened map: it says so
    probes = [resampled(pattern.example, size, seed, sign=1.0) for seed in (100, 101)]
    cut, now = (
        sum(
            float((x - y).square().sum())
            for probe in probes
            for x, y in zip(outputs(net, probe), outputs(model, probe), strict=True)
        )
        for net in (small, repaired)
    )
    assert now <= 1.02 * cut + 1e-6
