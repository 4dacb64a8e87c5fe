"""Which arms may be asked for."""

import pytest

from causal_prune.comparison.options import Rivals
from causal_prune.errors import InputError


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"arms": ("causal", "l1")}, "arms: causal,l1 is not a list of causal, random and magnitude"),
        ({"arms": ("random",)}, "arms: 'causal' is missing; it is what the other arms are compared with"),
        ({"arms": "causal,random,causal"}, "arms: causal,random,causal names an arm twice"),
        ({"random_seeds": 0}, "random_seeds: 0 is not a whole number of at least 1"),
    ],
)
def test_unknown_arms_and_no_seeds_are_refused(asked: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        Rivals(**asked)


def test_a_list_is_taken_as_text_too() -> None:
    assert Rivals(arms="causal, magnitude").arms == ("causal", "magnitude")
