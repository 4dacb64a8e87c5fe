"""A verb that takes one value of options takes its fields as keywords too, with their types, defaults and help."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar, cast, get_type_hints, overload

from torch import nn

from causal_prune.data import Data
from causal_prune.options import OptionValues

Keywords = ParamSpec("Keywords")
Values = TypeVar("Values", bound=OptionValues, contravariant=True)
Result = TypeVar("Result", covariant=True)


class Verb(Protocol[Values, Keywords, Result]):
    """A verb on a network and its data: options as one value, or as keywords."""

    @overload
    def __call__(self, model: nn.Module, data: Data, options: Values, /) -> Result: ...
    @overload
    def __call__(
        self, model: nn.Module, data: Data, *args: Keywords.args, **kwargs: Keywords.kwargs
    ) -> Result: ...


def keywords_of(
    make: Callable[Keywords, Values],
) -> Callable[[Callable[[nn.Module, Data, Values], Result]], Verb[Values, Keywords, Result]]:
    """Let a verb (model, data, options) take the fields of its options as keywords.

    Type checkers see the fields with their types, `help` and `inspect.signature` show them with their defaults.

    Args:
        make: The class of the options.

    Returns:
        A decorator.
    """
    kind = cast(type[OptionValues], make)

    def decorate(verb: Callable[[nn.Module, Data, Values], Result]) -> Verb[Values, Keywords, Result]:
        @wraps(verb)
        def taking_either(model: nn.Module, data: Data, *given: Any, **keywords: Any) -> Result:
            if given and (keywords or len(given) > 1 or not isinstance(given[0], kind)):
                raise TypeError(f"give one {kind.__name__}, or its fields as keywords")
            return verb(model, data, given[0] if given else cast(Any, make)(**keywords))

        own = inspect.signature(verb)
        first = list(own.parameters.values())[:2]
        plain = get_type_hints(kind)
        fields = [
            each.replace(annotation=plain[name]) for name, each in inspect.signature(kind).parameters.items()
        ]
        taking_either.__signature__ = own.replace(parameters=[*first, *fields])  # type: ignore[attr-defined]
        taking_either.__doc__ = f"{inspect.getdoc(verb)}\n\nOptions:\n{described(kind)}"
        return cast(Verb[Values, Keywords, Result], taking_either)

    return decorate


def described(kind: type[OptionValues]) -> str:
    """Every option with its default and what it is for.

    Args:
        kind: The list of options.

    Returns:
        A line per option.
    """
    return "\n".join(
        f"    {name} (default {field.get_default(call_default_factory=True)!r}): {field.description}"
        for name, field in kind.model_fields.items()
    )
