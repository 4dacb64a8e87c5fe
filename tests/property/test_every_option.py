"""Every option, whatever it is: given as a flag, as a key of a file, or as both, the run gets the same value.

Nothing here names an option: one that is added later is covered as it stands. Values come from the option's own type
and from the example in the words for what it must be.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import pytest
import tomli_w
import torch

from causal_prune.command_line import jobs
from causal_prune.command_line.entry import main
from causal_prune.command_line.settings import RunSettings, keys, load_settings, negations
from causal_prune.errors import InputError
from causal_prune.options import flag_of, must_be
from causal_prune.pipeline.flow import Compressed
from causal_prune.pipeline.options import Options
from causal_prune.report.report import Report
from causal_prune.sources.options import Source
from causal_prune.sources.small_cnn import small_resnet

GOLDEN = Path(__file__).parents[1] / "unit" / "report" / "golden" / "remove.json"
POOL: tuple[object, ...] = (
    True, False, 3, 5, 0.25, 0.75, 18, 19, [3, 8, 8], [1, 6, 6], [0.5, 0.25, 0.5], [0.25], ["0", "layer1.0"], ["4"],
    {"width": 32, "deep": [8, 16], "name": "10", "table": {"a": True}}, {"width": 7}, "some where/ä", "b/c",
)  # fmt: skip
"""Values as a file writes them; every option takes at least two of them, or of what its own words offer."""


def choices(annotation: object) -> Iterator[object]:
    """The words that a type allows."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    for part in get_args(annotation):
        yield from choices(part)


def offered(name: str) -> Iterator[object]:
    """Values that an option itself names: its choices, and the examples in its words."""
    field = RunSettings.model_fields[name]
    yield from choices(field.annotation)
    words = f"{must_be(RunSettings, name)}; {field.description}"
    yield from re.findall(r"'([^' ]+)'", words)
    for example in re.findall(r"such as ([^;)]+)", words):
        yield from re.split(r" or ", example)
    yield from (word for word in re.split(r"[ ,.]+", words) if word)
    names = [
        word for word in re.split(r"[ ,.]+", words) if word.isidentifier() and word not in ("a", "and", "of")
    ]
    yield from ([one, two] for one, two in itertools.combinations(names, 2))


def values(name: str) -> tuple[object, object]:
    """Two values of an option, as a file writes them; the first is not its default."""
    default = RunSettings.model_fields[name].get_default(call_default_factory=True)
    found: list[object] = []
    parsed: list[object] = [default]
    for value in (*POOL, *offered(name)):
        try:
            made = getattr(RunSettings.model_validate({name: value}), name)
        except InputError:
            continue
        if made not in parsed and not isinstance(value, NoneType):
            found.append(value)
            parsed.append(made)
        if len(found) == 2:
            return found[0], found[1]
    assert found, f"no value found for {name}: name an example in its words (`such as ...`)"
    assert default is not None, (
        f"one value alone found for {name}, which has no default: name another example"
    )
    return found[0], default


