"""The embedded default network."""

import torch
from torch import nn

from causal_prune.sources.small_cnn import small_resnet


def test_shapes_and_options() -> None:
    model = small_resnet(num_classes=7, in_channels=3, width=4).eval()
    assert model(torch.randn(2, 3, 9, 11)).shape == (2, 7)
    assert model.get_submodule("conv1").weight.shape == (4, 3, 3, 3)
    assert model.get_submodule("linear").in_features == 16


def test_stages_have_true_shortcuts() -> None:
    convolutions = {
        name: (module.in_channels, module.out_channels, module.stride[0])
        for name, module in small_resnet(width=8).named_modules()
        if isinstance(module, nn.Conv2d)
    }
    assert convolutions["layer2.downsample.0"] == (8, 16, 2)
    assert convolutions["layer3.downsample.0"] == (16, 32, 2)
    assert "layer1.downsample.0" not in convolutions


def test_forward_is_the_sum_of_both_branches() -> None:
    torch.manual_seed(1)
    block = small_resnet(width=8).eval().get_submodule("layer2")
    x = torch.randn(2, 8, 8, 8)
    branch = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    expected = (branch + block.downsample(x)).relu()
    assert torch.allclose(block(x), expected)
    assert expected.shape == (2, 16, 4, 4)
    assert expected.std() > 0
