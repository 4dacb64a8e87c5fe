"""All options of a run as one value: those that the wings own, and those of the flow itself."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from causal_prune.comparison import Rivals
from causal_prune.compensation import Repair
from causal_prune.errors import InputError
from causal_prune.explanation import Reasons
from causal_prune.fine_tuning import Tuning
from causal_prune.importance import METHODS, Parents
from causal_prune.onnx_files import OnnxForm
from causal_prune.options import (
    Flag,
    Must,
    Names,
    Natural,
    OptionValues,
    Seed,
    Share,
    Switch,
    Text,
    listed_in,
)
from causal_prune.planning import SETTLED, Goal
from causal_prune.surgery import Dependencies

Mode = Literal["remove", "zero"]


def _known_method(name: str) -> str:
    if name not in METHODS:
        raise InputError(f"importance: {name!r} is not one of {', '.join(METHODS)}")
    return name


class Choice(OptionValues):
    """Which units go, and how."""

    panel: ClassVar[str] = "How"

    importance: Annotated[
        Text,
        AfterValidator(_known_method),
        Must("the name of a method"),
        Field(description=f"{', '.join([*METHODS][:-1])} or {[*METHODS][-1]}."),
    ] = "structural"
    parents: Annotated[
        Parents | None,
        Must("'chain' or 'graph'"),
        Flag(default="chain with --mode zero, else graph"),
        Field(description="Parents for the documented score: chain or graph."),
    ] = None
    mode: Annotated[
        Mode,
        Must("'remove' or 'zero'"),
        Field(description="remove makes the network smaller; zero silences filters, as documented."),
    ] = "remove"
    views: Annotated[
        Natural | None,
        Must("a whole number of at least 1"),
        Flag(default="up to 4 where the data say that they are harmless and images are few, else 1"),
        Field(
            description="Views of every image in the repair: the image, then zoomed crops, half of them mirrored."
        ),
    ] = None
    dependencies: Annotated[
        Dependencies,
        Must("'labels' or 'torch-pruning'"),
        Field(description="Who finds what goes together: our own labels, or torch-pruning's graph."),
    ] = "labels"
    freeze: Annotated[
        Names,
        Must("a list of names of layers"),
        Flag(repeated=True),
        Field(description="Layer or module that must not be cut; may be repeated."),
    ] = ()


class Machine(OptionValues):
    """What is random, and what computes."""

    panel: ClassVar[str] = "Machine"

    seed: Annotated[Seed, Field(description="Seed of all that is random.")] = 0
    threads: Annotated[Natural, Field(description="Threads of ONNX Runtime when timed.")] = 1
    device: Annotated[
        str,
        Field(pattern=r"^(cpu|mps|cuda(:\d+)?)$", description="Where torch computes: cpu, cuda, cuda:1."),
        Must("a device, such as cpu or cuda:0"),
    ] = "cpu"


class Record(OptionValues):
    """Where the results go, and what they say of themselves."""

    panel: ClassVar[str] = "Output"

    out: Annotated[
        Path | None,
        Must("the path of a folder"),
        Flag(default="export/<model>"),
        Field(description="Folder of the bundle."),
    ] = None
    force: Annotated[Switch, Field(description="Replace `out` even if it is no bundle.")] = False
    title: Annotated[
        Text | None,
        Must("a text"),
        Flag(hidden=True),
        Field(description="Name of the network in the report; its class, if none is given."),
    ] = None
    in_force: Annotated[
        dict[str, JsonValue] | None,
        Must("a table of values"),
        Flag(hidden=True),
        Field(
            description="The options of the command by key, for report.json and config.toml; None for these."
        ),
    ] = None
    command: Annotated[
        Text,
        Must("a text"),
        Flag(hidden=True),
        Field(description="How the run was started, for the report."),
    ] = "causal_prune.compress(...)"


class Options(Record, OnnxForm, Machine, Reasons, Rivals, Tuning, Repair, Choice, Goal):
    """Everything that `compress` can be told, as one value.

    It is made of keywords, of flags, of a file or of JSON; an option has the same name in all of them. It is written in
    one place, the part that its wing owns, with its type, its default and what it is for; `help(compress)` lists all.

    Example:
        >>> options = Options(keep_params=0.4, epochs=2)
        >>> Options.from_json(options.to_json()) == options
        True
    """


KEEP = (0.9, 0.7, 0.5, 0.35, 0.25, 0.15)
MAX_DROP = 0.01
NEVER = ("epochs", "explain", "plan")
"""Options of a run that a frontier has no use for."""


class Sizes(OptionValues):
    """Which sizes are made."""

    panel: ClassVar[str] = "How small"

    keep: Annotated[
        tuple[Share, ...],
        BeforeValidator(listed_in),
        Field(min_length=1, description="Shares of the multiply-accumulates that stay, one for each size."),
        Must("shares between 0 and 1, such as 0.7,0.5,0.35"),
    ] = KEEP


class FrontierOptions(Sizes, Options):
    """Everything that `frontier` can be told: its sizes, and of the options of `compress` all but targets and training.

    Example:
        >>> FrontierOptions(keep=(0.5, 0.25)).max_drop is None
        True
    """

    @model_validator(mode="after")
    def _makes_sizes_and_trains_nothing(self) -> Self:
        given = [name for name in SETTLED if name != "max_drop" and getattr(self, name) not in (None, False)]
        given += [name for name in NEVER if getattr(self, name)]
        if given:
            raise InputError(
                f"`{given[0]}`: a frontier is made of the sizes in `keep`, without training; leave it out"
            )
        return self
