"""CIFAR ResNets (He et al. 2016) with parameter-free option-A shortcuts, for `--model`.

    causal-prune run --model examples/cifar_resnet.py:resnet20 --weights cifar10_resnet20.safetensors ...

The names of the layers are those of the well-known public checkpoints:
`conv1 bn1 layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2} linear`.
"""

from torch import Tensor, nn
from torch.nn import functional


class PaddedShortcut(nn.Module):
    """Option A: every second pixel of each channel, with channels of zeros before and after.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output; the difference to `channels_in` is even.
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.padding = (channels_out - channels_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the padded half-size maps.

        Args:
            x: Feature maps, shape (N, channels_in, H, W).

        Returns:
            Feature maps, shape (N, channels_out, ceil(H / 2), ceil(W / 2)).
        """
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut without parameters.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: Step of the first convolution, in pixels.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        same = stride == 1 and channels_in == channels_out
        self.shortcut: nn.Module = nn.Identity() if same else PaddedShortcut(channels_in, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches, rectified.

        Args:
            x: Feature maps, shape (N, channels_in, H, W).

        Returns:
            Feature maps, shape (N, channels_out, ceil(H / stride), ceil(W / stride)).
        """
        branch = functional.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return functional.relu(branch + self.shortcut(x))


class CifarResNet(nn.Module):
    """A stem of 16 filters, three stages of 16, 32 and 64, global average pooling and a linear head.

    Args:
        blocks: Basic blocks per stage; the network is 6 * blocks + 2 layers deep.
        num_classes: Number of logits.
    """

    def __init__(self, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, stride=1)
        self.layer2 = _stage(16, 32, blocks, stride=2)
        self.layer3 = _stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Args:
            x: Images, shape (N, 3, H, W).

        Returns:
            Logits, shape (N, num_classes).
        """
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def _stage(channels_in: int, channels_out: int, blocks: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(channels_in, channels_out, stride)
    return nn.Sequential(first, *(BasicBlock(channels_out, channels_out, 1) for _ in range(blocks - 1)))


def resnet20(num_classes: int = 10) -> nn.Module:
    """Build ResNet-20, untrained.

    Args:
        num_classes: Number of logits.

    Returns:
        The network.
    """
    return CifarResNet(3, num_classes)


def resnet56(num_classes: int = 10) -> nn.Module:
    """Build ResNet-56, untrained.

    Args:
        num_classes: Number of logits.

    Returns:
        The network.
    """
    return CifarResNet(9, num_classes)
