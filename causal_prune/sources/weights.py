"""What `weights` may name: state dicts, read without running code from the file."""

import pickle
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from causal_prune.errors import CausalPruneNote, InputError, one_line, warn
from causal_prune.network.running import fill
from causal_prune.sources.factories import anchored

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Names that DataParallel, torch.compile and others put between those of a network's own modules."""
DEEPEST = 4
"""Of tables within tables in a checkpoint that are looked into."""
CONVERTER = (
    "import torch; from safetensors.torch import save_file; "
    "f = lambda o, p='': {{p: o.detach().clone().contiguous()}} if isinstance(o, torch.Tensor) else "
    "f(o.state_dict(), p) if isinstance(o, torch.nn.Module) else "
    "{{k: v for n, e in o.items() for k, v in f(e, f'{{p}}.{{n}}' if p else str(n)).items()}} "
    "if isinstance(o, dict) else {{}}; "
    "save_file(f(torch.load({source!r}, map_location='cpu', weights_only=False)), {target!r})"
)


@dataclass(frozen=True)
class Reading:
    """One way to find a network's weights in a file.

    Attributes:
        place: Where the tensors stand in it; empty for its top.
        prefix: What stands before every name.
        unwrapped: Whether names of wrappers were taken out from between the others.
        state: The weights by name.
        others: Names of tensors beside them.
    """

    place: str
    prefix: str
    unwrapped: bool
    state: Mapping[str, Tensor]
    others: tuple[str, ...]

    def __str__(self) -> str:
        """Tell it in a few words."""
        parts = [f"'{self.place}'" if self.place else "the file itself"]
        parts += [f"without '{self.prefix}' before every name"] if self.prefix else []
        parts += ["without the names of wrappers"] if self.unwrapped else []
        if self.others:
            rest = f" and {len(self.others) - 1} more" if len(self.others) > 1 else ""
            parts.append(f"leaving out {self.others[0]}{rest}")
        return ", ".join(parts)

    @property
    def plain(self) -> bool:
        """Whether it is the file as it stands."""
        return not (self.place or self.prefix or self.unwrapped or self.others)


def load_weights(model: nn.Module, path: Path | str, *, within: Path | None = None) -> None:
    """Fill a network with the weights of a file; every key and shape must fit.

    Tables around the weights and names before every key, as training scripts, averaged models and wrappers
    (DataParallel, torch.compile, Lightning) leave them, are taken off where exactly one way to do so fits; a note says
    what was done.
    Layers that share a tensor may be in the file once.

    Args:
        model: The network; changed in place, and only if everything fits.
        path: A `.safetensors` file, or a checkpoint that `torch.load(weights_only=True)` reads.
        within: The folder from which a relative path counts; None for the working folder.

    Raises:
        InputError: If the file is missing, damaged, needs unpickling code, does not fit (the first three
            keys that differ are named) or fits in several ways, or holds values that are not finite.
    """
    path = anchored(path, within)
    if not path.is_file():
        raise InputError(f"weights: there is no file {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    expected = {
        key: value for key, value in model.state_dict(keep_vars=True).items() if isinstance(value, Tensor)
    }
    reading = _only_reading([*_readings(content, expected)], expected, content, path)
    state = _with_ties(reading.state, expected, path)
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"weights: {path}: {key} holds NaN or infinite values")
    fill(model, state)
    if not reading.plain:
        warn(f"weights: {path}: took {reading}", CausalPruneNote)


def _read_safetensors(path: Path) -> object:
    try:
        with safe_open(path, framework="pt") as file:
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
            # what `safetensors.torch.save_model` leaves out of tied layers: name by the name that it kept
            aliases = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as cause:
        raise InputError(f"weights: {path} is no readable safetensors file: {one_line(cause)}") from cause
    return {**{name: content[kept] for name, kept in aliases.items() if kept in content}, **content}


def _read_checkpoint(path: Path) -> object:
    try:
        content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        # torch tells a damaged file and one that holds foreign classes apart only in its text.
        foreign = re.search(r"Unsupported \w+: (?:GLOBAL )?(\S+)", str(cause))
        if foreign is None:
            raise InputError(f"weights: {path} is no readable checkpoint: {one_line(cause)}") from cause
        code = CONVERTER.format(source=str(path), target=str(path.with_suffix(".safetensors")))
        command = f"python -c {shlex.quote(code)}"
        raise InputError(
            f"weights: {path} needs unpickling code ({foreign[1]}), which may run anything; if you trust "
            f"its source, convert it with: {command}"
        ) from cause
    except Exception as cause:  # a damaged archive raises RuntimeError, EOFError, KeyError and others
        raise InputError(f"weights: {path} is no readable checkpoint: {one_line(cause)}") from cause
    return content


