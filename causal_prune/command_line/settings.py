"""The options of `causal-prune run`: from a TOML file and from flags, checked together."""

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from causal_prune.errors import InputError

TARGETS = ("keep_macs", "keep_params", "keep_latency", "remove_filters")


def _no_bool(value: object) -> object:
    # Python counts True as 1; `epochs = true` in a file is a mistake.
    if isinstance(value, bool):
        raise PydanticCustomError("truth_value", "a truth value is no number")
    return value


def _listed(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _names(value: object) -> object:
    """Take `a,b`, and what a repeated flag gives: ["a", "b,c"]."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        return value
    return [name.strip() for part in parts for name in part.split(",") if name.strip()]


def _pairs(value: object) -> object:
    """Take a table, and what a repeated flag gives: ["k=v", ...]."""
    if isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        return value
    pairs = [str(pair).partition("=") for pair in value]
    if not all(key and sign for key, sign, _ in pairs):
        raise PydanticCustomError("pairs", "not of the form k=v")
    return {key.strip(): text for key, _, text in pairs}


def _compensation(value: object) -> object:
    """Take true and false for the best repair and none."""
    return ("least-squares" if value else "none") if isinstance(value, bool) else value


Whole = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(gt=0, lt=1)]
Numbers = Annotated[tuple[Number, ...], BeforeValidator(_listed), Field(min_length=1)]
Deviations = Annotated[
    tuple[Annotated[Number, Field(gt=0)], ...], BeforeValidator(_listed), Field(min_length=1)
]
Pixels = Annotated[Whole, Field(ge=1)]
Shape = Annotated[tuple[Pixels, Pixels, Pixels], BeforeValidator(_listed)]
Text = Annotated[str, Field(min_length=1)]
Arm = Literal["causal", "random", "magnitude"]


class RunSettings(BaseModel):
    """What one run does. A field's description completes the sentence "VALUE is not ..." of its error.

    The fields are the flags with underscores; DESIGN and `causal-prune run --help` say what they mean.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Text | None = Field(default=None, description="the name of a model, such as torchvision:resnet18")
    model_arg: Annotated[dict[str, str | int | float | bool | None], BeforeValidator(_pairs)] = Field(
        default_factory=dict, description="of the form k=v, such as num_classes=10"
    )
    weights: Path | None = Field(default=None, description="the path of a file")
    data: Text = Field(default="digits", description="the name of data, such as imagefolder:DIR")
    mean: Numbers | None = Field(
        default=None, description="one number per channel, such as 0.485,0.456,0.406"
    )
    std: Deviations | None = Field(
        default=None, description="one number above 0 per channel, such as 0.229,0.224,0.225"
    )
    input_shape: Shape | None = Field(
        default=None, description="channels,height,width of at least 1, such as 3,224,224"
    )
    importance: Text = Field(default="structural", description="the name of a method")
    parents: Literal["chain", "graph"] | None = Field(default=None, description="'chain' or 'graph'")
    mode: Literal["remove", "zero"] = Field(default="remove", description="'remove' or 'zero'")
    keep_macs: Share | None = Field(default=None, description="between 0 and 1 (0.5 keeps half of the MACs)")
    keep_params: Share | None = Field(
        default=None, description="between 0 and 1 (0.5 keeps half of the parameters)"
    )
    keep_latency: Share | None = Field(
        default=None, description="between 0 and 1 (0.5 keeps half of the median latency)"
    )
    remove_filters: Share | None = Field(
        default=None, description="between 0 and 1 (0.3 removes three filters in ten)"
    )
    align: Literal["auto"] | Annotated[Whole, Field(ge=1)] = Field(
        default="auto", description="'auto' or a whole number of at least 1"
    )
    freeze: Annotated[tuple[Text, ...], BeforeValidator(_names)] = Field(
        default=(), description="a list of names of layers"
    )
    compensate: Annotated[Literal["least-squares", "batchnorm", "none"], BeforeValidator(_compensation)] = (
        Field(default="least-squares", description="least-squares, batchnorm or none")
    )
    calibration_images: Annotated[Whole, Field(ge=1)] = Field(
        default=2048, description="a whole number of at least 1"
    )
    max_memory: Annotated[ByteSize, BeforeValidator(_no_bool), Field(gt=0)] | None = Field(
        default=None, description="a number of bytes above 0, such as 4GB or 512MiB"
    )
    epochs: Annotated[Whole, Field(ge=0)] | None = Field(
        default=None, description="a whole number of at least 0"
    )
    distill: bool = Field(default=True, description="true or false")
    arms: Annotated[tuple[Arm, ...], BeforeValidator(_names)] = Field(
        default=("causal", "random", "magnitude"), description="a list of causal, random and magnitude"
    )
    random_seeds: Annotated[Whole, Field(ge=1)] = Field(default=5, description="a whole number of at least 1")
    seed: Annotated[Whole, Field(ge=0, lt=2**32)] = Field(
        default=0, description="a whole number from 0 to 4294967295"
    )
    threads: Annotated[Whole, Field(ge=1)] = Field(default=1, description="a whole number of at least 1")
    device: Annotated[str, Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$")] = Field(
        default="cpu", description="a device, such as cpu or cuda:0"
    )
    out: Path | None = Field(default=None, description="the path of a folder")
    dry_run: bool = Field(default=False, description="true or false")
    # `json` itself would shadow a method of pydantic.
    print_json: bool = Field(default=False, alias="json", description="true or false")

    @model_validator(mode="before")
    @classmethod
    def _one_target(cls, values: dict[str, object]) -> dict[str, object]:
        given = [name for name in TARGETS if values.get(name) is not None]
        if len(given) > 1:
            first, second = (flag_of(name) for name in given[:2])
            raise InputError(f"{first} and {second} are two targets; give one")
        return values if given else {**values, "keep_macs": 0.5}

    @model_validator(mode="after")
    def _arms_of_a_comparison(self) -> "RunSettings":
        if "causal" not in self.arms:
            raise InputError("--arms: 'causal' is missing; it is what the other arms are compared with")
        if len(set(self.arms)) < len(self.arms):
            raise InputError(f"--arms: {','.join(self.arms)} names an arm twice")
        return self

    @property
    def target(self) -> tuple[str, float]:
        """The kind of the one target that is set (`keep_macs` ...) and the share that it asks for."""
        shares = {name: getattr(self, name) for name in TARGETS}
        return next((name, share) for name, share in shares.items() if share is not None)


def flag_of(field: str) -> str:
    """Write the name of a setting as its flag.

    Args:
        field: Such as `keep_macs`.

    Returns:
        Such as `--keep-macs`.
    """
    return "--" + field.replace("_", "-")


def load_settings(config: Path | None = None, flags: Mapping[str, object] | None = None) -> RunSettings:
    """Read the settings of a run from a TOML file and from flags; flags win.

    A target among the flags replaces whichever target the file has.

    Args:
        config: A TOML file whose keys are the flags without `--`, with dashes or underscores; paths in it
            count from the working folder.
        flags: Setting (with dashes or underscores) to value; None means not given, and a text is parsed.

    Returns:
        The settings.

    Raises:
        InputError: If the file cannot be read, a key is unknown, a value is wrong (named by its flag), or
            two targets are given.

    Example:
        >>> load_settings(flags={"keep-params": "0.3"}).target
        ('keep_params', 0.3)
    """
    origin = f" (in {config})"
    from_file = {} if config is None else _known(_read(config), place=f"{config}: ")
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    from_flags = _known(given, place="")
    if any(name in from_flags for name in TARGETS):
        from_file = {key: value for key, value in from_file.items() if key not in TARGETS}
    try:
        return RunSettings.model_validate({**from_file, **from_flags})
    except ValidationError as cause:
        name = str(cause.errors()[0]["loc"][0])
        inside = origin if name in from_file and name not in from_flags else ""
        value = _shown({**from_file, **from_flags}[name])
        raise InputError(f"{flag_of(name)}{inside}: {value} is not {_descriptions()[name]}") from cause


def _descriptions() -> dict[str, str]:
    fields = RunSettings.model_fields
    return {field.alias or name: field.description or "" for name, field in fields.items()}


def _known(values: Mapping[str, object], *, place: str) -> dict[str, object]:
    known = _descriptions()
    result: dict[str, object] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        shown = key if place else flag_of(name)
        if name not in known:
            close = get_close_matches(name, known, n=1)
            # The suggestion is written as the user wrote the key.
            near = (close[0].replace("_", "-") if "-" in key else close[0]) if close else ""
            near = f"; did you mean '{near if place else flag_of(near)}'?" if close else ""
            raise InputError(f"{place}unknown key '{shown}'{near}")
        if name in result:
            raise InputError(f"{place}key '{shown}' is given twice, with a dash and with an underscore")
        result[name] = value
    return result


def _read(config: Path) -> dict[str, object]:
    try:
        return tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as cause:
        reason = cause.strerror if isinstance(cause, OSError) else "not UTF-8"
        raise InputError(f"--config: {config} cannot be read: {reason}") from cause
    except tomllib.TOMLDecodeError as cause:
        raise InputError(f"--config: {config} is no TOML: {cause}") from cause


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple, str)) and not value:
        return "an empty text" if isinstance(value, str) else "an empty list"
    return ",".join(str(part) for part in value) if isinstance(value, (list, tuple)) else str(value)
