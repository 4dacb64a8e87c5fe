"""Time of every attribution map: `make bench-maps`.

CIFAR ResNet-56 with drawn weights, images of 32 x 32, one thread. A pass is a forward and a backward pass over the
same images, down to all parameters; ratios are medians of runs that alternate with it.
"""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from causal_prune.explanation import activation_maximisation
from causal_prune.explanation.map_drift import MAPPED
from examples.cifar_resnet import resnet56

FAMILY = ("cam", "grad_cam", "grad_cam_plus_plus")
LIMIT = 3.0
"""So many passes the Grad-CAM family may take for 256 images."""


def seconds(what: Callable[[], object]) -> float:
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def a_pass(network: nn.Module, images: Tensor) -> Callable[[], None]:
    """A forward and a backward pass, in batches of 64."""

    def run() -> None:
        for part in images.split(64):
            network.zero_grad()
            network(part).logsumexp(dim=1).sum().backward()

    return run


def measured(what: Callable[[], object], against: Callable[[], object], times: int) -> tuple[float, float]:
    """Median seconds, and the median ratio to what alternates with it."""
    pairs = [(seconds(against), seconds(what)) for _ in range(times)]
    return statistics.median(own for _, own in pairs), statistics.median(own / other for other, own in pairs)


def main() -> int:
    """Print both tables; fails where the family is over its limit."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, images = resnet56().eval(), torch.randn(256, 3, 32, 32)
    methods: dict[str, Callable[..., Tensor]] = {**MAPPED, "activation_maximisation": activation_maximisation}
    some, short = images[:64], a_pass(network, images[:64])
    seconds(short)
    print(f"64 images, one thread, torch {torch.__version__}; a pass: {seconds(short):.2f} s\n")
    print("| method | seconds | passes |\n| --- | ---: | ---: |")
    for name, method in methods.items():
        own, ratio = measured(lambda method=method: method(network, some), short, 1)
        print(f"| {name} | {own:.1f} | {ratio:.1f} |", flush=True)
    print("\n256 images\n\n| method | passes | at most |\n| --- | ---: | ---: |")
    worst = 0.0
    for name in FAMILY:
        _, ratio = measured(lambda name=name: MAPPED[name](network, images), a_pass(network, images), 5)
        worst = max(worst, ratio)
        print(f"| {name} | {ratio:.2f} | {LIMIT:.0f} |", flush=True)
    return int(worst > LIMIT)


if __name__ == "__main__":
    raise SystemExit(main())
