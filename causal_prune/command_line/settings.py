"""The options of `causal-prune run`: from a TOML file and from flags, checked together."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from causal_prune.errors import InputError
from causal_prune.options import Flag, OptionError, OptionValues, Switch, flag_of
from causal_prune.pipeline import Options
from causal_prune.planning import TARGETS
from causal_prune.sources import Source


class Printing(OptionValues):
    """What the command prints, and whether it does more than that."""

    panel: ClassVar[str] = "Output"

    dry_run: Annotated[Switch, Field(description="Plan and print the widths; write nothing.")] = False
    # `json` itself would shadow a method of pydantic
    print_json: Annotated[
        Switch, Flag("json"), Field(description="Print JSON on stdout instead of tables.")
    ] = False


class RunSettings(Printing, Options, Source):
    """What one run does: where network and images come from, all options of `compress`, and what is printed."""

    @model_validator(mode="after")
    def _planned_without_timing(self) -> Self:
        if self.dry_run and self.keep_latency is not None:
            raise InputError("`dry_run`: cannot tell `keep_latency` without exporting; give `keep_macs`")
        return self


def keys() -> dict[str, str]:
    """What every option is called on the command line and in a file.

    Returns:
        Field by key, with underscores; options that the command sets by itself are absent.
    """
    flags = {name: flag_of(RunSettings, name) for name in RunSettings.model_fields}
    return {flag.name: name for name, flag in flags.items() if not flag.hidden}


def in_flags(text: str, more: Mapping[str, str] | None = None) -> str:
    """Tell an error of the library to somebody at a shell: its arguments become flags.

    Args:
        text: Of the error. Arguments stand at its beginning, before a colon, or in backticks.
        more: Flags of commands other than `run`, by argument.

    Returns:
        The same with `--flags`.

    Example:
        >>> in_flags("keep_macs: 2 is not between 0 and 1; give `keep_params`")
        '--keep-macs: 2 is not between 0 and 1; give --keep-params'
    """
    flags = {**(more or {}), **{name: "--" + key.replace("_", "-") for key, name in keys().items()}}
    text = re.sub(r"^([a-z_]+)(?=: )", lambda found: flags.get(found[1], found[1]), text)
    return re.sub(r"`([a-z_]+)`", lambda found: flags.get(found[1], found[0]), text)


def load_settings(config: Path | None = None, flags: Mapping[str, object] | None = None) -> RunSettings:
    """Read the settings of a run from a TOML file and from flags; flags win.

    A target among the flags replaces whichever target the file has.

    Args:
        config: A TOML file whose keys are the flags without `--`, with dashes or underscores; paths in it
            count from the working folder.
        flags: Key (with dashes or underscores) to value; None means not given, and a text is parsed.

    Returns:
        The settings.

    Raises:
        InputError: If the file cannot be read, a key is unknown, a value is wrong (named by its flag), or
            two targets are given.

    Example:
        >>> load_settings(flags={"keep-params": "0.3"}).asked
        ('keep_params', 0.3)
    """
    from_file = {} if config is None else dict(_known(_read(config), place=f"{config}: "))
    given = {key: value for key, value in (flags or {}).items() if value is not None and value != ()}
    from_flags = dict(_known(given, place=""))
    bundle = {**from_file, **from_flags}.get("from_bundle")
    if bundle is not None:
        from_file = {**_source_of(Path(str(bundle))), **from_file}
    if any(name in from_flags for name in TARGETS):
        from_file = {key: value for key, value in from_file.items() if key not in TARGETS}
    try:
        return RunSettings.model_validate({**from_file, **from_flags})
    except OptionError as error:
        inside = f" (in {config})" if error.option in from_file and error.option not in from_flags else ""
        flag, _, trouble = in_flags(f"{error.option}: {error.trouble}").partition(": ")
        raise InputError(f"{flag}{inside}: {trouble}") from error
    except InputError as error:
        raise InputError(in_flags(str(error))) from error


def source_config(settings: RunSettings) -> str:
    """Where network and images come from, as a bundle keeps it.

    Args:
        settings: The settings of a run.

    Returns:
        TOML that `load_settings` reads; paths count from the folder in which the run was started.
    """
    kept = [name for name in (*Source.model_fields, "seed") if name in settings.model_fields_set]
    lines = ["# Where network and images came from; `causal-prune run --from` reads it."]
    for name in kept:
        value = getattr(settings, name)
        if value is not None and name not in ("from_bundle", "weights"):
            lines.append(f"{flag_of(RunSettings, name).name} = {_in_toml(value)}")
    return "\n".join(lines) + "\n"


def _in_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return (
            "{" + ", ".join(f"{json.dumps(str(key))} = {_in_toml(each)}" for key, each in value.items()) + "}"
        )
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_in_toml, value)) + "]"
    return repr(value) if isinstance(value, int | float) else json.dumps(str(value))


def _source_of(bundle: Path) -> dict[str, object]:
    file = bundle / "config.toml"
    if not file.is_file():
        raise InputError(
            f"--from: {bundle} has no config.toml that tells its model and data: "
            "give the folder of a bundle that `causal-prune run` wrote"
        )
    return dict(_known(_read(file), place=f"{file}: "))


def _known(values: Mapping[str, object], *, place: str) -> Iterator[tuple[str, object]]:
    """Fields and values; a key that is unknown, or given in two spellings, is refused."""
    known = keys()
    seen: set[str] = set()
    for key, value in values.items():
        name = key.replace("-", "_")
        spelt = key if place else "--" + key.replace("_", "-")
        if name not in known:
            close = get_close_matches(name, known, n=1)
            # The suggestion is written as the user wrote the key.
            near = (close[0].replace("_", "-") if "-" in key else close[0]) if close else ""
            hint = f"; did you mean '{near if place else '--' + near.replace('_', '-')}'?" if close else ""
            raise InputError(f"{place}unknown key '{spelt}'{hint}")
        if name in seen:
            raise InputError(f"{place}key '{spelt}' is given twice, with a dash and with an underscore")
        seen.add(name)
        yield known[name], value


def _read(config: Path) -> dict[str, object]:
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "not UTF-8"
        raise InputError(f"--config: {config} cannot be read: {reason}") from cause
    except tomllib.TOMLDecodeError as cause:
        raise InputError(f"--config: {config} is no TOML: {cause}") from cause
