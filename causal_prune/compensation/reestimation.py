"""Re-estimation of batch-norm statistics: the cheap repair."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from causal_prune.errors import InputError, warn
from causal_prune.network.ambient_modes import undisturbed
from causal_prune.network.hooks import calls_seen
from causal_prune.network.running import (
    Inputs,
    attempt,
    batch_size,
    copied,
    device_of,
    inputs_for,
    modes_kept,
    on_device,
    seeded,
)
from causal_prune.network.spread import Spread
from causal_prune.network.tensor_trees import mapped, tensors_in
from causal_prune.progress import track


@undisturbed
def reestimate(
    pruned: nn.Module,
    dense: nn.Module,
    calibration: Iterable[Any],
    *,
    device: str | torch.device = "cpu",
    label: str = "compensate",
) -> nn.Module:
    """Re-estimate the running statistics of every batch norm on the calibration images.

    This is the adaptive batch norm of EagleEye (Li et al. 2020, section 3.3). Over all values x of one channel at the
    layer's input, of all images and positions, with n_k values of mean m_k and squared deviations M_k in batch k:

        mean = sum_k n_k m_k / n,    var = (sum_k M_k + sum_k n_k (m_k - mean)^2) / (n - 1),    n = sum_k n_k

    which is the pooled, unbiased variance: it counts the differences between batches and weights uneven batches
    by their size, where PyTorch's cumulative average (momentum=None) does neither. As in training, each batch is
    normalised by its own statistics on the way to deeper layers; a batch with a single value per channel has
    none, and is normalised by what has been pooled so far. Dropout and all else stay in eval mode.

    Args:
        pruned: The cut network; not changed.
        dense: The network that it was cut from; not changed. It must accept the same images.
        calibration: Batches of 32 images or more: small ones distort what deeper layers see.
        device: Where to compute.
        label: What the progress bar is called.

    Returns:
        A copy of `pruned`, on its device, in its train or eval mode. Unchanged are networks without batch norm,
        and layers without running statistics or that no image reaches in eval mode. A constant channel gets
        variance 0, and stays finite by the layer's eps.

    Raises:
        InputError: If the calibration set is empty, one of the networks does not accept it, or a batch norm reads
            NaN or infinite values.

    Warns:
        CausalPruneWarning: If there are fewer than 2 images, every batch has one image, or a layer saw fewer than
            2 values per channel (its statistics are kept).

    Cost: one forward pass over the calibration set; memory of two vectors per batch norm.
    """
    repaired = copied(pruned)
    norms = normalisations(repaired)
    if not norms:
        return repaired
    with seeded(0, device), torch.no_grad(), modes_kept(repaired):
        repaired.to(device).eval()
        pooled = _observe(repaired, dense, norms, calibration, device=device, label=label)
    for name, statistics in pooled.items():
        _write(statistics, name)
    return repaired.to(device_of(pruned))


def normalisations(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch norms that keep running statistics.

    Args:
        model: The network.

    Returns:
        Layers by name; empty for a network without.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.running_mean is not None
    }


class _Pooled:
    """What a batch norm read so far."""

    def __init__(self, norm: _BatchNorm) -> None:
        self.norm = norm
        self.batches = 0
        self.spread = Spread()

    def add(self, values: Tensor) -> int:
        """Merge one batch.

        Args:
            values: The layer's input, (N, C, ...).

        Returns:
            The number of values per channel in it.
        """
        size = values.numel() // values.shape[1]
        axes = [axis for axis in range(values.dim()) if axis != 1]
        variance, mean = torch.var_mean(
            values.float() if values.element_size() < 4 else values, axes, correction=0
        )
        variance, mean = variance.cpu().double(), mean.cpu().double()
        self.spread = self.spread.with_more(size, mean, variance * size)
        self.batches += 1
        return size

    def normalised(self, values: Tensor) -> Tensor:
        """Count what the layer reads, and normalise it as in train mode.

        Args:
            values: The layer's input.

        Returns:
            The normalised input.
        """
        weight, bias, eps = self.norm.weight, self.norm.bias, self.norm.eps
        if self.add(values) > 1:
            return nn.functional.batch_norm(values, None, None, weight, bias, training=True, eps=eps)
        seen = self.spread
        mean, variance = seen.mean.to(values), (seen.squares / seen.count).to(values)
        return nn.functional.batch_norm(values, mean, variance, weight, bias, eps=eps)


def _observe(
    repaired: nn.Module,
    dense: nn.Module,
    norms: dict[str, _BatchNorm],
    calibration: Iterable[Any],
    *,
    device: str | torch.device,
    label: str,
) -> dict[str, _Pooled]:
    """Pool the inputs of the batch norms over the calibration set.

    Args:
        repaired: The network, in eval mode, on `device`.
        dense: The network that it was cut from.
        norms: The batch norms of `repaired` that keep statistics, by name.
        calibration: The batches.
        device: Where to compute.
        label: What the progress bar is called.

    Returns:
        What each batch norm read, by name.

    Raises:
        InputError: If there is no batch, or a network does not accept one.
    """
    pooled = {name: _Pooled(norm) for name, norm in norms.items()}
    sizes: list[int] = []
    with calls_seen(norms, lambda name, _, source, __: pooled[name].normalised(source)):
        for number, inputs in numbered(repaired, track(calibration, label), device):
            outputs = attempt(
                "compensate: the pruned network", repaired, inputs, f"batch {number} of calibration"
            )
            if not sizes:
                check_same_task(dense, inputs, outputs)
            sizes.append(batch_size(inputs))
    if not sizes:
        raise InputError("compensate: calibration has no batch: give at least 2 images")
    if sum(sizes) < 2:
        warn("compensate: calibration has 1 image, and batch-norm statistics need at least 2")
    elif max(sizes) < 2:
        warn(
            f"compensate: calibration has {sum(sizes)} images in batches of 1, so that deeper batch norms see "
            "every image normalised by itself: give batches of 32 or more"
        )
    return pooled


def numbered(
    model: nn.Module, calibration: Iterable[Any], device: str | torch.device
) -> Iterator[tuple[int, Inputs]]:
    """The inputs of all batches that hold images, with the number of the batch.

    Args:
        model: The network that takes them.
        calibration: The batches.
        device: Where the inputs shall be.

    Yields:
        A number from 1, and inputs.

    Raises:
        InputError: If an input is NaN or infinite.
    """
    for number, batch in enumerate(calibration, start=1):
        inputs = inputs_for(model, batch, device)
        tensors = tensors_in(inputs)
        if not all(bool(each.isfinite().all()) for each in tensors if each.is_floating_point()):
            raise InputError(f"compensate: batch {number} of calibration holds NaN or infinite values")
        if all(len(each) for each in tensors if each.dim()):
            yield number, inputs


def check_same_task(dense: nn.Module, inputs: Inputs, outputs: Any) -> None:
    """Refuse a dense network that returns other shapes than the cut one.

    Args:
        dense: The dense network.
        inputs: One batch.
        outputs: What the cut network returned for it.

    Raises:
        InputError: If the shapes differ, or the dense network does not accept the batch.
    """
    with modes_kept(dense):
        expected = attempt(
            "compensate: the dense network",
            dense.eval(),
            on_device(inputs, device_of(dense)),
            "batch 1 of calibration",
        )
    shapes = [[tuple(tensor.shape) for tensor in tensors_in(value)] for value in (expected, outputs)]
    if shapes[0] != shapes[1] and not _varying(dense, inputs, shapes[0]):
        raise InputError(
            f"compensate: on the first calibration batch dense returns {shapes[0]} and pruned {shapes[1]}: "
            "give the network that pruned was cut from"
        )


def _varying(dense: nn.Module, inputs: Inputs, shapes: list[tuple[int, ...]]) -> bool:
    """Whether the shapes that a network returns depend on its images: boxes that are left after suppression."""

    def changed(tensor: Tensor) -> Tensor:
        return torch.randn_like(tensor) if tensor.is_floating_point() and tensor.dim() else tensor

    with modes_kept(dense), seeded(0, device_of(dense)):
        dense.eval()
        for _ in range(4):
            other = attempt(
                "compensate: the dense network",
                dense,
                on_device(mapped(changed, inputs), device_of(dense)),
                "noise of the form of batch 1",
            )
            if [tuple(tensor.shape) for tensor in tensors_in(other)] != shapes:
                return True
    return False


def _write(statistics: _Pooled, name: str) -> None:
    """Put pooled statistics into their batch norm.

    Args:
        statistics: What it read.
        name: Its name, for messages.

    Raises:
        InputError: If it read NaN or infinite values.
    """
    norm, spread = statistics.norm, statistics.spread
    count, mean, squares = spread.count, spread.mean, spread.squares
    if count == 0:
        return
    if not bool((mean + squares).isfinite().all()):
        raise InputError(
            f"compensate: batch norm {name!r} reads NaN or infinite values on the calibration data: "
            "check the images and the weights before it"
        )
    if count < 2:
        warn(
            f"compensate: batch norm {name!r} saw 1 value per channel, and a variance needs at least 2: "
            "its statistics are kept"
        )
        return
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(squares / (count - 1))
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.fill_(statistics.batches)