def flags_of(name: str, value: object) -> list[str]:
    """How a value is typed."""
    key = flag_of(RunSettings, name).name
    dashed = "--" + key.replace("_", "-")
    if isinstance(value, bool):
        return [dashed if value else f"--no-{dashed[2:]}"]
    if isinstance(value, dict):
        return [part for each, text in value.items() for part in (dashed, f"{each}={json.dumps(text)}")]
    return [dashed, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


Run = Callable[..., tuple[RunSettings, Options, list[object]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command up to `compress`: the settings, its options, and all that sources were asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made: dict[str, Any] = {}

    def asked(result: object) -> Callable[..., object]:
        def source(*given: object, **named: object) -> object:
            made["asked"] += [*given, *named.values()]
            return result

        return source

    def compress(_model: object, _data: object, options: Options) -> Compressed:
        made["options"] = options
        return Compressed(None, None, Report.load(GOLDEN), options.out)  # type: ignore[arg-type]  # nobody looks

    options = jobs._options

    def remembered(settings: RunSettings, command: str) -> Options:
        made["settings"] = settings
        return options(settings, command)

    def chosen(_recipe: object, options: Options) -> object:
        made["options"] = options
        raise InputError("as far as a dry run is looked at")

    network = small_resnet()
    for name, stand_in in (
        ("load_model", asked(network)), ("load_weights", asked(None)), ("load", asked(network)), ("compress", compress),
        ("load_data", asked(None)), ("_embedded", asked(network)), ("check_fits", asked(None)), ("choose", chosen),
        ("check_device", asked(None)), ("check_out", asked(None)), ("recipe_of", asked(None)), ("_options", remembered),
    ):  # fmt: skip
        monkeypatch.setattr(jobs, name, stand_in)

    def call(*arguments: str) -> tuple[RunSettings, Options, list[object]]:
        made.clear()
        made["asked"] = []
        code = main(["run", *arguments])
        printed = capsys.readouterr()
        assert "settings" in made, printed.err
        assert code == (2 if made["settings"].dry_run else 0), printed.err
        assert made["settings"].print_json is printed.out.startswith("{") or made["settings"].dry_run
        return made["settings"], made["options"], made["asked"]

    return call


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    """A bundle to go on from, as far as settings look at it."""
    for name in ("some where/ä", "b/c"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.toml").write_text("", encoding="utf-8")
    return "b/c"


NAMES = sorted(keys().values())


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("name", NAMES)
def test_a_flag_a_key_and_both_reach_the_run_with_the_same_value(name: str, run: Run, tmp_path: Path) -> None:
    value, other = values(name)
    key = flag_of(RunSettings, name).name
    expected = getattr(RunSettings.model_validate({name: value}), name)
    file = tmp_path / "run.toml"
    of_model = name in Source.model_fields and name not in ("model", "from_bundle")
    rest = ["--model", "net.py:f"] if of_model else []  # whose arguments and weights are asked for
    for written in (key, key.replace("_", "-")):
        file.write_text(tomli_w.dumps({written: other}), encoding="utf-8")
        both = run("--config", str(file), *flags_of(name, value), *rest)
        file.write_text(tomli_w.dumps({written: value}), encoding="utf-8")
        for settings, options, asked in (
            both,
            run("--config", str(file), *rest),
            run(*flags_of(name, value), *rest),
        ):
            assert getattr(settings, name) == expected
            if name in Source.model_fields:
                placed = tmp_path / expected if isinstance(expected, Path) else expected
                assert expected in asked or placed in asked
            elif name in Options.model_fields:
                found = getattr(options, name)
                assert found == (tmp_path / expected if isinstance(expected, Path) else expected)
            assert options.in_force is not None
            told = settings.model_dump(mode="json")[name]
            assert options.in_force[key] == told, "report.json and config.toml tell it"


@pytest.mark.usefixtures("bundle")
@pytest.mark.parametrize("no", sorted(negations()))
def test_what_a_no_flag_turns_off_a_no_key_turns_off(no: str, run: Run, tmp_path: Path) -> None:
    key, meant = negations()[no]
    name = keys()[key]
    file = tmp_path / "run.toml"
    file.write_text(f"{no.replace('_', '-')} = true\n", encoding="utf-8")
    expected = getattr(load_settings(flags={key: meant}), name)
    for arguments in (["--config", str(file)], [f"--{no.replace('_', '-')}"]):
        settings, options, _ = run(*arguments)
        assert getattr(settings, name) == expected
        if name in Options.model_fields:
            assert getattr(options, name) == expected
    file.write_text(f"{no} = false\n", encoding="utf-8")
    assert getattr(run("--config", str(file))[0], name) == getattr(load_settings(), name)
    file.write_text(f"{no} = true\n{key} = true\n", encoding="utf-8")
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(file))}: {no} and {key} contradict each other; give one$"
    ):
        load_settings(file)
    file.write_text(f"{no} = 'yes'\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"{no}: yes is not true or false$"):
        load_settings(file)


def test_the_values_that_are_tried_are_of_every_option() -> None:
    assert len(NAMES) == len({flag_of(RunSettings, name).name for name in NAMES}) >= 30
    for name in NAMES:
        assert values(name)[0] != values(name)[1]
