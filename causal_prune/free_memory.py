"""How much memory there is to use."""

import os
from pathlib import Path

import torch

from causal_prune.errors import InputError

MEMINFO = Path("/proc/meminfo")


def allowed_memory(max_memory: int | None, device: torch.device) -> int:
    """What a caller's limit allows.

    Args:
        max_memory: Bytes; None for half of what is free.
        device: Where the memory is needed.

    Returns:
        Bytes, at least 1.

    Raises:
        InputError: If the limit is not positive.
    """
    if max_memory is None:
        return default_memory(device)
    if max_memory <= 0:
        raise InputError(
            f"max_memory: {max_memory} bytes hold nothing; give more, or None for half of what is free"
        )
    return max_memory


def default_memory(device: torch.device) -> int:
    """Half of the memory that is free, shared between the processes of this machine.

    Args:
        device: Where the memory is needed.

    Returns:
        Bytes. On Linux what the kernel holds available for new programs; elsewhere half of what is built in.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 2
    return _available() // 2 // max(processes, 1)


def _available() -> int:
    if MEMINFO.is_file():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
