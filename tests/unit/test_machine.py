"""What the computer offers: memory, processes, devices, blocks of channels."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from causal_prune import machine
from causal_prune.errors import InputError
from causal_prune.observation.filter_moments import observe
from causal_prune.tracing.network_trace import trace

CPU = torch.device("cpu")


def test_one_process_is_left_alone() -> None:
    assert machine.processes() == 1 and machine.smallest(7) == 7
    values = torch.arange(3.0)
    assert machine.add_up(values) is values
    machine.fail_together(None)
    with pytest.raises(InputError, match="mine"):
        machine.fail_together(InputError("mine"))


def test_the_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = machine.default_memory(CPU)
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "4")
    shared = machine.default_memory(CPU)
    assert 0 < shared < alone and shared == pytest.approx(alone / 4, rel=0.5)


@pytest.mark.filterwarnings("ignore:the documented score is not available", "ignore:.* is read as channels")
def test_statistics_take_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "default_memory", lambda device: 1)
    net = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 3, 3))
    images = torch.randn(8, 2, 6, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="more than the 0 MB that max_memory leaves"):
        assert observe(net, trace(net, images[:1]), [images]).notes


def test_a_limit_of_the_caller_wins_and_must_be_positive() -> None:
    assert machine.allowed_memory(12345, CPU) == 12345
    for wrong in (0, -1):
        with pytest.raises(InputError, match=f"max_memory: {wrong} bytes hold nothing; give more"):
            machine.allowed_memory(wrong, CPU)


def test_the_kernels_own_figure_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 900 kB\nMemAvailable:    600 kB\n")
    monkeypatch.setattr(machine, "MEMINFO", info)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert machine.default_memory(CPU) == 300 * 1024
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "none")
    assert machine.default_memory(CPU) > 2**20, "what is built in, where the kernel does not say"


def test_alignment_reads_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, block in (("AVX512", 16), ("AVX2", 8), ("DEFAULT", 4), ("NO AVX", 4)):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda found=capability: found)
        assert machine.alignment("auto") == block
    assert machine.alignment(5) == 5
    for wrong in (0, -8):
        with pytest.raises(InputError, match=f"align: {wrong} is not at least 1"):
            machine.alignment(wrong)


def test_devices_that_are_not_there_are_refused() -> None:
    machine.check_device("cpu")
    with pytest.raises(InputError, match="device: mps cannot be used on this machine: "):
        machine.check_device("mps" if sys.platform != "darwin" else "xpu")


def test_one_thread_for_a_while_also_after_an_error() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with suppress(ZeroDivisionError), machine.one_thread():
            assert torch.get_num_threads() == 1
            _ = 1 / 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_environment_names_versions_machine_and_threads() -> None:
    found = machine.environment(3)
    assert found["onnxruntime_threads"] == 3 and found["torch_threads"] == torch.get_num_threads()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {
        "python",
        "onnxruntime",
        "numpy",
        "platform",
        "cpu",
        "causal-prune",
        "torch-pruning",
    } <= found.keys()
    assert all(found.values())
