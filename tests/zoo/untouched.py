"""What a caller may rely on to be as it was: weights, modes, hooks, attributes, the random state."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


class TouchedError(AssertionError):
    """Something of the caller's was changed."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Check that the block leaves a model, and torch's global state, as they were.

    Args:
        model: The caller's model.

    Raises:
        TouchedError: Naming what was changed; also where the block raises.
    """
    before = caller_state(model)
    try:
        yield
    finally:
        changed = difference(before, caller_state(model))
        if changed:
            raise TouchedError(f"the caller's model was changed: {changed}")


def caller_state(model: nn.Module) -> dict[str, Any]:
    """A copy of everything about a model that a trace or a cut could change.

    Args:
        model: The model.

    Returns:
        To be compared by `difference` with a later one.
    """
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        "weights": {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        "parameters": {name: (id(p), p.requires_grad, p.grad is None) for name, p in parameters.items()},
        "modes": {name: module.training for name, module in modules.items()},
        "hooks": {name: [list(getattr(module, key)) for key in _HOOKS] for name, module in modules.items()},
        "classes": {name: (type(module), "forward" in vars(module)) for name, module in modules.items()},
        "attributes": {
            name: sorted(key for key in vars(module) if not key.startswith("_"))
            for name, module in modules.items()
        },
        "random state": torch.get_rng_state(),
        "threads": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
    }


def difference(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The first thing that differs.

    Args:
        before: From `caller_state`.
        after: From `caller_state`.

    Returns:
        Its name, or an empty string.
    """
    for key, old in before.items():
        new = after[key]
        if isinstance(old, Tensor):
            same = torch.equal(old, new)
        elif key == "weights":
            same = list(old) == list(new) and all(torch.equal(old[name], new[name]) for name in old)
        else:
            same = old == new
        if not same:
            return key
    return ""
