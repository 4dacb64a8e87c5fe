"""How much a network's outputs move with what every filter of its layers returns."""

from collections.abc import Mapping
from functools import partial
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from causal_prune.machine import add_up
from causal_prune.network.hooks import outputs_of
from causal_prune.network.layer_matrices import channel_dim
from causal_prune.network.row_groups import groups_in, row_groups_of, rows_together
from causal_prune.network.running import batch_size, call
from causal_prune.network.tensor_trees import ImageList, tensors_in

ONE_IN = 8
"""Of so many images one is looked at, chosen by what it holds, so that it does not matter who reads it, or when."""


class OutputEffects:
    """Squared derivatives of the outputs with respect to the outputs of layers, added up image by image.

    Of image n let z_n be all numbers that the network returns and y_i(p) what filter i returns at position p. Gathered
    is the mean over images of
        sum_p (s_n^T dz_n / dy_i(p))^2,
    with s_n random signs, the expectation of which is  sum_k sum_p (dz_nk / dy_i(p))^2  (Hutchinson 1990). A small
    error of variance v in filter i at every position, independent of all others, moves the outputs by that times v in
    mean square. The signs follow from the image itself, so that any order, batch size and number of processes give the
    same numbers. No labels are used, and no loss: where images are memorised, the loss depends on nothing any more.

    Args:
        model: The network, in eval mode.
        filters: Number of filters of the layers to look at, by name.
    """

    def __init__(self, model: nn.Module, filters: Mapping[str, int]) -> None:
        self.model = model
        self.modules = dict(model.named_modules())
        self.squares = {name: torch.zeros(count, dtype=torch.float64) for name, count in filters.items()}
        self.images = 0
        self.together = 0
        self.problem = ""

    def see(self, inputs: Any) -> None:
        """Look at the chosen images of a batch.

        Args:
            inputs: Of the network, on its device.

        Cost: a forward and a backward pass over one image in `ONE_IN`; weights get no gradients.
        """
        if self.problem or not self.squares or not batch_size(inputs):
            return
        self.together = self.together or rows_together(self.model, inputs)
        marks = _marks(inputs, self.together)
        chosen = [k for k, mark in enumerate(marks) if mark % ONE_IN == 0]
        if not chosen:
            return
        part = row_groups_of(inputs, torch.tensor(chosen), self.together)
        try:
            with torch.enable_grad():
                self._run(part, [marks[k] for k in chosen])
        except (
            RuntimeError
        ) as error:  # an operation without a derivative, or one that overwrites what it needs
            self.problem = str(error).splitlines()[0]
            return
        self.images += len(chosen)

    def _run(self, inputs: Any, marks: list[int]) -> None:
        zero = torch.zeros((), requires_grad=True)
        layers = {name: self.modules[name] for name in self.squares}
        with outputs_of(layers, partial(self._follow, zero)):
            returned = call(self.model, inputs)
        outputs = [
            leaf
            for leaf in tensors_in(returned)
            if leaf.requires_grad and leaf.is_floating_point() and leaf.numel()
        ]
        if not outputs:
            raise RuntimeError("no output has a derivative")
        torch.autograd.grad(outputs, [zero], [_signs(leaf, marks) for leaf in outputs])

    def _follow(self, zero: Tensor, name: str, module: nn.Module, out: Tensor) -> Tensor:
        """The output of a layer, whose gradient is counted when it passes by."""
        channel = channel_dim(module, out)
        others = [axis for axis in range(out.dim()) if axis != channel]
        followed = out + zero.to(out)

        def count(gradient: Tensor) -> None:
            self.squares[name] += gradient.detach().double().square().sum(dim=others).cpu()

        followed.register_hook(count)
        return followed

    def gather(self) -> None:
        """Let every process have the sums of all."""
        self.images = int(add_up(torch.tensor([float(self.images)], dtype=torch.float64)))
        failed = float(add_up(torch.tensor([float(bool(self.problem))], dtype=torch.float64)))
        if failed and not self.problem:
            self.problem = "another process met an error"
        for name in self.squares:
            self.squares[name] = add_up(self.squares[name])

    def result(self) -> dict[str, Tensor]:
        """The means.

        Returns:
            By layer one number per filter, float64; empty where nothing can be said, for want of images or of
            derivatives.
        """
        total = sum(float(squares.sum()) for squares in self.squares.values())
        if self.problem or not self.images or not 0 < total < float("inf"):
            return {}
        return {name: squares / self.images for name, squares in self.squares.items()}

    def notes(self) -> tuple[str, ...]:
        """What is not known.

        Returns:
            A sentence where an error kept the derivatives from being found; none otherwise.
        """
        if not self.problem:
            return ()
        return (
            f"all channels of a state count alike: how the outputs move with them is not known ({self.problem})",
        )


def _marks(inputs: Any, together: int = 1) -> list[int]:
    """A number for every image, or group of rows that belong together, that depends on nothing but its content."""
    count = groups_in(inputs, together)
    marks = [0] * count
    rows = tensors_in(inputs)
    lists = [[image] for image in rows] if isinstance(inputs, ImageList) else None
    for tensor in (
        [] if lists else [tensor for tensor in rows if tensor.dim() and len(tensor) == batch_size(inputs)]
    ):
        parts = tensor.detach().cpu().contiguous().split(together)
        marks = [_checked(part, mark) for part, mark in zip(parts, marks, strict=True)]
    return [_checked(image, 0) for (image,) in lists] if lists else marks


def _checked(values: Tensor, mark: int) -> int:
    return crc32(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(), mark)


def _signs(out: Tensor, marks: list[int]) -> Tensor:
    """Random signs of the shape of an output, image by image."""
    each = len(out) // len(marks) if out.dim() else 0
    drawn = [torch.Generator().manual_seed(mark) for mark in marks]
    if not each or len(out) % len(marks):
        return (2 * torch.randint(2, out.shape, generator=drawn[0]) - 1).to(out)
    shape = out.shape[1:] if each == 1 else (each, *out.shape[1:])
    rows = torch.stack([torch.randint(2, shape, generator=one) for one in drawn])
    return (2 * rows.reshape(out.shape) - 1).to(out)
