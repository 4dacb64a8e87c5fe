"""Your own loop: compress a network without training it, then go on with plain PyTorch.

    python examples/plain_loop.py

`result.model` is a module like any other: its parameters ask for gradients, it is on the CPU and in eval mode.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader

import causal_prune as cp
from causal_prune.sources import load_data, small_resnet


def right(model: nn.Module, images: DataLoader[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """The share of images that a network is right about."""
    model.eval()
    with torch.no_grad():
        hits = [model(batch).argmax(1) == labels for batch, labels in images]
    return float(torch.cat(hits).float().mean())


def main(epochs: int = 10, keep: float = 0.2) -> None:
    """Train a small network, compress it, train it on, and print what it is right about."""
    torch.manual_seed(0)
    data = load_data("digits")
    train = DataLoader(data.train, batch_size=64, shuffle=True)
    test = DataLoader(data.test, batch_size=128)
    dense = cp.fine_tune(small_resnet(width=16), train, epochs=epochs, lr=0.1)

    result = cp.compress(dense, data, keep_macs=keep, evidence="none")
    model = result.model
    print(f"dense {right(dense, test):.3f}, {keep:.0%} of the MACs without training {right(model, test):.3f}")

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model.train()
    for images, labels in train:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    print(f"after an epoch of your own loop {right(model, test):.3f}")


if __name__ == "__main__":
    main()
