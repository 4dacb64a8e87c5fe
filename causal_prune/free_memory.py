"""How much memory there is to use."""

import os
from pathlib import Path

import torch

MEMINFO = Path("/proc/meminfo")


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
