"""The options of `causal-prune run`: from a TOML file and from flags, checked together."""

import codecs
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from causal_prune.errors import InputError
from causal_prune.options import Flag, OptionError, OptionValues, Switch, flag_of, shown
from causal_prune.pipeline import Options
from causal_prune.planning import NOT_ASKED, SETTLED
from causal_prune.sources import Source

INHERITED = {*Source.model_fields, "seed"} - {"from_bundle", "weights"}
"""What `--from` takes over from the configuration of a bundle."""


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
        if self.dry_run and self.max_drop is not None:
            raise InputError("`dry_run`: cannot tell `max_drop` without repairing; give `keep_macs`")
        return self

    @model_validator(mode="after")
    def _no_weights_are_given_in_vain(self) -> Self:
        if self.from_bundle is not None and self.weights is not None:
            raise InputError("`weights`: the bundle of `from_bundle` holds its own; give one of the two")
        return self


def keys() -> dict[str, str]:
    """What every option is called on the command line and in a file.

    Returns:
        Field by key, with underscores; options that the command sets by itself are absent.
    """
    flags = {name: flag_of(RunSettings, name) for name in RunSettings.model_fields}
    return {flag.name: name for name, flag in flags.items() if not flag.hidden}


def negations() -> dict[str, tuple[str, object]]:
    """The keys that turn an option off, as `no_distill` does.

    Returns:
        By key: the key of the option, and what it is when it is off.
    """
    known = {
        key: (RunSettings.model_fields[name], flag_of(RunSettings, name)) for key, name in keys().items()
    }
    switches = {f"no_{key}": (key, False) for key, (field, _) in known.items() if field.annotation is bool}
    return {**switches, **{f"no_{key}": (key, flag.off) for key, (_, flag) in known.items() if flag.off}}


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

    A target among the flags replaces whichever target the file has; a list or table replaces the whole one of the file.

    Args:
        config: A TOML file whose keys are the flags without `--`, with dashes or underscores; paths in it
            count from the working folder.
        flags: Key (with dashes or underscores) to value; None and an empty tuple, which a command gives for what was
            not typed, mean not given, and a text is parsed.

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
        from_file = {**_source_of(Path(str(bundle)).expanduser()), **from_file}
    if any(from_flags.get(name) not in NOT_ASKED for name in SETTLED):
        from_file = {key: value for key, value in from_file.items() if key not in SETTLED}
    try:
        return RunSettings.model_validate({**from_file, **from_flags})
    except OptionError as error:
        inside = f" (in {config})" if error.option in from_file and error.option not in from_flags else ""
        flag, _, trouble = in_flags(f"{error.option}: {error.trouble}").partition(": ")
        raise InputError(f"{flag}{inside}: {trouble}") from error
    except InputError as error:
        raise InputError(in_flags(str(error))) from error


def _source_of(bundle: Path) -> dict[str, object]:
    file = bundle / "config.toml"
    if not file.is_file():
        raise InputError(
            f"--from: {bundle} has no config.toml that tells its model and data: "
            "give the folder of a bundle that `causal-prune run` wrote"
        )
    # what a bundle was itself made from is no source of it: it holds its weights
    told = dict(_known(_read(file), place=f"{file}: "))
    return {name: told[name] for name in told if name in INHERITED}


def _known(values: Mapping[str, object], *, place: str) -> Iterator[tuple[str, object]]:
    """Fields and values; a key that is unknown, given in two spellings or contradicted by its `no-` is refused."""
    known, off = keys(), negations()
    spelt = {key: key if place else "--" + key.replace("_", "-") for key in values}
    seen: dict[str, str] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known and name not in off:
            spelling = [*known, *(off if name.startswith("no") else ())]
            hint = _nearest(key, spelling, bare=bool(place))
            raise InputError(f"{place}unknown key '{spelt[key]}'{hint}")
        if name in off and not isinstance(value, bool):
            raise InputError(f"{place}{spelt[key]}: {shown(value)} is not true or false")
        option, meant = off.get(name, (name, value))
        if name in off and value is False:
            continue  # the same as not written
        if option in seen:
            other, two = seen[option], "with a dash and with an underscore"
            if other.replace("-", "_") != name:
                raise InputError(f"{place}{spelt[other]} and {spelt[key]} contradict each other; give one")
            raise InputError(f"{place}key '{spelt[key]}' is given twice, {two}")
        seen[option] = key
        yield known[option], meant


def _nearest(key: str, known: Iterable[str], *, bare: bool) -> str:
    """The key that was meant, written as the user wrote it."""
    close = get_close_matches(key.replace("-", "_"), list(known), n=1)
    if not close:
        return ""
    dashed = close[0].replace("_", "-")
    return f"; did you mean '{(dashed if '-' in key else close[0]) if bare else f'--{dashed}'}'?"


def _read(config: Path) -> dict[str, object]:
    try:
        content = config.read_bytes()
        # editors of Windows mark their files
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return tomllib.loads(content.decode("utf-16" if wide else "utf-8-sig").replace("\r\n", "\n"))
    except (OSError, UnicodeDecodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "not UTF-8"
        raise InputError(f"--config: {config} cannot be read: {reason}") from cause
    except tomllib.TOMLDecodeError as cause:
        raise InputError(f"--config: {config} is no TOML: {cause}") from cause