def _tables(content: object, place: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every table of tensors in a checkpoint, and where it stands."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    tensors = {
        key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if tensors:
        yield place, tensors
    for key, value in content.items():
        yield from _tables(value, f"{place}.{key}" if place else str(key), depth + 1)


def _readings(content: object, expected: Mapping[str, Tensor]) -> Iterator[Reading]:
    """Every way to read names of the network out of a file, those first that change least."""
    tied = _tied(expected)
    needed = next((key for key in expected if not _optional(key)), "")
    needed_names = tuple(key for key in tied if tied[key] == tied.get(needed))
    for place, tensors in _tables(content):
        inner = {_without_wrappers(key): key for key in tensors}
        names = [(False, {key: key for key in tensors})]
        if len(inner) == len(tensors) and inner.keys() != tensors.keys():
            names.append((True, inner))
        for unwrapped, known in names:
            ends = (key.removesuffix(each) for key in known for each in needed_names if key.endswith(each))
            for prefix in dict.fromkeys(("", *(each for each in ends if each.endswith(".")))):
                inside = {key[len(prefix) :]: known[key] for key in known if key.startswith(prefix)}
                taken = set(inside.values())
                others = tuple(name for name in tensors if name not in taken)
                state = {key: tensors[name] for key, name in inside.items()}
                yield Reading(place, prefix, unwrapped, state, others)


def _only_reading(
    readings: list[Reading], expected: Mapping[str, Tensor], content: object, path: Path
) -> Reading:
    if not readings:
        kind = type(content).__name__
        found = f" (a {kind})" if not isinstance(content, Mapping) or not content else ""
        raise InputError(f"weights: {path} holds no state dict{found or _first_entry(content)}")
    fitting: list[Reading] = []
    for reading in readings:
        fits = not _differences(reading.state, expected)
        if fits and not any(_same(reading.state, other.state) for other in fitting):
            fitting.append(reading)
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = "; or ".join(str(reading) for reading in fitting)
        raise InputError(
            f"weights: {path} holds weights that fit in {len(fitting)} ways: {several}; save the one that is meant "
            "in a file of its own (torch.save(torch.load(FILE)[KEY], NEW))"
        )
    near = sorted(readings, key=lambda reading: not reading.state.keys() & expected.keys())
    best = min(near, key=lambda reading: len(_differences(reading.state, expected)))
    differences = _differences(best.state, expected)
    places = list(dict.fromkeys(f"'{each.place}'" if each.place else "the file itself" for each in near))
    tried = f" (closest: {best}; tried {_some(places, 5, ', ')})"
    told = "" if best.plain and len(places) == 1 else tried
    raise InputError(f"weights: {path} does not fit the model{told}: {_some(differences, 3, '; ')}")


def _some(texts: list[str], most: int, between: str) -> str:
    more = f" (and {len(texts) - most} more)" if len(texts) > most else ""
    return between.join(texts[:most]) + more


def _first_entry(content: object) -> str:
    assert isinstance(content, Mapping), "anything else was named by its kind"
    key, value = next(iter(content.items()))
    return f": '{key}' is a {type(value).__name__}, not a tensor"


def _same(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return state.keys() == other.keys() and all(_equal(value, other[key]) for key, value in state.items())


def _equal(value: Tensor, other: Tensor) -> bool:
    alike = value.shape == other.shape and value.dtype == other.dtype
    return value is other or (alike and torch.equal(value, other))


def _without_wrappers(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _optional(key: str) -> bool:
    # files older than torch 0.4.1 lack this counter, and torch fills it in
    return key.endswith("num_batches_tracked")


def _tied(expected: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of a network that are of one tensor, by name: the first of them."""
    first: dict[int, str] = {}
    return {key: first.setdefault(id(value), key) for key, value in expected.items()}


def _differences(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    tied, differences = _tied(expected), []
    present = {tied[key] for key in state if key in tied}
    for key, value in expected.items():
        if key not in state:
            if not _optional(key) and tied[key] not in present:
                differences.append(f"{key} is missing")
        elif state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} in the file, {tuple(value.shape)} in the model"
            differences.append(f"{key} is {shapes}")
    return differences + [f"{key} is unexpected" for key in state if key not in expected]


def _with_ties(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """A state dict in which every name of a shared tensor has its value."""
    tied = _tied(expected)
    values: dict[str, tuple[str, Tensor]] = {}
    for key, value in state.items():
        name, known = values.setdefault(tied[key], (key, value))
        if not _equal(known, value):
            raise InputError(
                f"weights: {path}: {name} and {key} are one tensor in the model, but differ in the file"
            )
    return {key: values[tied[key]][1] for key in expected if tied[key] in values}
