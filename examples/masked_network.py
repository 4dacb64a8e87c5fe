"""A masked network in, a small network out: filters that `torch.nn.utils.prune` silenced are removed for real.

    python examples/masked_network.py

Masks make no file smaller and no network faster. The filters that they silence are constant, so that they can go
without any change of what the network computes: their constants move into the layers that read them.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

import causal_prune as cp


def masked() -> nn.Module:
    """A network with half of the filters of two layers masked, as tutorials do it.

    Returns:
        The network in eval mode.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    pairs = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=64, shuffle=True)
    net = cp.fine_tune(net, pairs, epochs=1, lr=0.05)
    for layer in (net[0], net[3]):
        prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0)
        prune.custom_from_mask(layer, "bias", layer.weight_mask.flatten(1).amax(dim=1))
    return net.eval()


def main() -> None:
    """Remove what is masked, and show that nothing changed but the size."""
    net, images = masked(), torch.rand(64, 1, 8, 8)
    graph = cp.trace(net, images[:1])
    scores = cp.score(graph, cp.observe(net, graph, [images]), method="magnitude")
    small = cp.remove(net, cp.plan(graph, scores, remove_silent=True))
    with torch.no_grad():
        apart = float((small(images) - net(images)).abs().max())
    before, after = (sum(p.numel() for p in each.parameters()) for each in (net, small))
    print(
        f"{graph.silence.count} filters are silent; {before} -> {after} parameters, outputs {apart:.0e} apart"
    )
    cp.export_onnx(small, "small.onnx", images[:1])


if __name__ == "__main__":
    main()
