"""The same with Lightning, where it is installed: a compressed network inside a LightningModule.

pip install lightning
python examples/lightning_loop.py
"""

import importlib.util
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

import causal_prune as cp
from causal_prune.sources import load_data, small_resnet


def trained_on(model: nn.Module, train: DataLoader[Any], epochs: int) -> nn.Module:
    """Train a network with Lightning's trainer."""
    import lightning

    class Classifier(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model.train()

        def training_step(self, batch: Any, _number: int) -> torch.Tensor:
            images, labels = batch
            return nn.functional.cross_entropy(self.net(images), labels)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(Classifier(), train)
    return model.eval()


def main(epochs: int = 10) -> None:
    """Train a small network, compress it, and train it on with Lightning."""
    if importlib.util.find_spec("lightning") is None:
        print("lightning is not installed: pip install lightning")
        return
    torch.manual_seed(0)
    data = load_data("digits")
    train = DataLoader(data.train, batch_size=64, shuffle=True)
    dense = cp.fine_tune(small_resnet(width=16), train, epochs=epochs, lr=0.1)
    small = trained_on(cp.compress(dense, data, keep_macs=0.2, evidence="none").model, train, epochs=1)
    with torch.no_grad():
        hits = [small(images).argmax(1) == labels for images, labels in DataLoader(data.test, batch_size=128)]
    print(f"after an epoch of Lightning {float(torch.cat(hits).float().mean()):.3f}")


if __name__ == "__main__":
    main()
