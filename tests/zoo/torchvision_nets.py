"""The networks of torchvision that must be cut correctly, and two CIFAR ResNets with option-A shortcuts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models

from causal_prune.sources.models import load_model


@dataclass(frozen=True)
class Net:
    """One network.

    Attributes:
        name: As in torchvision, or as in `examples/cifar_resnet.py`.
        make: Makes it, without weights.
        example: One small image.
    """

    name: str
    make: Callable[[], nn.Module]
    example: Tensor


CLASSIFIERS = (
    "alexnet",
    "vgg11",
    "vgg16_bn",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "densenet121",
    "googlenet",
    "inception_v3",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "mnasnet0_5",
    "mnasnet1_0",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "convnext_tiny",
)
SEGMENTATION = ("fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large")
CIFAR = ("resnet20", "resnet56")
EXAMPLE = Path(__file__).parents[2] / "examples" / "cifar_resnet.py"
PIXELS = {"inception_v3": 299, "resnet20": 32, "resnet56": 32}
"""The auxiliary head of inception_v3, which runs in training, needs feature maps of 17 x 17."""


def _maker(name: str) -> Callable[[], nn.Module]:
    if name in CIFAR:
        return lambda: load_model(f"{EXAMPLE}:{name}")
    if name in ("googlenet", "inception_v3"):
        return lambda: models.get_model(
            name, weights=None, num_classes=10, aux_logits=True, init_weights=False
        )
    if name in SEGMENTATION:
        auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
        return lambda: models.get_model(name, weights=None, weights_backbone=None, num_classes=5, **auxiliary)
    return lambda: models.get_model(name, weights=None, num_classes=10)


def _net(name: str) -> Net:
    pixels = PIXELS.get(name, 64)
    shape = (1, 3, 4, 32, 32) if name == "r3d_18" else (1, 3, pixels, pixels)
    return Net(name, _maker(name), torch.randn(shape, generator=torch.Generator().manual_seed(4)))


NETS: tuple[Net, ...] = tuple(_net(name) for name in (*CLASSIFIERS, *SEGMENTATION, "r3d_18", *CIFAR))


def with_statistics(net: Net) -> Callable[[nn.Module], None]:
    """A function that gives a fresh network affine parameters and running statistics of its own.

    Args:
        net: The network, for the shape of its input.

    Returns:
        Changes its argument; to be called once.
    """

    def prepare(model: nn.Module) -> None:
        generator = torch.Generator().manual_seed(9)
        norms = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, norms) and module.weight is not None:
                    module.weight.copy_(0.7 + 0.6 * torch.rand(module.weight.shape, generator=generator))
                    module.bias.copy_(0.2 * torch.randn(module.bias.shape, generator=generator))
            for name, parameter in model.named_parameters():
                if name.endswith("layer_scale"):  # starts as 1e-6, which hides what stands behind it
                    parameter.copy_(0.2 + 0.3 * torch.rand(parameter.shape, generator=generator))
            model.train()
            for _ in range(2):
                model(torch.randn((2, *net.example.shape[1:]), generator=generator))
                for module in model.modules():
                    if isinstance(module, norms[0]):
                        module.momentum = 0.5
        for module in model.modules():
            if isinstance(module, norms[0]):
                module.momentum = 0.1

    return prepare
