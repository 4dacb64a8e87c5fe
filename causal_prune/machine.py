"""What this computer offers: free memory, processes that work together, devices, the block of its convolutions."""

import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from causal_prune.errors import CausalPruneError, InputError, one_line

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
    shared = tensor.to(device)
    dist.all_reduce(shared)
    return shared.to(tensor.device)


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


def alignment(align: int | Literal["auto"]) -> int:
    """The block of channels that ONNX Runtime's convolutions compute at once.

    Args:
        align: "auto" to read the machine: 16 with AVX-512, 8 with AVX2, 4 otherwise; or a number, which is returned.

    Returns:
        Number of channels.

    Raises:
        InputError: If the number is below 1.
    """
    if align == "auto":
        return {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 4)
    if align < 1:
        raise InputError(f"align: {align} is not at least 1")
    return align


def environment(threads: int) -> dict[str, str | int | float | bool | None]:
    """What the numbers were made with.

    Args:
        threads: Of ONNX Runtime.

    Returns:
        Versions, processor and threads.
    """
    packages = ("torch", "torchvision", "torch-pruning", "onnx", "onnxruntime", "numpy", "causal-prune")
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": platform.platform(),
        "cpu": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
        "onnxruntime_threads": threads,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )


def check_device(device: str) -> None:
    """Refuse a device that this computer does not have.

    Args:
        device: Such as "cpu" or "cuda:1".

    Raises:
        InputError: If torch cannot put a tensor there.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as cause:  # an assertion: torch was built without CUDA
        raise InputError(f"device: {device} cannot be used on this machine: {one_line(cause)}") from cause


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch inside the block: small networks train faster, and to the same bits on any machine.

    Yields:
        Nothing; the former number returns at the end of the block.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all.

    Args:
        path: The file; what was there before stays until the end of the block, and for good where that raises.

    Yields:
        Another path, beside it, that becomes the file.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        yield written
        written.replace(path)
