"""Adapters: forward hooks that pick channels, or put removed ones back as zeros, at the border of a module."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from causal_prune.surgery.cuts import AdapterCut


class ChannelAdapter:
    """Picks the channels that stay out of all channels, or makes all channels from those that stay.

    Args:
        cut: Which tensor, which dimension, which channels.
    """

    def __init__(self, cut: AdapterCut) -> None:
        self.leaf, self.dim = cut.leaf, cut.dim
        self.restores = cut.form == "restore"
        self.missing = 0  # channels that are gone, where they all stand behind those that stay
        if self.restores:  # the channel behind the last is a zero, and stands wherever a channel is gone
            self.missing = cut.size - len(cut.keep) if cut.keep == tuple(range(len(cut.keep))) else 0
            place = {channel: index for index, channel in enumerate(cut.keep)}
            self.index = torch.tensor([place.get(channel, len(cut.keep)) for channel in range(cut.size)])
        else:
            self.index = torch.tensor(cut.keep, dtype=torch.int64)

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
        if (
            self.restores
        ):  # no size is computed at run time: a file holds one Pad, and one Gather where needed
            behind = [0, 0] * (tensor.dim() - 1 - self.dim % tensor.dim())
            tensor = nn.functional.pad(tensor, (*behind, 0, self.missing or 1))
            if self.missing:
                return tensor
        return tensor.index_select(self.dim, self.index.to(tensor.device))


class _OnArguments(ChannelAdapter):
    def __call__(self, module: nn.Module, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        return self.adapt((tuple(args), kwargs))


class _OnResult(ChannelAdapter):
    def __call__(self, module: nn.Module, args: Sequence[Any], result: Any) -> Any:
        return self.adapt(result)


def attach(module: nn.Module, cut: AdapterCut) -> None:
    """Let a module pick or put back channels whenever it runs.

    Args:
        module: A module of a copied network; it gets a hook.
        cut: What to do.
    """
    if cut.side == "in":
        module.register_forward_pre_hook(_OnArguments(cut), with_kwargs=True)
    else:
        module.register_forward_hook(_OnResult(cut))
