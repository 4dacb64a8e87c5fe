"""One layer of a cut network: which channels of the dense one it still has, and its weights as they change."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from causal_prune.compensation.least_squares import Correction
from causal_prune.network.layer_matrices import channel_dim, groups_of, matrix_of, weight_of
from causal_prune.surgery import LayerCut

Saved = Sequence[tuple[Tensor, Tensor]]
"""The tensors that a refit writes, and the values that they had."""


class CutLayer:
    """A convolution or linear layer of a cut network.

    Args:
        module: The layer.
        norm: The batch norm that alone reads its output, if there is one.
        cut: What was cut of it; None if nothing was.
    """

    def __init__(self, module: nn.Module, norm: nn.Module | None, cut: LayerCut | None) -> None:
        self.module, self.norm, self.cut = module, norm, cut
        linear = isinstance(module, nn.Linear)
        self.filters = cast(int, module.out_features if linear else module.out_channels)
        self.inputs = cast(int, module.in_features if linear else module.in_channels)

    @property
    def weight(self) -> Tensor:
        """The layer's weight."""
        return cast(Tensor, self.module.weight)

    @property
    def unknowns(self) -> int:
        """Number of weights of a filter."""
        return matrix_of(self.module, self.weight).shape[2]

    @property
    def lost_inputs(self) -> bool:
        """Whether inputs that it mixes were cut, so that it cannot return what it did."""
        cut = self.cut
        return (
            cut is not None
            and cut.grouping == "dense"
            and cut.keep_inputs is not None
            and len(cut.keep_inputs) < cut.inputs
        )

    @property
    def lost_filters(self) -> bool:
        """Whether filters of it were cut."""
        cut = self.cut
        return cut is not None and cut.keep_filters is not None and len(cut.keep_filters) < cut.filters

    @property
    def depthwise(self) -> bool:
        """Whether it mixes no channels, so that what it lost is nothing that it would need."""
        return 1 < groups_of(self.module) == self.inputs

    @property
    def free(self) -> bool:
        """Whether a constant can be added to its output."""
        return self.module.bias is not None or self.norm is not None

    def behind_norm(self, out: Tensor) -> Tensor:
        """What the batch norm makes of an output.

        Args:
            out: As the layer returns it.

        Returns:
            The same where there is no batch norm.
        """
        return out if self.norm is None else cast(Tensor, self.norm.forward(out))

    def slope(self) -> Tensor:
        """By how much what is behind the batch norm changes with what is before it.

        Returns:
            One number per filter.
        """
        if self.norm is None:
            return torch.ones(self.filters, device=cast(Tensor, self.module.weight).device)
        variance, weight = cast(Tensor, self.norm.running_var), cast(Tensor | None, self.norm.weight)
        slope = (variance + cast(float, self.norm.eps)).rsqrt()
        return slope if weight is None else slope * weight.detach()

    def kept(self, out: Tensor) -> Tensor:
        """The channels of a dense output that the layer still has.

        Args:
            out: Of the dense layer, or of what follows it channel by channel.

        Returns:
            The part that is left.
        """
        if self.cut is None or self.cut.keep_filters is None or self.filters == self.cut.filters:
            return out
        kept = torch.tensor(self.cut.keep_filters, device=out.device)
        return out.index_select(channel_dim(self.module, out), kept)

    def kept_rows(self, matrix: Tensor) -> Tensor:
        """The rows of the dense layer's weight that the layer still has.

        Args:
            matrix: Shape (filters, inputs).

        Returns:
            The part that is left.
        """
        return (
            matrix
            if self.cut is None or self.cut.keep_filters is None
            else matrix[list(self.cut.keep_filters)]
        )

    def masked(self, residual: Tensor) -> Tensor:
        """Filters that were silenced instead of removed stay silent: nothing is asked of them.

        Args:
            residual: Of the shape of the output.

        Returns:
            The same with zeros for them.
        """
        cut = self.cut
        if cut is None or cut.keep_filters is None or self.filters != cut.filters:
            return residual
        gone = sorted(set(range(cut.filters)) - set(cut.keep_filters))
        at = torch.tensor(gone, device=residual.device)
        return residual.index_fill(channel_dim(self.module, residual), at, 0)

    def audible(self, patches: Tensor) -> Tensor:
        """What the layer reads, without the inputs that were silenced instead of removed.

        Args:
            patches: Shape (groups, rows, inputs per group times kernel elements).

        Returns:
            The same with zeros for them.
        """
        cut = self.cut
        if cut is None or cut.keep_inputs is None or cut.grouping != "dense" or self.inputs != cut.inputs:
            return patches
        line = torch.zeros(cut.inputs, dtype=patches.dtype, device=patches.device)
        line[list(cut.keep_inputs)] = 1
        return patches * line.repeat_interleave(patches.shape[2] // cut.inputs)

    def spoken(self) -> Tensor:
        """Which filters were not silenced.

        Returns:
            One truth value per filter.
        """
        cut = self.cut
        spoken = torch.ones(self.filters, dtype=torch.bool, device=cast(Tensor, self.module.weight).device)
        if cut is not None and cut.keep_filters is not None and self.filters == cut.filters:
            spoken[:] = False
            spoken[list(cut.keep_filters)] = True
        return spoken

    def along(self, values: Tensor, out: Tensor) -> Tensor:
        """One number per filter in the shape to multiply an output with.

        Args:
            values: Shape (filters,).
            out: Of the layer.

        Returns:
            A view.
        """
        dim = channel_dim(self.module, out)
        return values.to(out).reshape([-1 if axis == dim else 1 for axis in range(out.dim())])

    def flat(self, out: Tensor) -> Tensor:
        """An output as rows of filters.

        Args:
            out: Of the layer.

        Returns:
            Shape (positions of all images, filters).
        """
        return out.movedim(channel_dim(self.module, out), -1).reshape(-1, self.filters)

    def state(self) -> Saved:
        """What a refit writes.

        Returns:
            The tensors and copies of their values.
        """
        return [(tensor, tensor.detach().clone()) for tensor in self._written()]

    def restore(self, saved: Saved) -> None:
        """Go back.

        Args:
            saved: From `state`.
        """
        for tensor, value in saved:
            tensor.detach().copy_(value)

    def choose(self, better: Tensor, saved: Saved) -> None:
        """Give filters that are no better the weights back that they had.

        Args:
            better: One truth value per filter.
            saved: From `state`.
        """
        for tensor, value in saved:
            if tensor is self.module.weight:
                chosen, old = matrix_of(self.module, tensor.detach()), matrix_of(self.module, value)
                mask = better.reshape(chosen.shape[:2]).unsqueeze(2)
                tensor.detach().copy_(weight_of(self.module, torch.where(mask, chosen, old)))
            else:
                tensor.detach().copy_(torch.where(better, tensor.detach(), value))

    def write(self, correction: Correction) -> None:
        """Change weight and bias, or the batch norm's mean in its place.

        Args:
            correction: By how much.
        """
        weight, *offset = self._written()
        weight.detach().add_(weight_of(self.module, correction.weight).to(weight))
        for tensor in offset:
            tensor.detach().add_(self._sign() * correction.bias.flatten().to(tensor))

    def since(self, saved: Saved, ridge: float) -> Correction:
        """What weight and bias have changed by.

        Args:
            saved: From `state`.
            ridge: To note in the result.

        Returns:
            The change.
        """
        weight, first = saved[0]
        matrix = matrix_of(self.module, weight.detach() - first)
        return Correction(matrix, self._constant(saved).reshape(len(matrix), -1), ridge)

    def change_since(self, saved: Saved, source: Tensor, before: Tensor) -> Tensor:
        """What its output, with what was put into the batch norm in place of a bias, has changed by.

        Args:
            saved: From `state`, taken when the output was computed.
            source: What the layer reads.
            before: Its output then.

        Returns:
            The change, of the shape of the output.
        """
        now = cast(Tensor, self.module.forward(source)) - before
        if self.module.bias is not None or self.norm is None:
            return now
        shape = [-1 if axis == channel_dim(self.module, now) else 1 for axis in range(now.dim())]
        return now + self._constant(saved).reshape(shape)

    def _constant(self, saved: Saved) -> Tensor:
        """What has been added to the output of every filter, whatever it reads."""
        weight, *offset = saved
        if not offset:
            return torch.zeros(self.filters, dtype=weight[0].dtype, device=weight[0].device)
        ((tensor, value),) = offset
        return self._sign() * (tensor.detach() - value)

    def _written(self) -> list[Tensor]:
        tensors = [cast(Tensor, self.module.weight)]
        if self.module.bias is not None:
            tensors.append(cast(Tensor, self.module.bias))
        elif self.norm is not None:
            tensors.append(cast(Tensor, self.norm.running_mean))
        return tensors

    def _sign(self) -> int:
        """A batch norm takes its mean off, so that a smaller one adds to the output."""
        return 1 if self.module.bias is not None else -1
