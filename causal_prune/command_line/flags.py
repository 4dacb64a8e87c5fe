"""Flags made from the options: names, defaults, help and groups are written once, where an option is declared."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from keyword import iskeyword
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from annotated_types import Gt, Lt
from pydantic.fields import FieldInfo

from causal_prune.command_line.settings import RunSettings, keys, negations
from causal_prune.options import Flag, flag_of

Command = TypeVar("Command", bound=Callable[..., int])
LONGEST_CHOICES = 16
PANELS = ("What", "How small", "How", "Evidence", "Machine", "Output")


def with_flags(*names: str) -> Callable[[Command], Command]:
    """Give a command the flags of some options, and `--config`.

    Args:
        *names: Options that it has; none for all.

    Returns:
        A decorator of a function (context, config), with further parameters of its own where it has some; it finds what
        was typed of the options with `typed`.
    """
    wanted = [name for name in keys().values() if not names or name in names]
    wanted.sort(key=lambda name: PANELS.index(_panel(name)))

    def decorate(command: Command) -> Command:
        own = inspect.signature(command)
        made = [parameter for name in wanted for parameter in _parameters(name)]
        context, *declared = own.parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [context, *made, *(each.replace(kind=keyword) for each in declared)]

        def run(ctx: typer.Context, **typed: Any) -> int:
            return command(ctx, **{each.name: typed[each.name] for each in declared})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run  # type: ignore[return-value]

    return decorate


def typed(ctx: typer.Context) -> dict[str, object]:
    """The flags that the user typed.

    Args:
        ctx: Of a command with flags.

    Returns:
        Value by key, also of keys that turn an option off; flags that were not typed are absent.
    """
    flags = {*keys(), *negations()}
    params = {key.removesuffix("_"): value for key, value in ctx.params.items()}
    return {key: value for key, value in params.items() if key in flags and value not in (None, (), [])}


def stand_alone(arguments: Sequence[str]) -> Iterator[str]:
    """Give flags that may stand alone the value that they then mean.

    Args:
        arguments: As they were typed.

    Yields:
        The arguments.
    """
    alone = {dashed(flag.name): flag.alone for flag in map(_flag, keys().values()) if flag.alone}
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=False):
        yield f"{argument}={alone[argument]}" if argument in alone and following.startswith("-") else argument


def dashed(key: str) -> str:
    """A key as its flag.

    Args:
        key: Such as `keep_macs`.

    Returns:
        Such as `--keep-macs`.
    """
    return "--" + key.replace("_", "-")


def _flag(name: str) -> Flag:
    return flag_of(RunSettings, name)


def _panel(name: str) -> str:
    owner = next(kind for kind in reversed(RunSettings.__mro__) if name in inspect.get_annotations(kind))
    return str(owner.panel)  # type: ignore[attr-defined]


def _parameters(name: str) -> Iterator[inspect.Parameter]:
    field, flag, panel = RunSettings.model_fields[name], _flag(name), _panel(name)
    default = flag.default or _told(field.get_default(call_default_factory=True))
    text = (field.description or "").replace("`out`", "--out")
    if field.annotation is bool:
        both = f"{dashed(flag.name)}/{dashed(f'no_{flag.name}')}" if default == "true" else dashed(flag.name)
        yield _parameter(flag.name, bool | None, both, text, panel, "")
        if default != "true":  # what a file turns on must be turned off here, but few look for that
            off = f"no_{flag.name}"
            yield _parameter(
                off, bool | None, dashed(off), f"Not {dashed(flag.name)}.", panel, "", hidden=True
            )
        return
    shown = text if not default or flag.alone else f"{text} [dim]\\[default: {default}][/]"
    kind = list[str] | None if flag.repeated else str | None
    value = "[HOW]" if flag.alone else _metavar(field)
    yield _parameter(flag.name, kind, dashed(flag.name), shown, panel, value)
    if flag.off:
        off, text = f"no_{flag.name}", f"The same as {dashed(flag.name)} {flag.off}."
        yield _parameter(off, bool | None, dashed(off), text, panel, "")


def _metavar(field: FieldInfo) -> str:
    """What stands for a value of an option in the help, from the option's type."""
    base, bounds = _peeled(field.annotation)
    bounds += list(field.metadata)
    if get_origin(base) is Literal:
        choices = "|".join(map(str, get_args(base)))
        return choices if len(choices) <= LONGEST_CHOICES else "NAME"
    if get_origin(base) is tuple:
        first, count = _peeled(get_args(base)[0])[0], get_args(base)
        one = "NAME" if first is str or get_origin(first) is Literal else "N" if first is int else "NUMBER"
        return ",".join([one] * 3) if Ellipsis not in count else f"{one},..."
    if get_origin(base) is dict:
        return "K=V"
    if base is float:
        return "SHARE" if any(isinstance(each, Lt) for each in bounds) else "NUMBER"
    if base is int and any(isinstance(each, Gt) for each in bounds):  # bytes: other numbers start at 0 or 1
        return "SIZE"
    return {Path: "PATH", int: "N", str: "NAME"}.get(base, "VALUE")


def _peeled(kind: Any) -> tuple[Any, list[Any]]:
    """A type without what it is annotated with, and without None or a word beside it."""
    bounds: list[Any] = []
    while True:
        if get_origin(kind) is Annotated:
            kind, *more = get_args(kind)
            bounds += [
                bound for each in more for bound in (each.metadata if isinstance(each, FieldInfo) else [each])
            ]
        elif get_origin(kind) in (Union, UnionType):
            # of "auto" or a number the number says more
            there = [each for each in get_args(kind) if each is not type(None)]
            kind = next((each for each in there if get_origin(each) is not Literal), there[0])
        else:
            return kind, bounds


def _parameter(
    key: str,
    kind: Any,
    spelt: str,
    text: str,
    panel: str,
    metavar: str | None = None,
    *,
    hidden: bool = False,
) -> inspect.Parameter:
    option = typer.Option(
        spelt, help=text, rich_help_panel=panel, show_default=False, metavar=metavar, hidden=hidden
    )
    keyword = inspect.Parameter.KEYWORD_ONLY
    key = f"{key}_" if iskeyword(key) else key  # such as `from`
    return inspect.Parameter(key, keyword, default=None, annotation=Annotated[kind, option])


def _told(default: object) -> str:
    if isinstance(default, bool):
        return "true" if default else ""
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return "" if default is None or default == {} else str(default)
