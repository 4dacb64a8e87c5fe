"""Sums over the processes that torchrun starts: each sees its share of the images, all end with the same moments."""

import torch
import torch.distributed as dist
from torch import Tensor

from causal_prune.errors import CausalPruneError
from causal_prune.moments import Gathering


def processes() -> int:
    """How many processes work together.

    Returns:
        The size of the default process group of `torch.distributed`; 1 where there is none.
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def add_up(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes.

    Args:
        tensor: Of one shape in all processes; overwritten where it is on the device that the group's backend needs.

    Returns:
        The sum, on the tensor's device.
    """
    if processes() == 1:
        return tensor
    device = (
        torch.device("cuda", torch.cuda.current_device())
        if dist.get_backend() == "nccl"
        else torch.device("cpu")
    )
    moved = tensor.to(device)
    dist.all_reduce(moved)
    return moved.to(tensor.device)


def smallest(value: int) -> int:
    """The smallest of a number over the processes.

    Args:
        value: This process's number.

    Returns:
        The smallest one.
    """
    if processes() == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    held = torch.tensor([value], dtype=torch.int64, device=device)
    dist.all_reduce(held, op=dist.ReduceOp.MIN)
    return int(held)


def fail_together(error: Exception | None) -> None:
    """Let no process wait for one that has failed.

    Args:
        error: This process's error, or None.

    Raises:
        CausalPruneError: In processes without an error, if another one has failed.
        Exception: `error`, if there is one.
    """
    failed = float(add_up(torch.tensor([float(error is not None)], dtype=torch.float64)))
    if error is not None:
        raise error
    if failed:
        raise CausalPruneError(
            f"{failed:.0f} of {processes()} processes failed while they observed their images: see theirs"
        )


def gather_all(gathering: Gathering) -> None:
    """Give every process the moments of all processes' rows.

    With K the mean of all rows, S_i the scatter of process i about its own mean m_i and n_i its rows,
    sum_i (S_i + n_i (m_i - K)(m_i - K)^T) is the scatter of all rows about K. It is Chan's merge with a shift that all
    agree on, so that one sum is enough; a process without rows adds nothing.

    Args:
        gathering: This process's moments; becomes that of all.
    """
    if processes() == 1:
        return
    own = gathering.mean * gathering.count
    sums = add_up(torch.cat((own.new_tensor([float(gathering.count)]), own.flatten())))
    total = int(sums[0])
    mean = sums[1:].reshape(own.shape) / max(total, 1)
    gathering.shift_to(mean)
    gathering.scatter = add_up(gathering.scatter)
    gathering.count, gathering.mean = total, mean
