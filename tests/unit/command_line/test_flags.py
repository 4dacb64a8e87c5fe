"""Flags made from the options: none is missing, and each says what it is for and what it is without it."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import typer

from causal_prune.command_line.flags import PANELS, dashed, stand_alone, typed, with_flags
from causal_prune.command_line.settings import RunSettings, keys, load_settings
from causal_prune.errors import InputError
from causal_prune.options import OptionValues, flag_of

SHOWN = {
    "dependencies": "labels",
    "model": "a small residual CNN, trained on the spot", "data": "digits", "calibration_images": "2048",
    "keep_macs": "0.5", "align": "auto", "importance": "structural", "mode": "remove",
    "parents": "chain with --mode zero, else graph", "max_memory": "half of what is free", "lr": "0.01",
    "views": "up to 4 where the data say that they are harmless and images are few, else 1",
    "epochs": "3 for the embedded model, else 0", "arms": "causal,random,magnitude",
    "random_seeds": "5; with --evidence quick as many of them as there is time for",
    "confidence": "0.95", "evidence": "quick",
    "seed": "0", "threads": "1", "device": "cpu", "out": "export/<model>",
}  # fmt: skip
"""The default that the help shows, by option; the others are off, or absent, without their flag."""
OFF = {"compensation": "--no-compensate", "distill": "--no-distill", "explain": "--no-explain"}
HIDDEN_OFF = {
    name: f"--no-{flag_of(RunSettings, name).name.replace('_', '-')}"
    for name, field in RunSettings.model_fields.items()
    if field.annotation is bool and name not in OFF
}
"""What turns off a switch that is off by itself, for a file that turns it on; the help does not show it."""
REPEATED = {"model_arg", "freeze"}


class Ran:
    """A program of one command with flags; remembers what was typed."""

    def __init__(self, *names: str) -> None:
        self.found: dict[str, object] = {}
        self.config: Path | None = None

        def bake(ctx: typer.Context, config: Path | None = None) -> int:
            """Bake a network."""
            self.found, self.config = typed(ctx), config
            return 7

        self.command = with_flags(*names)(bake)
        self.app = typer.Typer(add_completion=False)
        self.app.command()(self.command)

    @property
    def flags(self) -> dict[str, Any]:
        """Options of the program by flag."""
        command: Any = typer.main.get_command(self.app)
        return {option.opts[0]: option for option in command.params if option.opts[0] != "--help"}

    def __call__(self, *arguments: str) -> dict[str, object]:
        assert self.app(args=list(arguments), standalone_mode=False) == 7
        return self.found


def flag(name: str) -> str:
    return "--" + flag_of(RunSettings, name).name.replace("_", "-")


def test_every_option_has_its_flag_and_no_other_flag_is_there() -> None:
    hidden = {"title", "command", "in_force"}
    expected = {flag(name) for name in RunSettings.model_fields if name not in hidden}
    assert set(Ran().flags) == expected | {
        "--config",
        "--no-compensate",
        "--no-explain",
        *HIDDEN_OFF.values(),
    }
    assert set(keys().values()) == RunSettings.model_fields.keys() - hidden


@pytest.mark.parametrize("name", keys().values())
def test_a_flag_has_the_help_the_default_and_the_panel_of_its_option(name: str) -> None:
    option = Ran().flags[flag(name)]
    field = RunSettings.model_fields[name]
    owners = [
        kind
        for kind in RunSettings.__mro__
        if issubclass(kind, OptionValues) and name in vars(kind).get("__annotations__", {})
    ]
    text = str(field.description).replace("`out`", "--out")
    default = f" [dim]\\[default: {SHOWN[name]}][/]" if name in SHOWN else ""
    assert option.help == text + default
    assert option.rich_help_panel == owners[0].panel  # type: ignore[attr-defined]  # every wing has one
    assert option.default is None, "what was not typed must be told apart from the default"
    assert option.multiple is (name in REPEATED)
    assert option.is_flag is (field.annotation is bool)


def test_defaults_that_are_shown_are_those_that_are_taken() -> None:
    told = (
        "model",
        "keep_macs",
        "parents",
        "max_memory",
        "views",
        "epochs",
        "random_seeds",
        "out",
    )  # in words, or by another part
    for name, text in SHOWN.items():
        if name not in told:
            key = flag_of(RunSettings, name).name
            assert load_settings(flags={key: text}) == load_settings(), name
    assert load_settings(flags={"keep_macs": SHOWN["keep_macs"]}).asked == load_settings().asked


def test_what_is_on_by_itself_has_a_flag_that_turns_it_off() -> None:
    flags = Ran().flags
    off = {name: f"--no-{flag(name)[2:]}" for name in keys().values()}
    spelt = {name for name in off if off[name] in flags or off[name] in flags[flag(name)].secondary_opts}
    assert {name: off[name] for name in spelt} == {**OFF, **HIDDEN_OFF}
    assert {spelt for spelt, option in flags.items() if option.hidden} == {*HIDDEN_OFF.values()}
    assert flags["--no-compensate"].help == "The same as --compensate none."
    switches = [name for name, field in RunSettings.model_fields.items() if field.annotation is bool]
    on = [name for name in switches if getattr(RunSettings.model_validate({}), name)]
    assert on == ["distill"], "every other switch is off without its flag"


def test_panels_come_in_their_order_and_config_last() -> None:
    panels = [option.rich_help_panel for option in Ran().flags.values()]
    assert list(dict.fromkeys(panels[:-1])) == list(PANELS)
    assert list(Ran().flags)[-1] == "--config"


def test_a_command_has_the_flags_that_it_names_in_the_order_of_the_panels() -> None:
    assert list(Ran("print_json", "seed", "data", "model").flags) == [
        "--model",
        "--data",
        "--seed",
        "--json",
        "--no-json",
        "--config",
    ]


def test_a_command_keeps_its_name_and_its_help() -> None:
    command = Ran("seed").command
    assert (command.__name__, command.__doc__) == ("bake", "Bake a network.")
    assert list(inspect.signature(command).parameters) == ["ctx", "seed", "config"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {}),
        (["--keep-macs", "0.3"], {"keep_macs": "0.3"}),
        (["--keep-macs=x"], {"keep_macs": "x"}),  # what it may be is checked with the file's
        (["--freeze", "a,b", "--freeze", "c"], {"freeze": ["a,b", "c"]}),
        (["--model-arg", "k=v"], {"model_arg": ["k=v"]}),
        (["--json", "--force"], {"json": True, "force": True}),
        (["--distill"], {"distill": True}),
        (["--no-distill"], {"distill": False}),
        (["--compensate", "batchnorm"], {"compensate": "batchnorm"}),
        (["--no-compensate"], {"no_compensate": True}),
        (["--no-force", "--no-json"], {"no_force": True, "no_json": True}),
        (["--seed", "0", "--data", ""], {"seed": "0", "data": ""}),
    ],
)
def test_only_what_was_typed_is_told(arguments: list[str], expected: dict[str, object]) -> None:
    assert Ran()(*arguments) == expected


def test_a_file_is_handed_on_and_is_no_option(tmp_path: Path) -> None:
    ran = Ran("seed")
    assert ran("--config", str(tmp_path / "run.toml"), "--seed", "3") == {"seed": "3"}
    assert ran.config == tmp_path / "run.toml"


@pytest.mark.parametrize("how", ["none", "batchnorm"])
def test_a_flag_and_its_own_no_contradict_each_other(how: str) -> None:
    typed_flags = Ran()("--no-compensate", "--compensate", how)
    text = "^--no-compensate and --compensate contradict each other; give one$"
    with pytest.raises(InputError, match=text):
        load_settings(flags=typed_flags)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], []),
        (["--compensate"], ["--compensate=least-squares"]),
        (["--compensate", "--force"], ["--compensate=least-squares", "--force"]),
        (["--compensate", "none", "--force"], ["--compensate", "none", "--force"]),
        (["--compensate=none"], ["--compensate=none"]),
        (["--keep-macs", "0.5"], ["--keep-macs", "0.5"]),
        (["--no-compensate", "--compensate"], ["--no-compensate", "--compensate=least-squares"]),
    ],
)
def test_a_flag_that_stands_alone_is_given_what_it_means(arguments: list[str], expected: list[str]) -> None:
    before = list(arguments)
    assert list(stand_alone(arguments)) == expected
    assert arguments == before
    assert list(stand_alone(expected)) == expected, "once is enough"


def test_what_a_flag_means_alone_is_the_default_of_its_option() -> None:
    (alone,) = stand_alone(["--compensate"])
    assert load_settings(flags=Ran()(alone)) == load_settings()


@pytest.mark.parametrize(
    ("key", "expected"), [("keep_macs", "--keep-macs"), ("out", "--out"), ("a_b_c", "--a-b-c")]
)
def test_keys_are_dashed(key: str, expected: str) -> None:
    assert dashed(key) == expected
