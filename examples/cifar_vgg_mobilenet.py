"""Half-width VGG-16-BN and MobileNetV2 for CIFAR-10: the networks, and the script that trains them.

    python examples/cifar_vgg_mobilenet.py vgg16_half cifar10.npz --epochs 12 --out cifar10_vgg16_half.safetensors

`cifar10.npz` holds train_images, train_labels, test_images and test_labels. Trained on the first 45,000 training
images; the last 5,000 are for validation; the test split is not read.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAINED_ON = 45_000


def vgg16_half(num_classes: int = 10) -> nn.Module:
    """VGG-16 with batch norm (Simonyan and Zisserman 2015), half as wide, with one linear layer, untrained.

    Args:
        num_classes: Number of logits.

    Returns:
        The network, for images of 32 x 32.
    """
    widths = (32, 32, 0, 64, 64, 0, 128, 128, 128, 0, 256, 256, 256, 0, 256, 256, 256, 0)
    layers: list[nn.Module] = []
    channels = 3
    for width in widths:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, num_classes))


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; a shortcut where the shape stays.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: Step of the depthwise convolution.
        expansion: Factor of the width inside.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = channels_in * expansion
        self.shortcut = stride == 1 and channels_in == channels_out
        self.body = nn.Sequential(
            *(_unit(channels_in, inside, 1) if expansion > 1 else []),
            *_unit(inside, inside, 3, stride=stride, groups=inside),
            nn.Conv2d(inside, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's state.

        Args:
            x: Feature maps, shape (N, channels_in, H, W).

        Returns:
            Feature maps, shape (N, channels_out, H / stride, W / stride).
        """
        out: Tensor = self.body(x)
        return x + out if self.shortcut else out


def _unit(channels_in: int, width: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(channels_in, width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU6(inplace=True)]


def mobilenet_v2_half(num_classes: int = 10) -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018), half as wide, with the first two steps of 2 left out, untrained.

    Args:
        num_classes: Number of logits.

    Returns:
        The network, for images of 32 x 32.
    """
    plan = (
        (1, 8, 1, 1),
        (6, 12, 2, 1),
        (6, 16, 3, 2),
        (6, 32, 4, 2),
        (6, 48, 3, 1),
        (6, 80, 3, 2),
        (6, 160, 1, 1),
    )
    widths = [16]
    blocks: list[nn.Module] = []
    for expansion, width, repeats, stride in plan:
        widths += [width] * repeats
        steps = [stride] + [1] * (repeats - 1)
        pairs = list(pairwise(widths))[-repeats:]
        blocks += [InvertedResidual(a, b, step, expansion) for (a, b), step in zip(pairs, steps, strict=True)]
    head = [*_unit(widths[-1], 640, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(640, num_classes)]
    return nn.Sequential(*_unit(3, 16, 3), *blocks, *head)


def train(
    network: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, rate: float, device: str
) -> None:
    """Train with random crops and mirror images, SGD with one cycle of the learning rate.

    Args:
        network: Is trained in place.
        images: Normalised images, shape (N, 3, 32, 32).
        labels: Shape (N,).
        epochs: How often each image is seen.
        rate: Highest learning rate.
        device: Where to compute.
    """
    network.to(device).train()
    optimiser = torch.optim.SGD(network.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(images) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, epochs=epochs, steps_per_epoch=steps)
    for epoch in range(epochs):
        total = 0.0
        for batch in torch.randperm(len(images)).split(128)[:steps]:
            padded = functional.pad(images[batch], (4, 4, 4, 4))
            down, right = torch.randint(9, (2,)).tolist()
            crop = padded[:, :, down : down + 32, right : right + 32]
            crop = torch.where(torch.rand(len(crop), 1, 1, 1) < 0.5, crop.flip(3), crop).to(device)
            loss = functional.cross_entropy(network(crop), labels[batch].to(device), label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1} of {epochs}: loss {total / steps:.3f}", flush=True)
    network.cpu().eval()


def main() -> None:
    """Parse, train, validate, write."""
    parser = argparse.ArgumentParser(description="Train a half-width network on CIFAR-10.")
    parser.add_argument("network", choices=("vgg16_half", "mobilenet_v2_half"))
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.manual_seed(0)
    arrays = np.load(options.data)
    centre, spread = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    images = (torch.from_numpy(arrays["train_images"]).permute(0, 3, 1, 2).float() / 255 - centre) / spread
    labels = torch.from_numpy(arrays["train_labels"]).long()
    network = {"vgg16_half": vgg16_half, "mobilenet_v2_half": mobilenet_v2_half}[options.network]()
    train(
        network, images[:TRAINED_ON], labels[:TRAINED_ON], epochs=options.epochs, rate=options.rate,
        device=options.device,
    )  # fmt: skip
    with torch.no_grad():
        guesses = torch.cat([network(part).argmax(1) for part in images[TRAINED_ON:].split(250)])
    print(f"validation accuracy {float((guesses == labels[TRAINED_ON:]).float().mean()):.2%}")
    save_file(network.state_dict(), options.out)


if __name__ == "__main__":
    main()
