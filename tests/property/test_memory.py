"""The repair keeps to the memory that it may take, however many images there are."""

import subprocess
import sys
from pathlib import Path

import pytest

MEASURED = """
import sys, threading, time, warnings
import torch
from torch import Tensor, nn
import causal_prune as cp
from causal_prune.compensation import Repair, repair

warnings.simplefilter("ignore")
torch.set_num_threads(2)
torch.manual_seed(0)
count, batch, limit = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) * 2**20

class Block(nn.Module):
    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.c1, self.n1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.c2, self.n2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.down = nn.Identity() if a == b else nn.Conv2d(a, b, 1, stride)
    def forward(self, x: Tensor) -> Tensor:
        return (self.n2(self.c2(self.n1(self.c1(x)).relu())) + self.down(x)).relu()

net = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), Block(32, 32, 1), Block(32, 48, 2), Block(48, 64, 2),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
).eval()
images = torch.randn(count, 3, 64, 64)
graph = cp.trace(net, images[:2])
scores = cp.score(graph, cp.observe(net, graph, [images[:32]]))
small = cp.remove(net, cp.plan(graph, scores, keep_macs=0.5))

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

cp.compensate(small, net, [images[:32]])  # what is loaded once is loaded
before, peak, done = resident(), [0], threading.Event()
def watch() -> None:
    while not done.wait(0.003):
        peak[0] = max(peak[0], resident())
watcher = threading.Thread(target=watch)
watcher.start()
repair(small, net, list(images.split(batch)), Repair(max_memory=limit))
done.set()
watcher.join()
print((peak[0] - before) // 2**20)
"""
WIDEST = 32 * 64 * 64 * 4 / 2**20
"""MiB of the widest output for one image."""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident size is read from /proc")
@pytest.mark.parametrize("limit", [300, 600])
def test_the_peak_is_what_it_may_be_and_a_few_batches(limit: int) -> None:
    batch, count = 16, 512
    command = [sys.executable, "-c", MEASURED, str(count), str(batch), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout)
    assert peak <= 1.1 * limit + 10 * batch * WIDEST, f"{peak} MiB of {limit}"
    assert peak < 10 * count * WIDEST / 2, "all images at once would take more"
