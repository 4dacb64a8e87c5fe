"""Verbs that take their options as one value or as keywords."""

import inspect
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from pydantic import Field
from torch import nn

from causal_prune.data.data import Data
from causal_prune.errors import InputError
from causal_prune.options import Natural, OptionValues, Switch
from causal_prune.pipeline.flow import compress
from causal_prune.pipeline.keywords import described, keywords_of
from causal_prune.pipeline.options import Options
from tests.unit.counted_images import Counted


class Baking(OptionValues):
    panel: ClassVar[str] = "Heat"

    degrees: Annotated[Natural, Field(description="How hot.")] = 180
    fan: Annotated[Switch, Field(description="Whether air moves.")] = True
    tin: Annotated[Path | None, Field(description="What it stands in.")] = None


class Roasting(Baking):
    turns: Annotated[Natural, Field(description="How often it is turned.")] = 2


STANDARD = Baking()
UNBUILT = "pydantic builds a class at its first use, and tells its signature only then"


@keywords_of(Baking)
def bake(model: nn.Module, data: Data, options: Baking) -> tuple[nn.Module, Data, Baking]:
    """Bake a network.

    Args:
        model: The dough.
        data: The recipe.
        options: How.

    Returns:
        What was given.
    """
    return model, data, options


IMAGES = Counted(1, 1)
MODEL, DATA = nn.Identity(), Data(IMAGES, IMAGES, IMAGES, IMAGES, ("a",), "noise", "one image")
ANY_BAKE: Any = bake
"""The same, for calls that a type checker would refuse."""


def test_options_and_their_fields_are_two_ways_to_say_the_same() -> None:
    options = Baking(degrees=200, fan=False)
    assert bake(MODEL, DATA, options) == (MODEL, DATA, options)
    assert bake(MODEL, DATA, degrees=200, fan=False) == (MODEL, DATA, options)
    assert bake(MODEL, DATA) == (MODEL, DATA, STANDARD)
    assert ANY_BAKE(model=MODEL, data=DATA, degrees=200, fan=False) == (MODEL, DATA, options)


def test_one_value_is_passed_on_as_it_is_even_where_it_holds_more() -> None:
    more = Roasting(turns=5)
    assert bake(MODEL, DATA, more)[2] is more


@pytest.mark.parametrize(
    ("given", "keywords"),
    [
        ((Baking(), Baking()), {}),
        ((Baking(),), {"fan": False}),
        ((200,), {}),
        (({"degrees": 200},), {}),
        ((None,), {}),
        ((Options(),), {}),
    ],
)
def test_anything_between_the_two_is_refused(given: tuple[Any, ...], keywords: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="^give one Baking, or its fields as keywords$"):
        ANY_BAKE(MODEL, DATA, *given, **keywords)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"degree": 200}, "unknown option 'degree'; did you mean 'degrees'?"),
        ({"degrees": 0}, "degrees: 0 is not a whole number of at least 1"),
    ],
)
def test_keywords_are_checked_as_options_are(keywords: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(text)}$"):
        ANY_BAKE(MODEL, DATA, **keywords)


def test_the_signature_shows_every_option_with_its_type_and_default() -> None:
    shown = inspect.signature(ANY_BAKE)
    assert list(shown.parameters) == ["model", "data", "degrees", "fan", "tin"]
    fields = list(shown.parameters.values())[2:]
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in fields)
    assert [(each.annotation, each.default) for each in fields] == [
        (int, 180),
        (bool, True),
        (Path | None, None),
    ]
    assert shown.return_annotation == tuple[nn.Module, Data, Baking]


def test_the_help_is_that_of_the_verb_and_of_every_option() -> None:
    assert ANY_BAKE.__name__ == "bake"
    assert ANY_BAKE.__doc__.startswith("Bake a network.\n\nArgs:\n    model: The dough.")
    assert ANY_BAKE.__doc__.endswith(f"\n\nOptions:\n{described(Baking)}")


def test_options_are_described_in_their_order_a_line_each() -> None:
    assert described(Baking).splitlines() == [
        "    degrees (default 180): How hot.",
        "    fan (default True): Whether air moves.",
        "    tin (default None): What it stands in.",
    ]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason=UNBUILT)
def test_compress_shows_all_its_options() -> None:
    shown: Any = compress
    assert all(f"    {name} (default " in shown.__doc__ for name in Options.model_fields)
    assert list(inspect.signature(shown).parameters) == ["model", "data", *Options.model_fields]


@pytest.mark.xfail(strict=True, raises=KeyError, reason=UNBUILT)
def test_options_need_not_have_been_used_before() -> None:
    class Frying(OptionValues):
        panel: ClassVar[str] = "Heat"

        oil: Annotated[Natural, Field(description="How much.")] = 1

    @keywords_of(Frying)
    def fry(model: nn.Module, data: Data, options: Frying) -> Frying:
        """Fry a network."""
        return options

    verb: Any = fry
    assert list(inspect.signature(verb).parameters) == ["model", "data", "oil"]
