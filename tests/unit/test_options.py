"""Options: what a value may be, errors in a user's words, JSON, the options of one wing."""

import json
import math
import re
from typing import Annotated, Any, ClassVar, Literal, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from causal_prune import options
from causal_prune.errors import InputError
from causal_prune.options import Flag, Must, OptionError, OptionValues, flag_of, must_be, names_in, shown


class Oven(OptionValues):
    panel: ClassVar[str] = "Heat"

    degrees: Annotated[options.Natural, Field(description="How hot.")] = 180
    fan: Annotated[options.Switch, Flag("no_steam"), Field(description="Blow.")] = True
    shelves: Annotated[options.Names, Must("a list of shelves"), Flag(repeated=True)] = ()


class Timer(OptionValues):
    panel: ClassVar[str] = "Time"

    minutes: Annotated[options.Natural | Literal["auto"], Must("'auto' or whole minutes")] = "auto"
    sizes: Annotated[options.Pairs, Must("of the form k=v"), Field(default_factory=dict)]

    @model_validator(mode="after")
    def _not_for_ever(self) -> Self:
        if self.minutes == 1000:
            raise InputError("minutes: 1000 burns everything")
        return self


class Kitchen(Timer, Oven):
    pass


VALUES: list[tuple[str, object, object]] = [
    ("Count", 0, 0), ("Count", "3", 3), ("Natural", 2.0, 2), ("Seed", 2**32 - 1, 2**32 - 1),
    ("Share", "0.25", 0.25), ("Number", -3, -3.0), ("Text", "a", "a"), ("Switch", "false", False),
    ("Bytes", 7, 7), ("Bytes", "4GB", 4 * 10**9), ("Bytes", "512MiB", 512 * 2**20), ("Bytes", "1.5 kB", 1500),
    ("Names", "a, b,,c", ("a", "b", "c")), ("Names", ["a", "b,c"], ("a", "b", "c")), ("Names", (), ()),
    ("Numbers", "0.5, -1", (0.5, -1.0)), ("Numbers", [1], (1.0,)), ("Deviations", "0.5,2", (0.5, 2.0)),
    ("Shape", "3, 8,9", (3, 8, 9)), ("Shape", [3, 8, 9], (3, 8, 9)),
    ("Pairs", ["k=v", "name=a=b", " e ="], {"k": "v", "name": "a=b", "e": ""}),
    ("Pairs", {"k": 1, "t": True, "n": None, "f": 0.5}, {"k": 1, "t": True, "n": None, "f": 0.5}),
    ("Pairs", {"k": "10", "l": [1, {"a": "true"}]}, {"k": "10", "l": [1, {"a": "true"}]}),
    ("Pairs", ["a=[8,16]", "b=true", "c=null", "d=None", "e=-1e3", "f={\"x\": [1]}", "g=(1, 2)", "h=\"10\""],
     {"a": [8, 16], "b": True, "c": None, "d": None, "e": -1000.0, "f": {"x": [1]}, "g": [1, 2], "h": "10"}),
    ("Pairs", ["a=[8,", "b=TRUE", "c=NaN", "d=a b", "e='x'", "f=1,2", "g=[a]"],
     {"a": "[8,", "b": "TRUE", "c": "NaN", "d": "a b", "e": "'x'", "f": "1,2", "g": "[a]"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "given_value", "expected"), VALUES)
def test_values_are_read_as_a_shell_a_file_or_python_write_them(
    kind: str, given_value: object, expected: Any
) -> None:
    found = TypeAdapter(getattr(options, kind)).validate_python(given_value)
    assert found == expected and type(found) is type(expected)
    if isinstance(expected, dict):
        assert {key: type(value) for key, value in found.items()} == {k: type(v) for k, v in expected.items()}


REFUSED: list[tuple[str, object]] = [
    ("Whole", True), ("Whole", 2.5), ("Whole", "two"), ("Number", True), ("Number", math.nan), ("Number", "inf"),
    ("Count", -1), ("Natural", 0), ("Natural", False), ("Seed", -1), ("Seed", 2**32), ("Share", 0), ("Share", 1),
    ("Share", True), ("Bytes", 0), ("Bytes", -1), ("Bytes", True), ("Bytes", "much"), ("Switch", "perhaps"),
    ("Switch", 2), ("Text", ""), ("Text", 3), ("Names", 3), ("Names", ["a", 3]), ("Names", {"a": "b"}),
    ("Numbers", ""), ("Numbers", []), ("Numbers", "1,"), ("Numbers", [True]), ("Deviations", "1,0"),
    ("Deviations", [-1]), ("Shape", "3,8"), ("Shape", "3,8,8,8"), ("Shape", "3,8,0"), ("Pairs", "k=v"),
    ("Pairs", ["k"]), ("Pairs", ["=v"]), ("Pairs", {"k": {1}}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), REFUSED)
def test_values_of_another_kind_are_refused(kind: str, value: object) -> None:
    with pytest.raises(ValidationError, match=r"^\d+ validation error"):
        TypeAdapter(getattr(options, kind)).validate_python(value)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(alphabet="ab.1", min_size=1)))
