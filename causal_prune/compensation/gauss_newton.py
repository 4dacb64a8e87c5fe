"""Layers in series, each read by the next alone: how the last one's output moves with the weights of all."""

import copy
from collections.abc import Sequence
from math import ceil
from typing import cast

import torch
from torch import Tensor, nn

from causal_prune.compensation.cut_layer import CutLayer
from causal_prune.compensation.least_squares import Correction, Regression
from causal_prune.compensation.series import Series
from causal_prune.network.layer_matrices import groups_of, matrix_of, places_of, rows, weight_of

DIRECTIONS = 4
"""Steps of conjugate gradients."""
DAMPING = 0.1
"""Added to the factors of the preconditioner, as a share of their mean diagonal."""
ROUNDING = 1e-14
"""What is left of the gradient's square is rounding below this share of it."""
ROWS_PER_INPUT = 30
"""Of what a layer reads so many rows for every number of a row give the preconditioner's factors."""
MOST_ROWS = 20_000


class Linearised:
    """Layers in series at their present weights, on one batch, and the derivative J of their output.

    J is taken with respect to the weights and to constants that are added to what the layers return. `reads` holds what
    each layer reads, `behind` what is behind its batch norm; the last of these is the output.

    Args:
        series: The layers.
        source: What the first one reads.
    """

    def __init__(self, series: Series, source: Tensor) -> None:
        self.layers = series.layers
        self.weights = [layer.weight.detach().clone().requires_grad_() for layer in self.layers]
        self.constants = [
            weight.new_zeros(layer.filters) for weight, layer in zip(self.weights, self.layers, strict=True)
        ]
        self.reads: list[Tensor] = []
        self.behind: list[Tensor] = []
        self.open: list[Tensor] = []
        with torch.enable_grad():
            for k, layer in enumerate(self.layers):
                self.constants[k].requires_grad_()
                self.reads.append(source.detach())
                out = _linear(layer.module, self.weights[k], source, bias=True)
                out = out + layer.along(self.constants[k], out)
                nothing = layer.along(self.constants[k].detach(), out)
                behind = out * layer.along(layer.slope(), out) + layer.behind_norm(nothing)
                self.behind.append(behind)
                if k < len(series.bounds):
                    low, high = series.bounds[k]
                    self.open.append(((behind > low) & (behind < high)).detach())
                    source = torch.where(self.open[k], behind, behind.detach().clamp(low, high))

    def pull(self, error: Tensor) -> list[Tensor]:
        """J^T error.

        Args:
            error: Of the shape of the output.

        Returns:
            One tensor per weight, then one per constant.
        """
        leaves = [*self.weights, *self.constants]
        return list(torch.autograd.grad(self.behind[-1], leaves, error, retain_graph=True))

    def push(self, change: Sequence[Tensor]) -> Tensor:
        """J change.

        Args:
            change: One tensor per weight, then one per constant.

        Returns:
            Of the shape of the output.
        """
        pushed: Tensor | None = None
        for k, layer in enumerate(self.layers):
            out = _linear(layer.module, change[k], self.reads[k])
            out = out + layer.along(change[len(self.layers) + k], out)
            if pushed is not None:
                out += _linear(layer.module, self.weights[k].detach(), pushed)
            pushed = out * layer.along(layer.slope(), out)
            if k < len(self.open):
                pushed *= self.open[k]
        assert pushed is not None
        return pushed

    def sensitivities(self, weight: Tensor, generator: torch.Generator) -> list[Tensor]:
        """How the sum of all outputs, with random signs, moves with what every layer returns.

        Args:
            weight: Of every output, in a shape to multiply the output with; outputs count with its root.
            generator: Of the signs.

        Returns:
            By layer the derivative, of the shape of what the layer returns.
        """
        signs = torch.randint(2, self.behind[-1].shape, generator=generator) * 2 - 1
        found = torch.autograd.grad(
            self.behind[-1], self.behind, signs.to(weight) * weight.sqrt(), retain_graph=True
        )
        return [
            each * layer.along(layer.slope(), each) for layer, each in zip(self.layers, found, strict=True)
        ]


def gauss_newton(
    series: Series,
    parts: Sequence[Linearised],
    errors: Sequence[Tensor],
    weight: Tensor,
    condition: "Preconditioner",
) -> list[Correction]:
    """How all weights must change so that the output moves by what is missing, to first order.

    Minimises  sum_n sum_o w_o (e_no - (J d)_no)^2  over the change d of all weights and constants (Gauss and Newton),
    by a few steps of preconditioned conjugate gradients from d = 0. To stop early is what regularises it.

    Args:
        series: The layers.
        parts: They, on the images that make the fit.
        errors: By part what is missing behind the last layer's batch norm.
        weight: Of every output, in a shape to multiply the output with.
        condition: About the inverse of J^T J; it may come from other images.

    Returns:
        By layer the change; 0 for filters and inputs that were silenced instead of removed.

    Cost: per step about three forward passes of the layers over the images.
    """

    def pulled(values: Sequence[Tensor]) -> list[Tensor]:
        total = [torch.zeros_like(leaf) for leaf in (*parts[0].weights, *parts[0].constants)]
        for part, value in zip(parts, values, strict=True):
            for sum_, found in zip(total, part.pull(value * weight), strict=True):
                sum_ += found
        return _audible(series.layers, total)

    left = pulled(errors)
    change = [torch.zeros_like(each) for each in left]
    direction = condition(left)
    size = at_first = _inner(left, direction)
    for number in range(DIRECTIONS):
        pushed = [part.push(direction) for part in parts]
        curvature = sum(float((each.double().square() * weight).sum()) for each in pushed)
        if not curvature > 0 or not size > ROUNDING * at_first:
            break
        step = size / curvature
        change = [each + step * along for each, along in zip(change, direction, strict=True)]
        if number == DIRECTIONS - 1:
            break
        left = [each - step * found for each, found in zip(left, pulled(pushed), strict=True)]
        ready = condition(left)
        size, before = _inner(left, ready), size
        direction = [new + old * (size / before) for new, old in zip(ready, direction, strict=True)]
    count = len(series.layers)
    return [
        Correction(
            matrix_of(layer.module, change[k]),
            change[count + k].reshape(groups_of(layer.module), -1),
            0.0,
        )
        for k, layer in enumerate(series.layers)
    ]


