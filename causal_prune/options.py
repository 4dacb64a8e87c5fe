"""Options: what a value may be, and one list of them as keywords, flags, a file and JSON."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, NoReturn, Self, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from causal_prune.errors import InputError, nearest

Part = TypeVar("Part", bound="OptionValues")


@dataclass(frozen=True)
class Must:
    """What a value has to be; completes the sentence "VALUE is not ..."."""

    text: str


@dataclass(frozen=True)
class Flag:
    """How an option is written on the command line, where that does not follow from its name and type.

    Attributes:
        name: Of the flag and of the key in a file, with underscores; empty for the option's own.
        default: Words for the default in the help, where the value does not say it.
        alone: What the flag means without a value; empty where it needs one.
        off: What `--no-NAME` means; empty where there is no such flag.
        repeated: Whether the flag may be given more than once.
        hidden: Whether the command line sets it by itself.
    """

    name: str = ""
    default: str = ""
    alone: str = ""
    off: str = ""
    repeated: bool = False
    hidden: bool = False


class OptionError(InputError):
    """A value that an option cannot have.

    Args:
        option: The option's name.
        trouble: What is wrong with it.
    """

    def __init__(self, option: str, trouble: str) -> None:
        super().__init__(f"{option}: {trouble}")
        self.option, self.trouble = option, trouble


def _no_bool(value: object) -> object:
    # Python counts True as 1; `epochs = true` in a file is a mistake.
    if isinstance(value, bool):
        raise PydanticCustomError("truth_value", "a truth value is no number")
    return value


def _bytes(value: object) -> object:
    return TypeAdapter(ByteSize).validate_python(_no_bool(value))


def listed_in(value: object) -> object:
    """Take `1,2`, as the command line gives a list.

    Args:
        value: What was given.

    Returns:
        A list of texts; `value` itself where it is no text.
    """
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def names_in(value: object) -> object:
    """Take `a,b`, and what a repeated flag gives: ["a", "b,c"].

    Args:
        value: What was given.

    Returns:
        A list of names; `value` itself where it is nothing of the kind.
    """
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        return value
    return [name.strip() for part in parts for name in part.split(",") if name.strip()]


def _pairs(value: object) -> object:
    """Take a table, whose values have their types, and what a repeated flag gives: ["k=v", ...], all text."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        return value
    pairs = [str(pair).partition("=") for pair in value]
    if not all(key and sign for key, sign, _ in pairs):
        raise PydanticCustomError("pairs", "not of the form k=v")
    return {key.strip(): value_in(text) for key, _, text in pairs}


def value_in(text: str) -> JsonValue:
    """The value that a text stands for: JSON's or Python's numbers, truth values, null, lists and tables.

    Args:
        text: As it was typed.

    Returns:
        The value; everything else is the text itself, and a text in double quotes the text between them.

    Example:
        >>> [value_in(text) for text in ("[8, 16]", "true", "None", "1e-3", "wide", '"10"')]
        [[8, 16], True, None, 0.001, 'wide', '10']
    """
    try:
        return _json(text)
    except (ValueError, RecursionError):
        pass
    try:
        value = ast.literal_eval(text)
        bare = isinstance(value, str) or (isinstance(value, tuple) and not text.lstrip().startswith("("))
        return text if bare else _json(json.dumps(value, allow_nan=False))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return text


def _json(text: str) -> JsonValue:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is a text")

    value: JsonValue = json.loads(text, parse_constant=refuse)
    return value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Count = Annotated[Whole, Field(ge=0), Must("a whole number of at least 0")]
Natural = Annotated[Whole, Field(ge=1), Must("a whole number of at least 1")]
Seed = Annotated[Whole, Field(ge=0, lt=2**32), Must("a whole number from 0 to 4294967295")]
Share = Annotated[Number, Field(gt=0, lt=1), Must("between 0 and 1")]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Switch = Annotated[bool, Must("true or false")]
Text = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Text, ...], BeforeValidator(names_in)]
Numbers = Annotated[tuple[Number, ...], BeforeValidator(listed_in), Field(min_length=1)]
Deviations = Annotated[
    tuple[Annotated[Number, Field(gt=0)], ...], BeforeValidator(listed_in), Field(min_length=1)
]
Shape = Annotated[tuple[Natural, Natural, Natural], BeforeValidator(listed_in)]
Pairs = Annotated[dict[str, JsonValue], BeforeValidator(_pairs)]


class OptionValues(BaseModel):
    """Options as one frozen value: checked when it is made, JSON and back.

    A wing declares those that it owns; a list of all is their union, in which every option has one name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell the first mistake as the project tells errors."""
        try:
            return handler(values)
        except ValidationError as cause:
            first = cause.errors()[0]
            name = str(first["loc"][0]) if first["loc"] else ""
            if first["type"] == "extra_forbidden":
                raise InputError(f"unknown option '{name}'{nearest(name, cls.model_fields)}") from cause
            raise OptionError(name, f"{shown(values[name])} is not {must_be(cls, name)}") from cause

    def part(self, kind: type[Part]) -> Part:
        """The options of one wing alone.

        Args:
            kind: Whose fields are among these.

        Returns:
            A value of that kind.
        """
        return kind.model_construct(**{name: getattr(self, name) for name in kind.model_fields})

    def by_key(self) -> dict[str, JsonValue]:
        """The options as a file writes them.

        Returns:
            Plain values by key, with underscores; without options that the command line sets by itself.
        """
        plain = self.model_dump(mode="json")
        flags = {name: flag_of(type(self), name) for name in plain}
        return {flag.name: plain[name] for name, flag in flags.items() if not flag.hidden}

    def to_json(self) -> str:
        """The options as JSON.

        Returns:
            One object, a key per option; `from_json` makes the same value of it.
        """
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Args:
            text: JSON.

        Returns:
            The options.

        Raises:
            InputError: If it is no JSON of such options.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as cause:
            raise InputError(f"options: not JSON of {cls.__name__} ({cause.errors()[0]['msg']})") from cause


def must_be(kind: type[OptionValues], name: str) -> str:
    """What a value of an option has to be.

    Args:
        kind: The list of options.
        name: One of them.

    Returns:
        The end of the sentence "VALUE is not ...".
    """
    found = [each for each in kind.model_fields[name].metadata if isinstance(each, Must)]
    return found[-1].text


def flag_of(kind: type[OptionValues], name: str) -> Flag:
    """How an option is written on the command line.

    Args:
        kind: The list of options.
        name: One of them.

    Returns:
        Its flag, with a name.
    """
    given = [each for each in kind.model_fields[name].metadata if isinstance(each, Flag)]
    flag = given[-1] if given else Flag()
    return flag if flag.name else replace(flag, name=name)


def shown(value: object) -> str:
    """A value in an error.

    Args:
        value: What was given.

    Returns:
        Lists as the command line takes them.
    """
    if isinstance(value, list | tuple | str) and not value:
        return "an empty text" if isinstance(value, str) else "an empty list"
    return ",".join(str(part) for part in value) if isinstance(value, list | tuple) else str(value)
