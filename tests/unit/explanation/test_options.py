"""The option that asks for maps: every way to write it, and the one list of methods."""

from typing import get_args

import pytest

from causal_prune.errors import InputError
from causal_prune.explanation.map_drift import MAPPED
from causal_prune.explanation.options import USUAL, MapMethod, Reasons


def test_the_option_knows_just_the_methods_that_there_are() -> None:
    assert get_args(MapMethod) == tuple(MAPPED)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (True, USUAL), (False, ()), ("none", ()), ("cam", ("cam",)), ("cam,saliency", ("cam", "saliency")),
        (["cam", "saliency"], ("cam", "saliency")), ((), ()), ("grad-cam,cam,grad_cam", ("grad_cam", "cam")),
        ("all", get_args(MapMethod)),
    ],
)  # fmt: skip
def test_ways_to_write_it(given: object, meant: tuple[str, ...]) -> None:
    options = Reasons(explain=given)
    assert options.explain == meant and Reasons.from_json(options.to_json()) == options


@pytest.mark.parametrize("wrong", ["gradcam", 3, ["cam", "lime"], "activation_maximisation", ["cam", 3]])
def test_what_is_no_method_is_refused(wrong: object) -> None:
    with pytest.raises(InputError, match="explain: .* is not a list of saliency, .*, information_bottleneck"):
        Reasons(explain=wrong)
