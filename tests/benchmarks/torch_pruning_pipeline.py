"""One ResNet-56 at torch-pruning's 2.12x, no training: its pipeline and ours; `make bench-torch-pruning`.

CIFAR-10's 10,000 test images, the public checkpoint, 2,048 training images for what needs some. Inner channels alone
are cut, as torch-pruning cannot follow this network's padded shortcuts: the layers of the streams are its
`ignored_layers`, and ours are frozen. Needs ../shared.
"""

import copy
import time
from pathlib import Path

import torch
import torch_pruning as tp
from torch import nn
from torch.utils.data import DataLoader

import causal_prune as cp
from causal_prune.importance import CausalImportance
from causal_prune.measure import count_cost, evaluate
from causal_prune.sources import load_data, load_weights
from causal_prune.surgery import cut_by_torch_pruning
from examples.cifar_resnet import resnet56

SHARED = Path(__file__).parents[3] / "shared"
EXAMPLE = torch.randn(1, 3, 32, 32)
SPEED_UP = 2.12
NORM = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def streams(model: nn.Module) -> list[str]:
    """Layers that write into a residual stream, and the output."""
    return [
        name for name, _ in model.named_modules() if name in ("conv1", "linear") or name.endswith("conv2")
    ]


def by_torch_pruning(dense: nn.Module, ratio: float, importance: object = None) -> nn.Module:
    """Torch-pruning's pipeline; L1 where no other importance is given. What it cut is recorded."""
    model = copy.deepcopy(dense)
    chosen = tp.importance.GroupMagnitudeImportance(p=1)
    if importance is not None:
        chosen = CausalImportance(model, importance)
    ignored = [model.get_submodule(name) for name in streams(model)]
    pruner = tp.pruner.BasePruner(model, EXAMPLE, chosen, pruning_ratio=ratio, ignored_layers=ignored)
    pruner.step()
    return cut_by_torch_pruning(dense, model, pruner.pruning_history())


def main() -> int:
    """Print the table."""
    if not SHARED.is_dir():
        print(f"{SHARED} is absent")
        return 0
    torch.set_num_threads(1)
    data = load_data(f"npz:{SHARED / 'data' / 'cifar10.npz'}", **NORM)
    dense = resnet56()
    load_weights(dense, SHARED / "models" / "cifar10_resnet56.safetensors")
    dense.eval()
    calibration = DataLoader(data.calibration, batch_size=128)
    for kind in ("labels", "torch-pruning"):
        start = time.perf_counter()
        graph = cp.trace(dense, EXAMPLE, dependencies=kind, freeze=streams(dense))
        print(
            f"trace with {kind}: {time.perf_counter() - start:.1f} s, {len(graph.prunable)} groups",
            flush=True,
        )
    whole = count_cost(dense, EXAMPLE).macs
    ratio = next(
        r / 64
        for r in range(20, 64)
        if whole / count_cost(by_torch_pruning(dense, r / 64), EXAMPLE).macs >= SPEED_UP
    )
    theirs, causal = by_torch_pruning(dense, ratio), by_torch_pruning(dense, ratio, calibration)
    target = count_cost(theirs, EXAMPLE).macs / whole
    graph = cp.trace(dense, EXAMPLE, freeze=streams(dense))
    scores = cp.score(graph, cp.observe(dense, graph, calibration))
    own = cp.remove(dense, cp.plan(graph, scores, keep_macs=target))
    networks = {
        "dense": dense,
        "torch-pruning, L1, as shipped": theirs,
        "torch-pruning, L1, batch norm re-estimated": cp.compensate(
            theirs, dense, calibration, method="batchnorm"
        ),
        "torch-pruning, L1, our repair": cp.compensate(theirs, dense, calibration),
        "CausalImportance, no repair": causal,
        "CausalImportance, batch norm re-estimated": cp.compensate(
            causal, dense, calibration, method="batchnorm"
        ),
        "CausalImportance, our repair": cp.compensate(causal, dense, calibration),
        "our own flow": cp.compensate(own, dense, calibration),
    }
    print("\n| network | MACs | test accuracy |\n| --- | ---: | ---: |")
    for name, found in evaluate(networks, DataLoader(data.test, batch_size=256)).items():
        speed = whole / count_cost(networks[name], EXAMPLE).macs
        print(f"| {name} | {speed:.2f}x fewer | {100 * found.value:.2f} % |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