class Preconditioner:
    """The inverse of J^T J, taken for block-diagonal with blocks that are Kronecker products.

    The block of a layer's weight is a sum over positions of (x x^T) (x) (g g^T), with x what the layer reads and g how
    the output moves with what it returns. It is taken for E[x x^T] (x) E[g g^T] times their number, as do Martens and
    Grosse (2015, section 3). A constant moves with the mean of x: the rest of the weight meets x about its mean.

    Args:
        series: The layers.
        parts: They, on some images.
        weight: Of every output, in a shape to multiply the output with.
        seed: Of random signs and places.
    """

    def __init__(self, series: Series, parts: Sequence[Linearised], weight: Tensor, seed: int) -> None:
        self.layers = layers = series.layers
        generator = torch.Generator().manual_seed(seed)
        self.factors: list[tuple[Tensor, Tensor, Tensor]] = []
        for k, (layer, gradient) in enumerate(
            zip(layers, parts[0].sensitivities(weight, generator), strict=True)
        ):
            groups = groups_of(layer.module)
            flat = layer.flat(gradient).double().reshape(-1, groups, layer.filters // groups).transpose(0, 1)
            positions = sum(part.behind[k].numel() for part in parts) / layer.filters
            mean, covariance = _moments(layer, [(part.reads[k], part.behind[k]) for part in parts], generator)
            outer = _inverse(flat.mT @ flat / flat.shape[1]) / positions
            self.factors.append((outer, mean.unsqueeze(1), _inverse(covariance)))

    def __call__(self, gradient: Sequence[Tensor]) -> list[Tensor]:
        """The product with J^T of something.

        Args:
            gradient: One tensor per weight, then one per constant.

        Returns:
            The same number of tensors, of the same shapes.
        """
        weights, constants = [], []
        for k, (layer, (outer, mean, inner)) in enumerate(zip(self.layers, self.factors, strict=True)):
            matrix = matrix_of(layer.module, gradient[k]).double()
            constant = gradient[len(self.layers) + k].double().reshape(len(matrix), -1, 1) * layer.free
            change = outer @ (matrix - constant * mean) @ inner
            shift = outer @ constant - (change * mean).sum(dim=2, keepdim=True)
            weights.append(weight_of(layer.module, change.to(gradient[k])))
            constants.append(shift.flatten().to(gradient[k]) * layer.free)
        return _audible(self.layers, [*weights, *constants])


def _moments(
    layer: CutLayer, seen: Sequence[tuple[Tensor, Tensor]], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of what a layer reads, from some of its places; about 0 where no constant is free."""
    regression = Regression(intercept=layer.free)
    places = places_of(layer.module, seen[0][1])
    wanted = min(ROWS_PER_INPUT * layer.unknowns, max(MOST_ROWS, layer.unknowns))
    taken = min(places, ceil(wanted / sum(len(x) for x, _ in seen)))
    for x, out in seen:
        places = places_of(layer.module, out)
        drawn = torch.randperm(places, generator=generator)[:taken].sort().values.to(x.device)
        for patches, _ in rows(layer.module, x, [out.detach()], drawn if places > 1 else None):
            regression.add(layer.audible(patches), patches[:, :, :1], held_out=False)
    return regression.inputs()


def _inverse(matrix: Tensor) -> Tensor:
    size = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
    size = torch.where(size > 0, size, torch.ones_like(size))
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    factor, failed = torch.linalg.cholesky_ex(matrix + DAMPING * size * eye)
    if bool(failed.any()) or not bool(factor.isfinite().all()):
        raise OverflowError
    return torch.cholesky_inverse(factor)


def _linear(module: nn.Module, weight: Tensor, x: Tensor, *, bias: bool = False) -> Tensor:
    """What a layer returns with another weight, without its hooks."""
    other = copy.copy(module)
    other._parameters = {"weight": None, "bias": module._parameters["bias"] if bias else None}
    other.__dict__["weight"] = weight
    return cast(Tensor, other.forward(x))


def _audible(layers: Sequence[CutLayer], gradient: Sequence[Tensor]) -> list[Tensor]:
    """Nothing is asked of filters and inputs that were silenced instead of removed."""
    weights, constants = [], []
    for k, layer in enumerate(layers):
        matrix = layer.audible(matrix_of(layer.module, gradient[k]))
        spoken = layer.spoken().to(matrix)
        weights.append(weight_of(layer.module, matrix * spoken.reshape(len(matrix), -1, 1)))
        constants.append(gradient[len(layers) + k] * spoken)
    return [*weights, *constants]


def _inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))
