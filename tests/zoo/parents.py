"""The true parents of every layer, found by experiment: change one layer's output, hold all others, see who notices."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from causal_prune.network.running import call
from tests.zoo.nested import like

MIXING = (nn.modules.conv._ConvNd, nn.Linear)


def true_parents(make: Callable[[], nn.Module], example: Any) -> dict[str, set[str]]:
    """Which layers' outputs reach which layer without passing another one.

    Args:
        make: Makes the network.
        example: Its input.

    Returns:
        Names of the parents by name, of every convolution and linear layer that runs.
    """
    torch.manual_seed(11)
    model = make().eval()
    outputs: dict[tuple[str, int], Tensor] = {}
    inputs: dict[tuple[str, int], Tensor] = {}
    with torch.no_grad():
        with _watched(model, inputs, lambda key, out: outputs.setdefault(key, out.clone()).clone()):
            call(model, like(example))
        names = list(dict.fromkeys(name for name, _ in outputs))
        found: dict[str, set[str]] = {name: set() for name in names}
        for parent in names:
            seen: dict[tuple[str, int], Tensor] = {}

            def held(key: tuple[str, int], out: Tensor, parent: str = parent) -> Tensor:
                kept = outputs[key].clone()
                return kept + 3 * torch.randn_like(kept) if key[0] == parent else kept

            with _watched(model, seen, held):
                call(model, like(example))
            for key, source in seen.items():
                if not torch.equal(source, inputs[key]):
                    found[key[0]].add(parent)
    return found


@contextmanager
def _watched(
    model: nn.Module,
    inputs: dict[tuple[str, int], Tensor],
    output: Callable[[tuple[str, int], Tensor], Tensor],
) -> Iterator[None]:
    calls: dict[str, int] = {}
    handles = []

    def leave(module: nn.Module, args: Any, kwargs: Any, out: Tensor, name: str) -> Tensor:
        key = (name, calls.get(name, 0))
        calls[name] = key[1] + 1
        inputs[key] = (args[0] if args else kwargs["input"]).clone()
        return output(key, out)

    for name, module in model.named_modules():
        if isinstance(module, MIXING):
            handles.append(
                module.register_forward_hook(
                    lambda m, a, k, out, name=name: leave(m, a, k, out, name), with_kwargs=True
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
