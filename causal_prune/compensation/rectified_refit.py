"""Refits once more, for what a rectifier lets through: of two values below zero a ReLU does not tell which it was."""

from collections.abc import Iterable

import torch
from torch import Tensor

from causal_prune.compensation.least_squares import Correction, Regression
from causal_prune.compensation.output_paths import Bounds

Rows = tuple[Tensor, Tensor, Tensor]


def shortfall(wanted: Tensor, missing: Tensor, bounds: Bounds) -> Tensor:
    """What is missing before a rectifier, where all values beyond a bound are as good as each other.

    Args:
        wanted: What should be there.
        missing: What has to be added to what is there.
        bounds: The least and the largest value that get through.

    Returns:
        `missing`, but only up to the bound where `wanted` lies beyond it; 0 where both lie beyond it.

    Example:
        >>> shortfall(torch.tensor([2.0, -1.0, -1.0]), torch.tensor([3.0, -3.0, 3.0]), (0.0, float("inf")))
        tensor([ 3., -2.,  0.])
    """
    low, high = bounds
    now = wanted - missing
    left = torch.where(wanted <= low, (low - now).clamp_max(0), missing)
    return torch.where(wanted >= high, (high - now).clamp_min(0), left)


def step(
    rows: Iterable[Rows],
    known: Regression,
    change: Correction,
    bounds: Bounds,
    slope: Tensor,
) -> Correction | None:
    """One step of the minimisation of  E shortfall(y, y - W x - b)^2  over a layer's weight and bias.

    What a rectifier lets through is off by no more than the shortfall. The shortfall's square is a convex function of
    W x + b that the square of  z - (W x + b)  touches from above, where z is y or, beyond a bound, the nearest value
    beyond it to what the layer gives now. To regress z on x is hence a step down (majorise and minimise, Hunter and
    Lange 2004), and all steps share the Gram matrix of x. Zhang et al. 2016 ("Accelerating very deep convolutional
    networks", section 3.2) solve the same problem for ReLU by splitting it.

    Args:
        rows: Inputs x, what is missing of the layer's output with its first weights, and what is wanted behind its
            batch norm and sum; shapes (groups, rows, inputs), (groups, rows, outputs) twice.
        known: The regression with these inputs.
        change: By how much weight and bias were changed since; with the ridge to use.
        bounds: Of the rectifier.
        slope: Of what lies between the layer and the rectifier, per output, shape (groups, 1, outputs).

    Returns:
        A further change; None where the equations have no finite solution.

    Cost: per row one product with the weight and one with the inputs.
    """
    regression = known.afresh()
    for x, missing, wanted in rows:
        left = missing - x @ change.weight.mT.to(x) - change.bias.unsqueeze(1).to(x)
        regression.add(
            x, shortfall(wanted, slope * left, bounds) * inverse(slope), held_out=False, known=True
        )
    return regression.solve((change.ridge,))


def inverse(slope: Tensor) -> Tensor:
    """One over every slope; 0 where it is so flat that nothing before it matters.

    Args:
        slope: Of a batch norm, per filter.

    Returns:
        The inverses.
    """
    return torch.where(slope.abs() > 1e-6, 1 / slope, 0 * slope)
