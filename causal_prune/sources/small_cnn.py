"""The embedded default network: a residual CNN that learns 8x8 digits in seconds."""

from torch import Tensor, nn
from torch.nn import functional


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut: a 1x1 convolution where the shape changes.

    Args:
        channels_in: Channels of the input.
        channels_out: Channels of the output.
        stride: Step of the first convolution and of the shortcut, in pixels.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both branches, rectified.

        Args:
            x: Feature maps, shape (N, channels_in, H, W).

        Returns:
            Feature maps, shape (N, channels_out, ceil(H / stride), ceil(W / stride)).
        """
        branch = functional.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return functional.relu(branch + self.downsample(x))


class SmallResNet(nn.Module):
    """A stem, three stages of one residual block each, global average pooling and a linear head.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        width: Channels of the first stage; the second has twice, the third four times as many.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = ResidualBlock(width, width)
        self.layer2 = ResidualBlock(width, 2 * width, stride=2)
        self.layer3 = ResidualBlock(2 * width, 4 * width, stride=2)
        self.linear = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Args:
            x: Images, shape (N, in_channels, H, W), of any size from 1x1.

        Returns:
            Logits, shape (N, num_classes).
        """
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def small_resnet(num_classes: int = 10, in_channels: int = 1, width: int = 32) -> nn.Module:
    """Build the default network, untrained; its weights follow torch's global generator.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of the images.
        width: Channels of the first stage.

    Returns:
        The network, in training mode.

    Example:
        >>> import torch
        >>> small_resnet()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    return SmallResNet(num_classes, in_channels, width)
