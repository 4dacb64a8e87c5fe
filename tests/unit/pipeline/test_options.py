"""All options of a run: one value, however it is written down."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causal_prune.command_line.settings import keys, load_settings
from causal_prune.errors import InputError
from causal_prune.importance.methods import METHODS
from causal_prune.options import OptionValues, flag_of, must_be
from causal_prune.pipeline.options import Choice, Machine, Options, Record

OTHER: dict[str, Any] = {
    "keep_macs": 0.3, "keep_params": 0.4, "keep_latency": 0.6, "remove_filters": 0.25, "remove_silent": True,
    "align": 8, "max_drop": 0.02, "confidence": 0.9, "plan": Path("made/plan.json"),
    "importance": "magnitude", "parents": "chain", "mode": "zero", "freeze": ("conv1", "layer2.0"),
    "compensation": "batchnorm", "views": 3, "max_memory": 2_000_000, "epochs": 7, "lr": 0.125, "distill": False,
    "arms": ("causal", "random"), "random_seeds": 3, "evidence": "full", "seed": 11, "threads": 2, "device": "cuda:1",
    "dependencies": "torch-pruning", "explain": ("cam", "saliency"), "opset": 18, "dynamic_size": True,
    "out": Path("some where/net"), "force": True, "title": "a “net”", "command": "make all",
    "in_force": {"data": "digits", "mean": [0.5], "model_arg": {"width": 3, "name": None}},
}  # fmt: skip
"""A value other than the default for every option."""
TARGETS = ("keep_macs", "keep_params", "keep_latency", "remove_filters", "remove_silent", "max_drop", "plan")
SPELT = [name for name in OTHER if not flag_of(Options, name).hidden]
"""Options that a shell and a file know."""


def in_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(in_toml, value))}]"
    return str(value) if isinstance(value, int | float) else f'"{value}"'


def in_shell(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def written(values: dict[str, Any], folder: Path) -> list[Options]:
    """The same options from a file and from flags."""
    spelt = {flag_of(Options, name).name: value for name, value in values.items()}
    file = folder / "run.toml"
    file.write_text("".join(f"{key} = {in_toml(value)}\n" for key, value in spelt.items()), "utf-8")
    flags = {key.replace("_", "-"): in_shell(value) for key, value in spelt.items()}
    return [load_settings(file).part(Options), load_settings(flags=flags).part(Options)]


def test_the_table_above_is_of_all_options_and_none_at_its_default() -> None:
    assert OTHER.keys() == Options.model_fields.keys()
    assert [name for name, value in OTHER.items() if value == getattr(Options(), name)] == []
    assert {keys()[flag_of(Options, name).name] for name in SPELT} == set(SPELT)


@pytest.mark.parametrize("name", OTHER)
def test_json_keywords_and_mappings_give_the_same_option(name: str) -> None:
    made = Options(**{name: OTHER[name]})
    assert getattr(made, name) == OTHER[name] and type(getattr(made, name)) is type(OTHER[name])
    assert {other for other in OTHER if getattr(made, other) != getattr(Options(), other)} == {name}
    assert Options.from_json(made.to_json()) == made == Options.model_validate({name: OTHER[name]})


@pytest.mark.parametrize("name", SPELT)
def test_a_file_and_flags_give_the_same_option(name: str, tmp_path: Path) -> None:
    assert written({name: OTHER[name]}, tmp_path) == [Options(**{name: OTHER[name]})] * 2


@pytest.mark.parametrize("target", TARGETS)
def test_all_options_at_once_are_the_same_however_they_are_written(target: str, tmp_path: Path) -> None:
    values = {name: value for name, value in OTHER.items() if name not in TARGETS or name == target}
    made = Options(**values)
    assert Options.from_json(made.to_json()) == made
    spelt = {name: values[name] for name in SPELT if name in values}
    assert written(spelt, tmp_path) == [Options(**spelt)] * 2


NAME = st.text(st.characters(exclude_characters=",", exclude_categories=["C"]), min_size=1).map(str.strip)
ANY: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(TARGETS, st.floats(0, 1, exclude_min=True, exclude_max=True)), "remove_silent": st.just(True),
    "max_drop": st.floats(0, exclude_min=True, allow_infinity=False), "plan": NAME.filter(bool).map(Path),
    "confidence": st.floats(0.5, 1, exclude_max=True), "evidence": st.sampled_from(["quick", "full"]),
    "align": st.just("auto") | st.integers(1), "importance": st.sampled_from([*METHODS]),
    "parents": st.sampled_from([None, "chain", "graph"]), "mode": st.sampled_from(["remove", "zero"]),
    "freeze": st.lists(NAME.filter(bool)).map(tuple), "max_memory": st.none() | st.integers(1, 2**60),
    "views": st.none() | st.integers(1, 100), "dependencies": st.sampled_from(["labels", "torch-pruning"]),
    "compensation": st.sampled_from(["least_squares", "least-squares", "batchnorm", "none", True, False]),
    "epochs": st.integers(0), "lr": st.floats(0, exclude_min=True, allow_infinity=False), "distill": st.booleans(),
    "arms": st.permutations(["causal", "random", "magnitude"]).flatmap(
        lambda arms: st.integers(arms.index("causal") + 1, 3).map(lambda count: arms[:count])
    ),
    "random_seeds": st.none() | st.integers(1), "seed": st.integers(0, 2**32 - 1), "threads": st.integers(1),
    "device": st.sampled_from(["cpu", "mps", "cuda", "cuda:12"]), "force": st.booleans(),
    "out": st.none() | NAME.map(Path), "title": st.none() | st.text(min_size=1), "command": st.text(min_size=1),
    "in_force": st.none() | st.dictionaries(st.text(), st.none() | st.booleans() | st.text() | st.lists(st.integers())),
    "opset": st.none() | st.integers(17, 20), "dynamic_size": st.booleans(),
    "explain": st.booleans() | st.lists(st.sampled_from(["cam", "saliency", "information_bottleneck"]), unique=True),
}  # fmt: skip


def test_every_option_is_drawn() -> None:
    assert ANY.keys() == Options.model_fields.keys()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(TARGETS), st.fixed_dictionaries({}, optional=ANY))
def test_json_gives_back_whatever_can_be_asked(target: str, values: dict[str, Any]) -> None:
    made = Options(**{name: value for name, value in values.items() if name not in TARGETS or name == target})
    assert Options.from_json(made.to_json()) == made


def test_no_option_belongs_to_two_wings_and_each_says_what_it_is_for() -> None:
    wings = [kind for kind in Options.__mro__ if issubclass(kind, OptionValues) and kind is not OptionValues]
    owned = [name for kind in wings if kind is not Options for name in vars(kind)["__annotations__"]]
    names = [name for name in owned if name != "panel"]
    assert sorted(names) == sorted(Options.model_fields)
    for name, field in Options.model_fields.items():
        assert field.description and field.description.endswith("."), name
        assert must_be(Options, name), name


@pytest.mark.parametrize("name", ["keep_mac", "keep-macs", "compensate", "panel", "model", "json", "options"])
def test_what_is_no_option_is_refused_everywhere(name: str) -> None:
    with pytest.raises(InputError, match=rf"^unknown option '{name}'"):
        Options.model_validate({name: 1})
    with pytest.raises(InputError, match=rf"^unknown option '{name}'"):
        Options.from_json(f'{{"{name}": 1}}')


@pytest.mark.parametrize("hidden", ["title", "command", "in_force"])
def test_what_the_command_sets_itself_is_no_flag(hidden: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^unknown key '--{hidden.replace('_', '-')}'"):
        load_settings(flags={hidden: "x"})
    (tmp_path / "run.toml").write_text(f"{hidden} = 'x'\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"^\S+run\.toml: unknown key '{hidden}'"):
        load_settings(tmp_path / "run.toml")


@pytest.mark.parametrize(
    ("kind", "values", "text"),
    [
        (Choice, {"importance": "l1"}, "^importance: 'l1' is not one of documented, structural, magnitude, "),
        (Choice, {"importance": ""}, "^importance: an empty text is not the name of a method$"),
        (Choice, {"parents": "tree"}, "^parents: tree is not 'chain' or 'graph'$"),
        (Choice, {"mode": "cut"}, "^mode: cut is not 'remove' or 'zero'$"),
        (Choice, {"freeze": [1]}, "^freeze: 1 is not a list of names of layers$"),
        (Machine, {"seed": 2**32}, "^seed: 4294967296 is not a whole number from 0 to 4294967295$"),
        (Machine, {"threads": 0}, "^threads: 0 is not a whole number of at least 1$"),
        (Machine, {"device": "cuda:x"}, "^device: cuda:x is not a device, such as cpu or cuda:0$"),
        (Machine, {"device": "my cpu"}, "^device: my cpu is not a device, such as cpu or cuda:0$"),
        (Record, {"out": 3}, "^out: 3 is not the path of a folder$"),
        (Record, {"force": "very"}, "^force: very is not true or false$"),
        (Record, {"title": ""}, "^title: an empty text is not a text$"),
        (Record, {"command": None}, "^command: None is not a text$"),
    ],
)
def test_values_that_cannot_be_are_named(kind: type[OptionValues], values: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        kind.model_validate(values)
    with pytest.raises(InputError, match=text):
        Options.model_validate(values)


def test_every_method_may_be_chosen() -> None:
    assert [Options(importance=name).importance for name in METHODS] == [*METHODS]
