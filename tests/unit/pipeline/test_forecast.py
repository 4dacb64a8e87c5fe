"""What a run will do and about how long: names that agree with the steps that run, and times that follow the work."""

from typing import Any

import pytest
import torch
from torch import nn

from causal_prune.data.data import Data
from causal_prune.pipeline.forecast import forecast, seconds_per_image, sizes_forecast, steps_of
from causal_prune.pipeline.options import Options
from causal_prune.pipeline.steps import recipe_of

CASES: list[dict[str, Any]] = [
    {}, {"evidence": "none"}, {"evidence": "full"}, {"evidence": "full", "explain": ("saliency",)},
    {"explain": ("saliency",)}, {"max_drop": 0.1}, {"keep_latency": 0.5}, {"epochs": 2}, {"arms": ("causal",)},
]  # fmt: skip


@pytest.mark.parametrize("given", CASES)
def test_the_steps_are_named_before_anything_is_known(
    net: nn.Module, data: Data, given: dict[str, Any]
) -> None:
    options = Options(**given)
    steps = forecast(recipe_of(net, data, options), options, 1e-4)
    assert [each.name for each in steps] == steps_of(options)
    assert all(each.expected is not None and each.expected >= 0 for each in steps)
    assert {each.part for each in steps} == (
        {"result"} if given.get("evidence") == "none" else {"result", "evidence"}
    )


def test_more_work_takes_longer(net: nn.Module, data: Data) -> None:
    def seconds(part: str, image: float = 0.01, **given: Any) -> float:
        options = Options(**given)
        steps = forecast(recipe_of(net, data, options), options, image)
        return sum(each.expected or 0 for each in steps if each.part == part)

    assert seconds("result", 0.02) > seconds("result")
    assert seconds("result", epochs=5) > seconds("result")
    assert seconds("result", max_drop=0.01) > seconds("result")
    assert seconds("evidence", evidence="full", random_seeds=9) > seconds("evidence", evidence="full")
    assert seconds("evidence") <= seconds("result") + 2.0, (
        "by itself no longer than the result, and the report"
    )


def test_sizes_take_as_long_as_their_networks(net: nn.Module, data: Data) -> None:
    recipe = recipe_of(net, data, Options())
    one, six = (
        {each.name: each.expected or 0 for each in sizes_forecast(recipe, 0.01, count)} for count in (1, 6)
    )
    assert one.keys() == six.keys()
    assert sum(name for name in one.values()) < sum(six.values()) < 6 * sum(one.values())


def test_a_pass_is_timed_without_a_trace(net: nn.Module, data: Data) -> None:
    recipe = recipe_of(net, data, Options())
    before = {key: value.clone() for key, value in recipe.dense.state_dict().items()}
    state = torch.get_rng_state()
    assert 0 < seconds_per_image(recipe) < 1
    assert all(torch.equal(value, recipe.dense.state_dict()[key]) for key, value in before.items())
    assert torch.equal(state, torch.get_rng_state())
