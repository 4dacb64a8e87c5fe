"""What `weights` may name: state dicts, read without running code from the file."""

import pickle
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from causal_prune.errors import InputError, one_line
from causal_prune.network.running import fill

WRAPPERS = ("state_dict", "model")
PREFIXES = ("module.", "_orig_mod.")
CONVERTER = (
    "import torch; from safetensors.torch import save_file; "
    "c = torch.load({source!r}, map_location='cpu', weights_only=False); "
    "c = c.get('state_dict', c.get('model', c)) if isinstance(c, dict) else c; "
    "c = c.state_dict() if isinstance(c, torch.nn.Module) else c; "
    "save_file({{k: v.detach().clone().contiguous() for k, v in c.items() if isinstance(v, torch.Tensor)}}, "
    "{target!r})"
)


def load_weights(model: nn.Module, path: Path | str) -> None:
    """Fill a network with the weights of a file; every key and shape must fit.

    A `state_dict` or `model` entry around the weights, and the prefixes that DataParallel (`module.`)
    and torch.compile (`_orig_mod.`) put before every key, are understood.

    Args:
        model: The network; changed in place, and only if everything fits.
        path: A `.safetensors` file, or a checkpoint that `torch.load(weights_only=True)` reads.

    Raises:
        InputError: If the file is missing, damaged, needs unpickling code, does not fit (the first three
            keys that differ are named), or holds values that are not finite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"weights: there is no file {path}")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    expected = model.state_dict()
    state = _strip_prefixes(_unwrap(content, path), expected)
    _check_keys(state, expected, path)
    for key, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise InputError(f"weights: {path}: {key} holds NaN or infinite values")
    fill(model, state)


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as cause:
        raise InputError(f"weights: {path} is no readable safetensors file: {one_line(cause)}") from cause


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


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"weights: {path} holds no state dict (a {type(content).__name__})")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise InputError(
                f"weights: {path} holds no state dict: '{key}' is a {type(value).__name__}, not a tensor"
            )
    return dict(cast(Mapping[str, Tensor], content))


def _strip_prefixes(state: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    while True:
        for prefix in PREFIXES:
            wrapped = all(key.startswith(prefix) for key in state)
            # A network may itself have one child of that name.
            if wrapped and not all(key.startswith(prefix) for key in expected):
                state = {key.removeprefix(prefix): value for key, value in state.items()}
                break
        else:
            return state


def _check_keys(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    differences = []
    for key, value in expected.items():
        if key not in state:
            # Files older than torch 0.4.1 lack this counter, and torch fills it in.
            if not key.endswith("num_batches_tracked"):
                differences.append(f"{key} is missing")
        elif state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} in the file, {tuple(value.shape)} in the model"
            differences.append(f"{key} is {shapes}")
    differences += [f"{key} is unexpected" for key in state if key not in expected]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise InputError(f"weights: {path} does not fit the model: {'; '.join(differences[:3])}{more}")