def test_names_are_the_same_in_one_text_and_in_many(names: list[str]) -> None:
    assert names_in(",".join(names)) == names_in(names) == names


def test_what_is_no_list_of_names_is_passed_on() -> None:
    assert names_in(3) == 3 and names_in(["a", 3]) == ["a", 3] and names_in(None) is None


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"degrees": 0}, "degrees: 0 is not a whole number of at least 1"),
        ({"minutes": "long", "degrees": 90}, "minutes: long is not 'auto' or whole minutes"),
        ({"fan": "maybe"}, "fan: maybe is not true or false"),
        ({"shelves": ["a", 3]}, "shelves: a,3 is not a list of shelves"),
        ({"sizes": {"a": {1}}}, "sizes: {'a': {1}} is not of the form k=v"),
        ({"sizes": ["a"]}, "sizes: a is not of the form k=v"),
    ],
)
def test_a_wrong_value_is_told_by_its_option_and_what_it_must_be(values: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError, match=f"^{re.escape(text)}$") as caught:
        Kitchen(**values)
    assert (caught.value.option, caught.value.trouble) == tuple(text.split(": ", 1))
    assert isinstance(caught.value.__cause__, ValidationError)


@pytest.mark.parametrize(
    ("name", "hint"), [("degree", "; did you mean 'degrees'?"), ("zzz", ""), ("panel", ""), ("no_steam", "")]
)
def test_an_unknown_option_is_refused_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=rf"^unknown option '{name}'{hint.replace('?', '[?]')}$"):
        Kitchen.model_validate({name: 1})


def test_an_error_of_a_wing_comes_through_as_it_is() -> None:
    with pytest.raises(InputError, match="^minutes: 1000 burns everything$"):
        Kitchen(minutes=1000, sizes={})


def test_options_are_frozen_and_defaults_not_shared() -> None:
    first, second = Kitchen(sizes={}), Kitchen.model_validate({})
    assert first == second and first.sizes is not second.sizes
    with pytest.raises(ValidationError, match="frozen"):
        first.degrees = 3


def test_a_part_holds_the_fields_of_its_wing_alone() -> None:
    whole = Kitchen(degrees=90, fan=False, minutes=5, sizes={"a": 1})
    assert whole.part(Oven) == Oven(degrees=90, fan=False)
    assert whole.part(Timer) == Timer(minutes=5, sizes={"a": 1})
    assert type(whole.part(Oven)) is Oven


def test_json_holds_every_option_and_gives_the_same_value() -> None:
    made = Kitchen(
        degrees=90, fan=False, shelves=("a", "b"), minutes=7, sizes={"a": None, "b": 1.0, "c": "1"}
    )
    assert Kitchen.from_json(made.to_json()) == made
    assert json.loads(Kitchen(sizes={}).to_json()).keys() == Kitchen.model_fields.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{",
            r"^options: not JSON of Kitchen \(Invalid JSON: EOF while parsing an object at line 1 column 1\)$",
        ),
        (
            "",
            r"^options: not JSON of Kitchen \(Invalid JSON: EOF while parsing a value at line 1 column 0\)$",
        ),
        ('{"degree": 3}', "^unknown option 'degree'; did you mean 'degrees'[?]$"),
        ('{"degrees": 1.5}', "^degrees: 1.5 is not a whole number of at least 1$"),
        ('{"degrees": true}', "^degrees: True is not a whole number of at least 1$"),
    ],
)
def test_json_that_is_none_of_the_options_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Kitchen.from_json(text)


@pytest.mark.xfail(
    strict=True, raises=TypeError, reason="the error is looked up in values that are no mapping"
)
@pytest.mark.parametrize("text", ["[1]", "3", "null", '"degrees"'])
def test_json_that_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="^options: not JSON of Kitchen"):
        Kitchen.from_json(text)


def test_flags_follow_from_the_option_unless_it_says_otherwise() -> None:
    assert flag_of(Kitchen, "degrees") == Flag("degrees")
    assert flag_of(Kitchen, "fan") == Flag("no_steam")
    assert flag_of(Kitchen, "shelves") == Flag("shelves", repeated=True)


def test_what_an_option_must_be_is_said_by_itself_or_by_its_type() -> None:
    assert must_be(Kitchen, "degrees") == "a whole number of at least 1"
    assert must_be(Kitchen, "fan") == "true or false"
    assert must_be(Kitchen, "minutes") == "'auto' or whole minutes"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", "an empty text"), ([], "an empty list"), ((), "an empty list"), (["a", 3], "a,3"), (0, "0"),
        ((0.5, 1), "0.5,1"), (None, "None"), ({}, "{}"), ("half", "half"), (math.nan, "nan"),
    ],
)  # fmt: skip
def test_values_are_shown_in_errors_as_a_shell_takes_them(value: object, expected: str) -> None:
    assert shown(value) == expected
