"""All options of a run as one value: those that the wings own, and those of the flow itself."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, JsonValue

from causal_prune.comparison import Rivals
from causal_prune.compensation import Repair
from causal_prune.errors import InputError
from causal_prune.explanation import Reasons
from causal_prune.fine_tuning import Tuning
from causal_prune.importance import METHODS, Parents
from causal_prune.onnx_files import OnnxForm
from causal_prune.options import Flag, Must, Names, Natural, OptionValues, Seed, Switch, Text
from causal_prune.planning import Goal
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
