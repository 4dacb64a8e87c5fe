"""Adapters: forward hooks that pick channels, or put removed ones back as zeros, at the border of a module."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten


class AdapterSpec(Protocol):
    """What an adapter needs to know (see `surgery.AdapterCut`)."""

    @property
    def side(self) -> Literal["in", "out"]: ...  # noqa: D102
    @property
    def leaf(self) -> int: ...  # noqa: D102
    @property
    def dim(self) -> int: ...  # noqa: D102
    @property
    def form(self) -> Literal["pick", "restore"]: ...  # noqa: D102
    @property
    def keep(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102


class ChannelAdapter:
    """Picks the channels that stay out of all channels, or makes all channels from those that stay.

    Args:
        spec: Which tensor, which dimension, which channels.
    """

    def __init__(self, spec: AdapterSpec) -> None:
        self.leaf, self.dim = spec.leaf, spec.dim
        self.restores = spec.form == "restore"
        if self.restores:  # the channel behind the last is a zero, and stands wherever a channel is gone
            place = {channel: index for index, channel in enumerate(spec.keep)}
            self.index = torch.tensor([place.get(channel, len(spec.keep)) for channel in range(spec.size)])
        else:
            self.index = torch.tensor(spec.keep, dtype=torch.int64)

    def adapt(self, tree: Any) -> Any:
        """Adapt one tensor of nested arguments or results.

        Args:
            tree: Nested tuples, lists and dictionaries.

        Returns:
            The same nesting.
        """
        leaves, form = tree_flatten(tree)
        leaves[self.leaf] = self._adapt(leaves[self.leaf])
        return tree_unflatten(leaves, form)

    def _adapt(self, tensor: Tensor) -> Tensor:
        if self.restores:
            tensor = torch.cat((tensor, torch.zeros_like(tensor.narrow(self.dim, 0, 1))), dim=self.dim)
        return tensor.index_select(self.dim, self.index.to(tensor.device))


class _OnArguments(ChannelAdapter):
    def __call__(self, module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return self.adapt((tuple(args), kwargs))


class _OnResult(ChannelAdapter):
    def __call__(self, module: nn.Module, args: Sequence[Any], result: Any) -> Any:
        return self.adapt(result)


def attach(module: nn.Module, spec: AdapterSpec) -> None:
    """Let a module pick or put back channels whenever it runs.

    Args:
        module: A module of a copied network; it gets a hook.
        spec: What to do.
    """
    if spec.side == "in":
        module.register_forward_pre_hook(_OnArguments(spec), with_kwargs=True)
    else:
        module.register_forward_hook(_OnResult(spec))
