"""For people who use torch-pruning: their pipeline on the digits, then the same with three lines changed.

    python examples/torch_pruning_users.py

Theirs ranks filters by their weights and leaves the rest to fine-tuning. Ours ranks them by what the layers that read
them lose, and refits these layers by least squares on images without labels. Neither trains after the cut here.
"""

import copy

import torch
import torch_pruning as tp
from torch import nn
from torch.utils.data import DataLoader

import causal_prune as cp
from causal_prune.importance import CausalImportance
from causal_prune.measure import evaluate
from causal_prune.sources import load_data, small_resnet
from causal_prune.surgery import cut_by_torch_pruning

EXAMPLE = torch.rand(1, 1, 8, 8)


def theirs(dense: nn.Module, ratio: float) -> nn.Module:
    """Torch-pruning as its README has it."""
    model = copy.deepcopy(dense)
    importance = tp.importance.GroupMagnitudeImportance(p=1)
    pruner = tp.pruner.BasePruner(
        model, EXAMPLE, importance, pruning_ratio=ratio, ignored_layers=[model.linear]
    )
    pruner.step()
    return model


def ours(dense: nn.Module, ratio: float, calibration: DataLoader[torch.Tensor]) -> nn.Module:
    """The same with our importance, and our repair behind it."""
    model = copy.deepcopy(dense)
    importance = CausalImportance(model, calibration)  # 1
    pruner = tp.pruner.BasePruner(
        model, EXAMPLE, importance, pruning_ratio=ratio, ignored_layers=[model.linear]
    )
    pruner.step()
    model = cut_by_torch_pruning(dense, model, pruner.pruning_history())  # 2
    return cp.compensate(model, dense, calibration)  # 3


def main(epochs: int = 10, ratio: float = 0.5) -> None:
    """Train a small network, prune it in both ways, and print what each is right on."""
    torch.manual_seed(0)
    data = load_data("digits")
    train = DataLoader(data.train, batch_size=64, shuffle=True)
    calibration = DataLoader(data.calibration, batch_size=128)
    dense = cp.fine_tune(small_resnet(width=16), train, epochs=epochs, lr=0.1).eval()
    cut = theirs(dense, ratio)
    networks = {
        "dense": dense,
        "theirs": cut,
        # the cheap repair, which any comparison with theirs should grant them
        "theirs, batch norm re-estimated": cp.compensate(
            cut_by_torch_pruning(dense, cut), dense, calibration, method="batchnorm"
        ),
        "ours": ours(dense, ratio, calibration),
    }
    for name, found in evaluate(networks, DataLoader(data.test, batch_size=128)).items():
        size = sum(parameter.numel() for parameter in networks[name].parameters())
        print(f"{name:32} {100 * found.value:5.1f} % of {found.total} test images, {size:,} parameters")


if __name__ == "__main__":
    main()
